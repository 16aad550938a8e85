"""Files of any format to the network's pixels: bytes -> an upright RGB picture -> (3, H, W) uint8.

The only importer of PIL. Everything that can be wrong with one image is found here, before the queue, and answered
as an `ImageProblem`. The picture is resized in 8 bits by Pillow's filters, as timm and torchvision do on PIL images.
"""

import io
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Transpose

from app.errors import ImageProblem
from app.settings import ImageFormat
from models.preprocess import Plan

# Pillow's own limit would only warn, where nobody sees it; `decode` refuses by limits of ours.
Image.MAX_IMAGE_PIXELS = None

SIGNATURES: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("BMP", re.compile(rb"BM")),
    ("AVIF", re.compile(rb"....ftyp(avif|avis)", re.DOTALL)),
    ("TIFF", re.compile(rb"II\*\x00|MM\x00\*|II\+\x00|MM\x00\+")),
)
# A JPEG of several pictures (MPO, from phones) is a JPEG whose first picture counts.
OPENED_AS: dict[str, tuple[str, ...]] = {"JPEG": ("JPEG", "MPO")}

MAX_SCANS = 100
"""Scans of a progressive JPEG: files have 10 to 12, and each costs a pass over the whole picture."""

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
WHITE = (255, 255, 255, 255)

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


@dataclass(frozen=True)
class Limits:
    """What an image may be."""

    formats: tuple[ImageFormat, ...]
    max_pixels: int

    def pixels(self, image_format: str) -> int:
        """The most pixels of a format: other decoders need several times a JPEG's memory for each."""
        return self.max_pixels if image_format == "JPEG" else self.max_pixels // 2


@dataclass(frozen=True)
class Picture:
    """An opened file: upright, RGB, 8 bits."""

    image: Image.Image
    format: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.height, self.image.width


def decode(data: bytes, limits: Limits) -> Picture:
    """Open an image file of any allowed format.

    Orientation is applied, alpha laid on white, 16-bit values scaled, every mode brought to RGB; of an animation the
    first frame. Raises ImageProblem.
    """
    image_format = _recognise(data, limits)
    try:
        with Image.open(io.BytesIO(data), formats=OPENED_AS.get(image_format, (image_format,))) as image:
            _check_size(image, image_format, limits)
            if image_format == "JPEG":
                _check_scans(data)
            image.load()
            turn = UPRIGHT.get(_orientation(image))
            rgb = _to_rgb(image)
            return Picture(rgb if turn is None else rgb.transpose(turn), image_format)
    except ImageProblem:
        raise
    except MemoryError as error:
        raise ImageProblem("out_of_memory", "there was not enough memory to decode this image") from error
    except Exception as error:  # decoders raise anything on damaged files, and it all means the same
        raise ImageProblem("undecodable", f"this {image_format} file is damaged or cut short") from error


def to_network(picture: Picture, plan: Plan, interpolation: str) -> NDArray[np.uint8]:
    """Scale and cut a picture as planned: -> (3, height, width)."""
    height, width = plan.scaled
    image = picture.image
    if image.size != (width, height):
        image = image.resize((width, height), FILTERS[interpolation])
    if plan.scaled != plan.size:
        image = _cut(image, plan)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _recognise(data: bytes, limits: Limits) -> str:
    """The format that the bytes themselves declare; names and types that came with them are hints."""
    if not data:
        raise ImageProblem("empty_image", "the image has 0 bytes")
    found = next((name for name, signature in SIGNATURES if signature.match(data)), None)
    allowed = ", ".join(limits.formats)
    if found is None:
        raise ImageProblem("not_an_image", f"these bytes are no image of a known format; allowed are {allowed}")
    if found not in limits.formats:
        raise ImageProblem("format_not_allowed", f"{found} images are not allowed here; allowed are {allowed}")
    return found


def _check_size(image: Image.Image, image_format: str, limits: Limits) -> None:
    most = limits.pixels(image_format)
    if image.width * image.height > most:
        size = f"{image.width} x {image.height} pixels"
        raise ImageProblem("too_many_pixels", f"the image has {size}; {most} pixels are allowed for {image_format}")


def _check_scans(data: bytes) -> None:
    scans = data.count(b"\xff\xda")
    if scans > MAX_SCANS:
        raise ImageProblem("too_complex", f"this JPEG has {scans} scans; {MAX_SCANS} are allowed")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of a loaded image, 1 to 8; whatever cannot be read leaves the picture as it lies."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a broken EXIF block raises anything, and the pixels are sound
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bits(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey values of more than 8 bits, scaled: Pillow's own conversion clips, and turns 16-bit pictures white."""
    values = np.asarray(image).astype(np.float64)
    most = values.max(initial=0)
    full = next((full for full in (1.0, 255.0, 65535.0) if most <= full), most) if image.mode == "F" else 65535.0
    return Image.fromarray(np.rint(np.clip(values, 0, full) * (255 / full)).astype(np.uint8))


def _cut(image: Image.Image, plan: Plan) -> Image.Image:
    (top, left), (height, width) = plan.offset, plan.size
    if image.height >= height and image.width >= width:
        return image.crop((left, top, left + width, top + height))
    canvas = Image.new("RGB", (width, height), plan.fill)
    canvas.paste(image, (-left, -top))
    return canvas
