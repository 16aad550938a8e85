"""BMP (Microsoft's BITMAPCOREHEADER and BITMAPINFOHEADER)."""

import re
import struct

from app.pictures.formats.container import Declared, too_complex

SIGNATURE = re.compile(rb"BM")
CORE_HEADER_BYTES = 12
RUN_LENGTH_CODINGS = (1, 2)

MAX_RLE_BYTES = 2**20
"""Size of a run-length encoded file. Pillow decodes it in Python, and all other Python threads wait meanwhile."""


def read(data: bytes) -> Declared:
    """Return the size; a negative height means that rows are stored from the top."""
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes == CORE_HEADER_BYTES:
        width, height = struct.unpack_from("<HH", data, 18)
        return Declared(width, height)
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression in RUN_LENGTH_CODINGS and len(data) > MAX_RLE_BYTES:
        raise too_complex("BMP", f"{MAX_RLE_BYTES} bytes of run-length encoded pixels")
    return Declared(max(width, 0), abs(height))
