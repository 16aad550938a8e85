"""Images that fail, with the status and error code that each dialect reports in its own format."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image


def too_many_pixels() -> bytes:
    """A PNG that declares 20000 x 20000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + too_thin()[33:]


def too_thin() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20_000, 1)).save(file, "PNG")
    return file.getvalue()


def cut_short() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "JPEG")
    return file.getvalue()[:700]


def tiff() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "TIFF")
    return file.getvalue()


@dataclass(frozen=True)
class BadImage:
    make: Callable[[], bytes]
    status: int
    code: str


BAD_IMAGES = {
    "empty": BadImage(lambda: b"", 400, "empty_image"),
    "no image": BadImage(lambda: b"hello", 415, "not_an_image"),
    "tiff": BadImage(tiff, 415, "format_not_allowed"),
    "cut short": BadImage(cut_short, 422, "undecodable"),
    "too many pixels": BadImage(too_many_pixels, 422, "too_many_pixels"),
    "too thin": BadImage(too_thin, 422, "crop_too_large"),
}
