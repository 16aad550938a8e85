"""WebP (RFC 9649)."""

import re
import struct

from app.pictures.formats.container import Declared

SIGNATURE = re.compile(rb"RIFF....WEBP", re.DOTALL)


def read(data: bytes) -> Declared:
    """Return the size of the canvas, or of the only frame of a simple file."""
    kind = data[12:16]
    if kind == b"VP8X":
        return Declared(1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Declared(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Declared(width & 0x3FFF, height & 0x3FFF)
    return Declared(0, 0)
