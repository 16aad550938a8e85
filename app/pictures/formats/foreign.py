"""Name what people send in the place of an image that the service reads, so that the error can say what it is."""

import re
from collections.abc import Callable

HEAD_BYTES = 1024
"""How much of a file is looked at."""

SIGNATURES: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("a PDF document", re.compile(rb".{0,1000}?%PDF-", re.DOTALL)),
    ("a JPEG XL image", re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n")),
    ("a JPEG 2000 image", re.compile(rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51")),
    ("a Photoshop document (PSD)", re.compile(rb"8BPS\x00[\x01\x02]")),
    ("an icon (ICO)", re.compile(rb"\x00\x00\x01\x00[^\x00]\x00.{3}\x00", re.DOTALL)),
    ("a cursor (CUR)", re.compile(rb"\x00\x00\x02\x00[^\x00]\x00.{3}\x00", re.DOTALL)),
    ("an icon of macOS (ICNS)", re.compile(rb"icns")),
    ("a zip archive", re.compile(rb"PK(\x03\x04|\x05\x06|\x07\x08)")),
    ("gzip data", re.compile(rb"\x1f\x8b\x08")),
    ("zstd data", re.compile(rb"\x28\xb5\x2f\xfd")),
    ("a 7-Zip archive", re.compile(rb"7z\xbc\xaf\x27\x1c")),
    ("a RAR archive", re.compile(rb"Rar!\x1a\x07")),
    ("PostScript", re.compile(rb"%!PS|\xc5\xd0\xd3\xc6")),
    ("an OpenEXR image", re.compile(rb"v/1\x01")),
    ("a Radiance image (HDR)", re.compile(rb"#\?(RADIANCE|RGBE)")),
    ("a DDS texture", re.compile(rb"DDS \x7c\x00\x00\x00")),
    ("a QOI image", re.compile(rb"qoif")),
    ("a GIMP document (XCF)", re.compile(rb"gimp xcf")),
    ("a Netpbm image", re.compile(rb"P[1-7]\s")),
    ("a DICOM file", re.compile(rb".{128}DICM", re.DOTALL)),
    ("a NumPy array", re.compile(rb"\x93NUMPY")),
    ("a Windows metafile", re.compile(rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF", re.DOTALL)),
    ("a video", re.compile(rb".{4}ftyp|\x1a\x45\xdf\xa3|RIFF.{4}AVI ", re.DOTALL)),
    ("a pointer of Git LFS, not the file itself", re.compile(rb"version https://git-lfs")),
    (
        "a PNG whose line breaks were changed; send the file in binary (curl --data-binary)",
        re.compile(rb"\x89PNG\n?\x1a"),
    ),
)

MARKUP = re.compile(rb"(\xef\xbb\xbf)?\s*<")
SVG = re.compile(rb"<svg[\s>]", re.IGNORECASE)
HTML = re.compile(rb"<(!doctype\s+html|html|head|body)[\s>]", re.IGNORECASE)

TGA_FOOTER = b"TRUEVISION-XFILE.\0"


def _is_tga(data: bytes) -> bool:
    """Return whether the fields of a header that has no signature are all possible."""
    if data.endswith(TGA_FOOTER):
        return True
    if len(data) < 18 or data[1] > 1 or data[2] not in (1, 2, 3, 9, 10, 11) or data[16] not in (8, 15, 16, 24, 32):
        return False
    has_colours, width, height = data[1], data[12] | data[13] << 8, data[14] | data[15] << 8
    return bool(width and height and (has_colours or not any(data[3:8])) and not data[17] & 0xC0)


def _markup(data: bytes) -> str | None:
    if not MARKUP.match(data):
        return None
    if SVG.search(data, 0, HEAD_BYTES) and not HTML.search(data, 0, HEAD_BYTES):
        return "an SVG drawing, which has no pixels"
    return "HTML, often the page of an error" if HTML.search(data, 0, HEAD_BYTES) else "XML"


def _signature(data: bytes) -> str | None:
    return next((name for name, pattern in SIGNATURES if pattern.match(data[:HEAD_BYTES])), None)


def _tga(data: bytes) -> str | None:
    return "a TGA image" if _is_tga(data) else None


RECOGNISERS: tuple[Callable[[bytes], str | None], ...] = (_signature, _markup, _tga)


def foreign_name(data: bytes) -> str | None:
    """Return what a file is that is of no format of the table; None if that is unknown."""
    return next((name for recognise in RECOGNISERS if (name := recognise(data))), None)
