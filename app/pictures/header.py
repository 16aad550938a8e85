"""Check an image file by its own header, before a decoder sees it: its format, its size and what decoding it costs.

In: bytes. Out: a `Header`, or an ImageProblem. No memory is allocated by what a file only claims, and every loop over
its parts is bounded, so that a refusal costs microseconds. The modules of `formats/` know the containers; this module
knows the limits.
"""

import struct
from dataclasses import dataclass

from app.errors import ImageProblem
from app.pictures.formats.container import damaged
from app.pictures.formats.foreign import foreign_name
from app.pictures.formats.table import FORMATS
from app.settings import ImageFormat

MAX_SIDE = 65_535
"""Pixels per side. A JPEG cannot have more, and no camera or scanner has."""


@dataclass(frozen=True)
class Limits:
    """Which images are accepted.

    formats: the accepted container formats.
    max_pixels: the largest number of pixels of a JPEG; see `max_pixels_of` for other formats.
    missing: formats whose decoder is not installed.
    """

    formats: tuple[ImageFormat, ...]
    max_pixels: int
    missing: tuple[ImageFormat, ...] = ()

    @property
    def readable(self) -> tuple[ImageFormat, ...]:
        """The accepted formats that can be decoded here."""
        return tuple(name for name in self.formats if name not in self.missing)

    def max_pixels_of(self, image_format: ImageFormat) -> int:
        """Return the largest number of pixels that an image of this format may have."""
        return self.max_pixels // FORMATS[image_format].pixel_divisor


@dataclass(frozen=True)
class Header:
    """What a file declares.

    width, height: in pixels, as stored; 0 x 0 if only the decoder can find them.
    decode_bytes: the peak memory of decoding the file.
    """

    format: ImageFormat
    width: int
    height: int
    decode_bytes: int


def read_header(data: bytes, limits: Limits) -> Header:
    """Recognise a file by its bytes alone and check its declared size. Raises ImageProblem."""
    image_format = _recognise(data, limits)
    container = FORMATS[image_format]
    if container.read is None:
        return Header(image_format, 0, 0, limits.max_pixels_of(image_format) * container.bytes_per_pixel)
    try:
        declared = container.read(data)
    except (IndexError, ValueError, struct.error) as error:  # a field that the format requires is missing
        raise damaged(image_format) from error
    width, height = declared.width, declared.height
    check_size(width, height, image_format, limits)
    bytes_per_pixel = container.bytes_per_pixel + declared.extra_bytes_per_pixel
    return Header(image_format, width, height, width * height * bytes_per_pixel)


def check_size(width: int, height: int, image_format: ImageFormat, limits: Limits) -> None:
    """Refuse an image that has no pixels, too many pixels, or too long a side. Raises ImageProblem."""
    size, max_pixels = f"the image has {width} x {height} pixels", limits.max_pixels_of(image_format)
    if not (width and height):
        raise damaged(image_format)
    if width * height > max_pixels:
        raise ImageProblem("too_many_pixels", f"{size}; at most {max_pixels} pixels are allowed for {image_format}")
    if max(width, height) > MAX_SIDE:
        raise ImageProblem("too_many_pixels", f"{size}; at most {MAX_SIDE} pixels per side are allowed")


def _recognise(data: bytes, limits: Limits) -> ImageFormat:
    """Return the format that the bytes show. File names and media types are ignored: they are only hints."""
    if not data:
        raise ImageProblem("empty_image", "the image has 0 bytes")
    image_format = next((name for name, container in FORMATS.items() if container.matches(data)), None)
    allowed = f"allowed formats are {', '.join(limits.readable)}"
    if image_format is None:
        name = foreign_name(data)
        what = f"this is {name}" if name else "these bytes are not an image in a known format"
        raise ImageProblem("not_an_image", f"{what}; {allowed}")
    if image_format not in limits.formats:
        raise ImageProblem("format_not_allowed", f"{image_format} images are not accepted; {allowed}")
    return image_format
