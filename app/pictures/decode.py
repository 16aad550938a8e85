"""Turn an uploaded file into the network's pixels: bytes -> upright RGB image -> (3, H, W) uint8.

`decode` opens the file, `to_network` resizes and crops. Everything that can be wrong with one image is found before the
queue, and raised as an `ImageProblem`. Images are resized in 8 bits by Pillow's filters, as in timm and torchvision.
torch computes two of them with vector instructions, in a sixth of the time and to within 2 of 255.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

# Import each plugin by name: if the plugin of a format is missing, Pillow imports all plugins that it has.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)
from PIL.Image import DecompressionBombError

from app.errors import ImageProblem, Problem
from app.pictures.formats.container import ContainerFormat, damaged
from app.pictures.formats.jpeg_scan import WatchedScan
from app.pictures.formats.png import bit_depth
from app.pictures.formats.table import FORMATS
from app.pictures.header import Header, Limits, check_size, read_header
from app.pictures.modes import Samples, to_rgb
from app.pictures.orientation import turn_of, turned
from app.pictures.tiff import read_samples
from app.settings import Colour, ImageFormat
from models.preprocess import Plan, Size

try:
    import pillow_heif
except ImportError:
    pillow_heif = None
    MISSING: tuple[ImageFormat, ...] = ("HEIC",)
else:
    MISSING = ()
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)

__all__ = ["MISSING", "Limits", "Picture", "decode", "limit_pillow", "to_network"]

warnings.filterwarnings("ignore", module=r"PIL\.")  # about broken metadata, which this service does not use
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # images are decoded in parallel already

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}

VECTORISED = torch.backends.cpu.get_cpu_capability().startswith("AVX")
"""Whether torch resizes 8-bit images with vector instructions here; without them it is slower than Pillow."""

BY_TORCH = {"bilinear", "bicubic"}
"""The filters that torch has with the support and the weights of Pillow's."""

BY_TORCH_PIXELS = 2**21
"""The most pixels of an image that torch resizes: it takes copies of it, and the memory budget allows for few."""

MinimumSize = Callable[[Size], Size]
"""From the size of an upright image to the smallest size that it may be decoded at, each (height, width)."""


@dataclass(frozen=True)
class Picture:
    """A decoded image: upright, RGB, 8 bits.

    size: height and width of the upright image in its file; `image` may be decoded at a reduced scale.
    """

    image: Image.Image
    format: str
    size: Size


def limit_pillow(limits: Limits) -> None:
    """Have Pillow refuse images of more than twice `max_pixels`, in case a file deceives `read_header`."""
    Image.MAX_IMAGE_PIXELS = limits.max_pixels


def decode(data: bytes, limits: Limits, minimum: MinimumSize | None = None, colour: Colour = "original") -> Picture:
    """Decode an image file of any accepted format.

    Applies the EXIF orientation, composites transparency over white, scales 16-bit values and converts every mode to
    RGB. An animation is decoded to its first frame. Raises ImageProblem, or Problem if the server runs out of memory.

    Args:
        data: the file.
        limits: which images are accepted.
        minimum: the smallest size that is large enough. A JPEG is then decoded at the smallest scale of 1/2, 1/4 or 1/8
            that is not below it, for a fraction of the work. None decodes every pixel.
        colour: `srgb` converts colours to sRGB by the ICC profile that the file embeds; `original` ignores it.
    """
    header = read_header(data, limits)
    if header.format == "HEIC" and pillow_heif is None:
        detail = "HEIC images need the optional extra 'heic' on the server (pip install 'vitrine[heic]')"
        raise ImageProblem("format_not_allowed", detail)
    try:
        return _decode(data, header, limits, minimum, colour)
    except Problem:
        raise
    except MemoryError as error:
        raise Problem("out_of_memory", "not enough memory to decode an image", {"Retry-After": "1"}) from error
    except DecompressionBombError as error:
        detail = f"the image has more pixels than its header declares; at most {limits.max_pixels_of(header.format)}"
        raise ImageProblem("too_many_pixels", f"{detail} are allowed") from error
    except Exception as error:  # decoders raise anything on damaged files, and it all means the same
        raise damaged(header.format) from error


def to_network(picture: Picture, plan: Plan, interpolation: str, *, fast: bool = False) -> NDArray[np.uint8]:
    """Resize and crop an image as planned, to pixels (3, height, width).

    Values are those of Pillow's filter or, if `fast`, within 2 of them.
    """
    resized = _resized(picture.image, plan.scaled, interpolation, fast)
    pixels = resized if plan.scaled == plan.size else _crop(resized, plan)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _resized(image: Image.Image, size: Size, interpolation: str, fast: bool) -> NDArray[np.uint8]:
    """Resize an image to `size` (height, width), as (height, width, 3).

    torch's weights have 15 bits or fewer where Pillow's have 22: of a photograph 1 value in 400 is another one, by 1.
    Both make two passes, and clamp the values between them, so that their order counts: torch resizes rows first, and
    Pillow from version 13 on columns first where the height loses more than twice of what the width does
    (`ImagingResampleInner` in its Resample.c).
    """
    height, width = size
    if image.size == (width, height):
        return np.asarray(image)
    small = image.width * image.height <= BY_TORCH_PIXELS
    rows_first = image.height - height <= max(0, 2 * (image.width - width))
    if fast and VECTORISED and interpolation in BY_TORCH and small and rows_first:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # (1, 3, rows, columns), channels last
        return F.interpolate(pixels, size, mode=interpolation, antialias=True)[0].permute(1, 2, 0).numpy()
    return np.asarray(image.resize((width, height), FILTERS[interpolation]))


def _decode(data: bytes, header: Header, limits: Limits, minimum: MinimumSize | None, colour: Colour) -> Picture:
    container = FORMATS[header.format]
    file = container.source(data)
    with Image.open(file, formats=container.opened_as) as image:
        check_size(image.width, image.height, header.format, limits)
        stored = image.height, image.width
        samples = _samples_of_png(image, data) if header.format == "PNG" else read_samples(image)
        if minimum is not None and container.scales_down:
            _scale_down(image, minimum)
        if header.format == "JPEG":
            # In one piece, which is not copied then: the decoder waits for Python's lock after each.
            image.decodermaxblock = len(data) + len(WatchedScan.PADDING)
        if isinstance(file, WatchedScan):
            file.watch(lambda: image.im.getpixel((image.width - 1, image.height - 1)))
        image.load()  # once: after a load that failed, a second one may succeed with a partly empty image
        if isinstance(file, WatchedScan) and not file.complete():
            raise damaged(header.format)
        turn = turn_of(image)
        rgb = to_rgb(image, samples, _profile(image, data, container) if colour == "srgb" else None)
        return Picture(rgb if turn is None else rgb.transpose(turn), header.format, turned(stored, turn))


def _samples_of_png(image: Image.Image, data: bytes) -> Samples:
    bits = bit_depth(data)
    if bits < 16 or image.mode != "RGB" or "transparency" not in image.info:
        return Samples(bits=bits)
    with Image.open(FORMATS["PNG"].source(data), formats=("PNG",)) as again:
        # The decoder takes each sample for a little-endian one, and so keeps its lower byte.
        again.tile = [type(tile)(tile.codec_name, tile.extents, tile.offset, "RGB;16L") for tile in again.tile]
        again.load()
        return Samples(bits=bits, lower=again)


def _profile(image: Image.Image, data: bytes, container: ContainerFormat) -> bytes | None:
    """Return the ICC profile that a file embeds; None if it has none."""
    profile = container.profile(data) if container.profile else image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) else None


def _scale_down(image: Image.Image, minimum: MinimumSize) -> None:
    """Have the decoder decode a JPEG at a reduced scale, which its frequency coefficients give almost for free.

    Pillow has to know the scale before it loads the file, for the sides as they are stored.
    """
    turn = turn_of(image)
    height, width = turned(minimum(turned((image.height, image.width), turn)), turn)
    image.draft(None, (width, height))


def _crop(pixels: NDArray[np.uint8], plan: Plan) -> NDArray[np.uint8]:
    """Cut the planned window out of pixels (rows, columns, 3); fill the part of the window outside the image."""
    (top, left), (height, width) = plan.offset, plan.size
    rows, columns = slice(max(0, top), top + height), slice(max(0, left), left + width)
    inside = pixels[rows, columns]
    if inside.shape[:2] == (height, width):
        return inside
    canvas = np.full((height, width, 3), plan.fill, np.uint8)
    canvas[max(0, -top) :, max(0, -left) :][: inside.shape[0], : inside.shape[1]] = inside
    return canvas
