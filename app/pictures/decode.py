"""Files of any format to the network's pixels: bytes -> an upright RGB picture -> (3, H, W) uint8.

The only importer of PIL. Everything that can be wrong with one image is found here, before the queue, and answered
as an `ImageProblem`. The picture is resized in 8 bits by Pillow's filters, as timm and torchvision do on PIL images.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Pillow imports every plugin that it has when it is asked for a format whose plugin is not there yet.
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
from PIL.Image import DecompressionBombError, Transpose

from app.errors import ImageProblem, Problem
from app.pictures.header import Header, Limits, check_size, damaged, jpeg_scan_end, png_picture, read_header
from models.preprocess import Plan, Size

try:
    import pillow_heif
except ImportError:
    pillow_heif = None
else:
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)

__all__ = ["Limits", "Picture", "decode", "limit_pillow", "read_header", "to_network", "to_png"]

warnings.filterwarnings("ignore", module=r"PIL\.")  # of broken metadata, which nobody here reads
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # images are decoded side by side already

# A JPEG of several pictures (MPO, from phones) is a JPEG whose first picture counts.
OPENED_AS: dict[str, tuple[str, ...]] = {"JPEG": ("JPEG", "MPO"), "HEIC": ("HEIF",)}

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
WHITE = (255, 255, 255, 255)
SCALED_16_BITS = np.rint(np.arange(65536) / 257).astype(np.uint8)

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held (CIPA DC-008, 4.6.4)."""

UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
SIDEWAYS = {Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90}

Enough = Callable[[Size], Size]
"""The upright size of a picture -> the size from which on it is large enough, each (height, width)."""


@dataclass(frozen=True)
class Picture:
    """An opened file: upright, RGB, 8 bits.

    size: height and width of the upright picture as the file has it; `image` may be decoded at a reduced scale.
    """

    image: Image.Image
    format: str
    size: Size


def limit_pillow(limits: Limits) -> None:
    """Have Pillow refuse by itself what is twice too large, should a file deceive the reading of its header."""
    Image.MAX_IMAGE_PIXELS = limits.max_pixels


def decode(data: bytes, limits: Limits, enough: Enough | None = None) -> Picture:
    """Open an image file of any allowed format.

    Orientation is applied, alpha laid on white, 16-bit values scaled, every mode brought to RGB; of an animation the
    first frame. Raises ImageProblem, or Problem where it is us who lack the memory.

    Args:
        data: the file.
        limits: what is opened.
        enough: told the upright size, says from which size on the picture is large enough. A JPEG is then decoded at
            the smallest scale of 1/2, 1/4 or 1/8 that is, for a fraction of the work; None decodes every pixel.
    """
    header = read_header(data, limits)
    if header.format == "HEIC" and pillow_heif is None:
        detail = "HEIC images need the optional extra 'heic' on the server (pip install 'vitrine[heic]')"
        raise ImageProblem("format_not_allowed", detail)
    try:
        return _decode(data, header, limits, enough)
    except Problem:
        raise
    except MemoryError as error:
        raise Problem(
            "out_of_memory", "there was not enough memory to decode an image", {"Retry-After": "1"}
        ) from error
    except DecompressionBombError as error:
        detail = f"the image has more pixels than it declares, and than the {limits.pixels(header.format)} allowed"
        raise ImageProblem("too_many_pixels", detail) from error
    except Exception as error:  # decoders raise anything on damaged files, and it all means the same
        raise damaged(header.format) from error


def to_network(picture: Picture, plan: Plan, interpolation: str) -> NDArray[np.uint8]:
    """Scale and cut a picture as planned: -> (3, height, width)."""
    height, width = plan.scaled
    image = picture.image
    if image.size != (width, height):
        image = image.resize((width, height), FILTERS[interpolation])
    if plan.scaled != plan.size:
        image = _cut(image, plan)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def to_png(pixels: NDArray[np.uint8], least: int = 1, *, smooth: bool = True) -> bytes:
    """(3, height, width) -> a PNG file, enlarged by a whole number until its shorter side has the least length."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    times = -(-least // min(image.size))
    if times > 1:
        image = image.resize((image.width * times, image.height * times), FILTERS["bicubic" if smooth else "nearest"])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _decode(data: bytes, header: Header, limits: Limits, enough: Enough | None) -> Picture:
    file: io.BytesIO
    if header.format == "JPEG" and (end := jpeg_scan_end(data)) is not None:
        file = _WatchedScan(data, end)
    else:
        file = io.BytesIO(png_picture(data) if header.format == "PNG" else data)
    with Image.open(file, formats=OPENED_AS.get(header.format, (header.format,))) as image:
        check_size(image.width, image.height, header.format, limits)
        width, height = image.size
        if enough is not None and header.format == "JPEG":
            _reduce(image, enough)
        if isinstance(file, _WatchedScan):
            file.watch(image)
        image.load()  # once: after a failed one a second may succeed, with a picture that is partly empty
        if isinstance(file, _WatchedScan) and not file.complete():
            raise damaged(header.format)
        turn = UPRIGHT.get(_orientation(image))
        rgb = _to_rgb(image)
        size = (width, height) if turn in SIDEWAYS else (height, width)
        return Picture(rgb if turn is None else rgb.transpose(turn), header.format, size)


def _reduce(image: Image.Image, enough: Enough) -> None:
    """Have a JPEG decoded at a scale that is still large enough; its frequencies give it for free.

    It has to be told before the file is loaded, and in the sides that the file has.
    """
    width, height = image.size
    if UPRIGHT.get(_orientation(image)) in SIDEWAYS:
        least_width, least_height = enough((width, height))
    else:
        least_height, least_width = enough((height, width))
    image.draft(None, (least_width, least_height))


class _WatchedScan(io.BytesIO):
    """A JPEG of one scan that notices whether its last pixel comes out of the scan's own data.

    libjpeg fills what is missing of a picture with grey as soon as it meets the marker behind the data, and Pillow
    drops its warning. So the marker is held back until everything before it has been decoded: a last pixel that
    changes only then was made up.
    """

    PADDING = bytes(8)
    """libjpeg asks for the next 64 bits before it decodes the last ones."""

    def __init__(self, data: bytes, scan_end: int) -> None:
        super().__init__(data[:scan_end] + self.PADDING)
        self._rest = data[scan_end:] or b"\xff\xd9"
        self._last_pixel: Callable[[], object] = lambda: None
        self._before: object = None

    def watch(self, image: Image.Image) -> None:
        """To be told of the image before it is loaded."""
        self._last_pixel = lambda: image.im.getpixel((image.width - 1, image.height - 1))

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes; what lies behind the scan only when all before it has been taken."""
        chunk = super().read(size)
        if chunk or not size or not self._rest:
            return chunk
        self._before = self._last_pixel()
        rest, self._rest = self._rest, b""
        return rest

    def complete(self) -> bool:
        """After the image was loaded: whether the scan held all of it."""
        return bool(self._rest) or self._before == self._last_pixel()


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 to 8; whatever cannot be read leaves the picture as it lies.

    A PNG has to be loaded before: reading its EXIF block would load it, and hide what that says.
    """
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # noqa: BLE001 - a broken EXIF block raises anything, and the pixels are sound
        return 1
    return orientation if isinstance(orientation, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bits(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey values of more than 8 bits, scaled: Pillow's own conversion clips, and turns 16-bit pictures white."""
    values = np.asarray(image)
    if image.mode != "F":
        return Image.fromarray(SCALED_16_BITS[np.clip(values, 0, 65535).astype(np.uint16, copy=False)])
    most = float(np.nan_to_num(values.max(initial=0), posinf=1.0))
    full = next((full for full in (1.0, 255.0, 65535.0) if most <= full), most)
    return Image.fromarray(np.rint(np.clip(np.nan_to_num(values), 0, full) * (255 / full)).astype(np.uint8))


def _cut(image: Image.Image, plan: Plan) -> Image.Image:
    (top, left), (height, width) = plan.offset, plan.size
    if image.height >= height and image.width >= width:
        return image.crop((left, top, left + width, top + height))
    canvas = Image.new("RGB", (width, height), plan.fill)
    canvas.paste(image, (-left, -top))
    return canvas
