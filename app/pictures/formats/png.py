"""PNG (W3C PNG specification, third edition)."""

import io
import re
import struct
from collections.abc import Iterator

from app.pictures.formats.container import MAX_PARTS, Declared, damaged, too_complex

SIGNATURE = re.compile(rb"\x89PNG\r\n\x1a\n")
SIGNATURE_BYTES = 8
CHUNK_OVERHEAD_BYTES = 12
"""The length, type and checksum of a chunk."""

IMAGE_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"}
TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt"}
ORIENTATION_TEXTS = {b"Raw profile type exif", b"Raw profile type APP1", b"XML:com.adobe.xmp"}


def read(data: bytes) -> Declared:
    """Return the size that the first chunk declares."""
    kind, width, height = struct.unpack_from(">4sII", data, 12)
    return Declared(width, height) if kind == b"IHDR" else Declared(0, 0)


def open_png(data: bytes) -> io.BytesIO:
    """Return a file for the decoder that holds the image alone. Raises ImageProblem."""
    return io.BytesIO(_without_ancillary_chunks(data))


def _without_ancillary_chunks(data: bytes) -> bytes:
    """Drop texts, profiles and later frames: a decoder would inflate them, to any size.

    Texts that may hold the orientation stay, the first of each name. Raises ImageProblem.
    """
    # `kept` holds the chunks before the last dropped one; `start` is where the chunks after it begin.
    kept, start, unchanged = [data[:SIGNATURE_BYTES]], SIGNATURE_BYTES, True
    texts: set[bytes] = set()
    for kind, begin, end in _chunks(data):
        text = data[begin + 8 : begin + 96].partition(b"\0")[0] if kind in TEXT_CHUNKS else b""
        if kind in IMAGE_CHUNKS or (text in ORIENTATION_TEXTS and text not in texts):
            texts.add(text)
            if kind == b"IEND":
                return data if unchanged else b"".join([*kept, data[start:end]])
            continue
        kept.append(data[start:begin])
        start, unchanged = end, False
    raise damaged("PNG")  # IEND is missing


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, start and end of each complete chunk."""
    at = SIGNATURE_BYTES
    for _ in range(MAX_PARTS):
        if at + CHUNK_OVERHEAD_BYTES > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + CHUNK_OVERHEAD_BYTES + length
        if end > len(data):
            return
        yield kind, at, end
        at = end
    raise too_complex("PNG", f"{MAX_PARTS} chunks")
