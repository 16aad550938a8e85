"""PNG (W3C PNG specification, third edition)."""

import io
import re
import struct
import zlib
from collections.abc import Iterator

from app.pictures.formats.container import MAX_PARTS, MAX_PROFILE_BYTES, Declared, damaged, too_complex

SIGNATURE = re.compile(rb"\x89PNG\r\n\x1a\n")
SIGNATURE_BYTES = 8
CHUNK_OVERHEAD_BYTES = 12
"""The length, type and checksum of a chunk."""

RGB = 2
LOWER_BYTES_PER_PIXEL = 8
"""Extra memory for RGB of 16 bits: a transparent colour is compared with the lower bytes too."""

IMAGE_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"}
TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt"}
ORIENTATION_TEXTS = {b"Raw profile type exif", b"Raw profile type APP1", b"XML:com.adobe.xmp"}

MAX_TEXT_BYTES = 2**20
"""Size of a text that may hold the orientation, inflated. Pillow refuses an image with a larger one."""


def read(data: bytes) -> Declared:
    """Return the size that the first chunk declares."""
    kind, width, height, bits, colour = struct.unpack_from(">4sIIBB", data, 12)
    extra = LOWER_BYTES_PER_PIXEL if (bits, colour) == (16, RGB) else 0
    return Declared(width, height, extra) if kind == b"IHDR" else Declared(0, 0)


def bit_depth(data: bytes) -> int:
    """Return the bits of a sample, from the first chunk."""
    return data[24]


def profile(data: bytes) -> bytes | None:
    """Return the ICC profile; None if there is none, or if it is damaged or larger than MAX_PROFILE_BYTES."""
    for kind, begin, end in _chunks(data):
        if kind == b"iCCP":
            _, _, rest = data[begin + 8 : end - 4].partition(b"\0")
            return _inflated(rest[1:], MAX_PROFILE_BYTES) if rest[:1] == b"\0" else None
        if kind == b"IDAT":
            break
    return None


def open_png(data: bytes) -> io.BytesIO:
    """Return a file for the decoder that holds the image alone. Raises ImageProblem."""
    return io.BytesIO(_without_ancillary_chunks(data))


def _without_ancillary_chunks(data: bytes) -> bytes:
    """Drop texts, profiles and later frames: a decoder would inflate them, to any size.

    Texts that may hold the orientation stay, the first of each name, up to MAX_TEXT_BYTES. Raises ImageProblem.
    """
    # `kept` holds the chunks before the last dropped one; `start` is where the chunks after it begin.
    kept, start, unchanged = [data[:SIGNATURE_BYTES]], SIGNATURE_BYTES, True
    texts: set[bytes] = set()
    for kind, begin, end in _chunks(data):
        text = data[begin + 8 : begin + 96].partition(b"\0")[0] if kind in TEXT_CHUNKS else b""
        orients = text in ORIENTATION_TEXTS and text not in texts and _is_short(kind, data[begin + 8 : end - 4])
        if kind in IMAGE_CHUNKS or orients:
            texts.add(text)
            if kind == b"IEND":
                return data if unchanged else b"".join([*kept, data[start:end]])
            continue
        kept.append(data[start:begin])
        start, unchanged = end, False
    raise damaged("PNG")  # IEND is missing


def _is_short(kind: bytes, content: bytes) -> bool:
    """Tell whether the text of a chunk has at most MAX_TEXT_BYTES when it is inflated, and can be inflated."""
    if len(content) > MAX_TEXT_BYTES:
        return False
    _, _, rest = content.partition(b"\0")
    if kind == b"zTXt":
        return rest[:1] == b"\0" and _inflated(rest[1:], MAX_TEXT_BYTES) is not None
    if kind == b"iTXt" and rest[:1] != b"\0":
        return rest[1:2] == b"\0" and _inflated(rest[2:].split(b"\0", 2)[-1], MAX_TEXT_BYTES) is not None
    return True


def _inflated(data: bytes, limit: int) -> bytes | None:
    """Return what zlib compressed; None if it is damaged or longer than the limit."""
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(data, limit)
    except zlib.error:
        return None
    return inflated if inflater.eof else None


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
