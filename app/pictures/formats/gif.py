"""GIF (GIF89a specification, 1990)."""

import re
import struct

from app.pictures.formats.container import MAX_PARTS, Declared, too_complex

SIGNATURE = re.compile(rb"GIF8[79]a")
EXTENSION, IMAGE_DESCRIPTOR = 0x21, 0x2C


def read(data: bytes) -> Declared:
    """Return the size of the logical screen, extended to hold the first frame."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _colour_table_bytes(flags)
    for _ in range(MAX_PARTS):
        if data[at] == IMAGE_DESCRIPTOR:
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
            return Declared(max(width, left + frame_width), max(height, top + frame_height))
        if data[at] != EXTENSION:
            return Declared(0, 0)
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    raise too_complex("GIF", f"{MAX_PARTS} blocks before its first frame")


def _colour_table_bytes(flags: int) -> int:
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0
