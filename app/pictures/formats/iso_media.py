"""AVIF and HEIC (ISO/IEC 23008-12), which share a container (ISO/IEC 14496-12)."""

import re

from app.pictures.formats.container import Declared

FILE_TYPE_BOX = re.compile(rb"....ftyp", re.DOTALL)
AVIF_BRANDS = {b"avif", b"avis"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

MAX_BRAND_BYTES = 256
"""How much of the file type box is searched for brands."""

# The size of an image item or of one of its tiles, and the entry of a track, which an image sequence may have instead.
EXTENT = re.compile(rb"ispe\0{4}(....)(....)", re.DOTALL)
TRACK = re.compile(rb"stsd.{12}(?:av01|hvc1|hev1).{24}(..)(..)", re.DOTALL)


def is_avif(data: bytes) -> bool:
    """Tell whether the file names a brand of AVIF."""
    return bool(_brands(data) & AVIF_BRANDS)


def is_heic(data: bytes) -> bool:
    """Tell whether the file names a brand of HEIC; an AVIF file may name one too."""
    return bool(_brands(data) & HEIC_BRANDS)


def read(data: bytes) -> Declared:
    """Return the largest size that the file declares: no tile, thumbnail or track may be larger."""
    extents = [match.groups() for pattern in (EXTENT, TRACK) for match in pattern.finditer(data)]
    sizes = [Declared(int.from_bytes(width, "big"), int.from_bytes(height, "big")) for width, height in extents]
    return max(sizes, key=lambda size: size.width * size.height, default=Declared(0, 0))


def _brands(data: bytes) -> set[bytes]:
    """The major brand and the compatible brands; empty if the file is not in this container."""
    if not FILE_TYPE_BOX.match(data):
        return set()
    end = min(int.from_bytes(data[:4], "big"), MAX_BRAND_BYTES)
    return {data[8:12]} | {data[at : at + 4] for at in range(16, end, 4)}
