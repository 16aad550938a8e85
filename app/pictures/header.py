"""What an image file says of itself, read from its bytes before any decoder sees them: its format, size and cost.

In: bytes. Out: a `Header`, or an ImageProblem. Nothing here allocates what a file merely claims, and every walk is
bounded, so that a refusal costs microseconds. Knows the containers only; the pixels are `images.py`'s.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.errors import ImageProblem
from app.settings import ImageFormat

MAX_SIDE = 65_535
"""Pixels of one side; a JPEG cannot have more, and no camera or scanner has."""

MAX_SCANS = 100
"""Scans of a JPEG: files have 10 to 12, and each costs a pass over the whole picture.
("Two issues with the JPEG standard", libjpeg-turbo and Mozilla, 2016)"""

MAX_PARTS = 16_384
"""Segments, chunks or blocks that are looked at in one file: a PNG of 64 MiB in chunks of 4 KiB has so many."""

MAX_RLE_BYTES = 2**20
"""Of a run-length coded BMP: Pillow decodes it in Python, and holds all other Python up meanwhile."""

BYTES_PER_PIXEL = {"JPEG": 9, "PNG": 16, "GIF": 16, "BMP": 16, "WEBP": 25, "AVIF": 20, "HEIC": 20, "TIFF": 24}
"""What decoding takes at its peak, transparent pictures included; measured with Pillow 13."""

PROGRESSIVE_BYTES = 4
"""More a pixel for a JPEG of several scans: all its coefficients wait in memory for the last one."""

ISO_MEDIA = re.compile(rb"....ftyp", re.DOTALL)
AVIF_BRANDS = {b"avif", b"avis"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

SIGNATURES: tuple[tuple[ImageFormat, re.Pattern[bytes]], ...] = (
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("BMP", re.compile(rb"BM")),
    ("TIFF", re.compile(rb"II\*\x00|MM\x00\*|II\+\x00|MM\x00\+")),
)


@dataclass(frozen=True)
class Limits:
    """What an image may be."""

    formats: tuple[ImageFormat, ...]
    max_pixels: int

    def pixels(self, image_format: str) -> int:
        """The most pixels of a format: other decoders need several times a JPEG's memory for each."""
        return self.max_pixels if image_format == "JPEG" else self.max_pixels // 2


@dataclass(frozen=True)
class Header:
    """What a file declares; 0 x 0 where only its decoder can tell.

    decode_bytes: the memory that decoding it takes at its peak.
    """

    format: ImageFormat
    width: int
    height: int
    decode_bytes: int


def read_header(data: bytes, limits: Limits) -> Header:
    """Recognise a file by its bytes alone and hold its size against the limits. Raises ImageProblem."""
    image_format = _recognise(data, limits)
    try:
        return _declared(data, image_format, limits)
    except (IndexError, ValueError, struct.error) as error:  # a field that should be there and is not
        raise damaged(image_format) from error


def _declared(data: bytes, image_format: ImageFormat, limits: Limits) -> Header:
    bytes_per_pixel = BYTES_PER_PIXEL[image_format]
    if image_format == "TIFF":  # its directory may lie anywhere, and Pillow reads no pixels to find it
        return Header(image_format, 0, 0, limits.pixels(image_format) * bytes_per_pixel)
    if image_format == "JPEG":
        frame = _jpeg_frame(data)
        width, height = frame.width, frame.height
        bytes_per_pixel += PROGRESSIVE_BYTES * frame.progressive
    else:
        width, height = _size(image_format, data)
    check_size(width, height, image_format, limits)
    return Header(image_format, width, height, width * height * bytes_per_pixel)


def check_size(width: int, height: int, image_format: str, limits: Limits) -> None:
    """Refuse a picture without pixels, of too many, or of too long a side. Raises ImageProblem."""
    size, most = f"the image has {width} x {height} pixels", limits.pixels(image_format)
    if not (width and height):
        raise damaged(image_format)
    if width * height > most:
        raise ImageProblem("too_many_pixels", f"{size}; {most} pixels are allowed for {image_format}")
    if max(width, height) > MAX_SIDE:
        raise ImageProblem("too_many_pixels", f"{size}; {MAX_SIDE} a side are allowed")


def damaged(image_format: str) -> ImageProblem:
    """A file that starts as an image of this format and does not go on as one."""
    return ImageProblem("undecodable", f"this {image_format} file is damaged, cut short or of a kind that is not read")


def too_complex(image_format: str, what: str) -> ImageProblem:
    """A file that is legal, and made to cost far more than any picture needs."""
    return ImageProblem("too_complex", f"this {image_format} file has more than {what}")


def _recognise(data: bytes, limits: Limits) -> ImageFormat:
    """The format that the bytes themselves declare; names and types that came with them are hints."""
    if not data:
        raise ImageProblem("empty_image", "the image has 0 bytes")
    found = next((name for name, signature in SIGNATURES if signature.match(data)), None) or _iso_media_format(data)
    allowed = ", ".join(limits.formats)
    if found is None:
        raise ImageProblem("not_an_image", f"these bytes are no image of a known format; allowed are {allowed}")
    if found not in limits.formats:
        raise ImageProblem("format_not_allowed", f"{found} images are not allowed here; allowed are {allowed}")
    return found


def _iso_media_format(data: bytes) -> ImageFormat | None:
    """AVIF and HEIC share a container (ISO/IEC 14496-12), and name themselves among its brands."""
    if not ISO_MEDIA.match(data):
        return None
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12]} | {data[at : at + 4] for at in range(16, end, 4)}
    if brands & AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if brands & HEIC_BRANDS else None


def _size(image_format: str, data: bytes) -> tuple[int, int]:
    """The declared width and height."""
    try:
        return SIZES[image_format](data)
    except (struct.error, IndexError) as error:
        raise damaged(image_format) from error


# --- PNG (W3C PNG, third edition) ---

PICTURE_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"}
TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt"}
ORIENTATION_TEXTS = {b"Raw profile type exif", b"Raw profile type APP1", b"XML:com.adobe.xmp"}


def _png_size(data: bytes) -> tuple[int, int]:
    kind, width, height = struct.unpack_from(">4sII", data, 12)
    return (width, height) if kind == b"IHDR" else (0, 0)


def png_picture(data: bytes) -> bytes:
    """A PNG's picture alone: without the texts, profiles and later frames, which can inflate to any size.

    Of the texts those stay, once each, that may say how the picture is to be turned. Raises ImageProblem.
    """
    kept, start, whole = [data[:8]], 8, True
    texts: set[bytes] = set()
    for kind, begin, end in _png_chunks(data):
        text = data[begin + 8 : begin + 96].partition(b"\0")[0] if kind in TEXT_CHUNKS else b""
        if kind in PICTURE_CHUNKS or (text in ORIENTATION_TEXTS and text not in texts):
            texts.add(text)
            if kind == b"IEND":
                return data if whole else b"".join([*kept, data[start:end]])
            continue
        kept.append(data[start:begin])
        start, whole = end, False
    raise damaged("PNG")  # there is no end


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Each whole chunk: its kind, where it begins and where it ends."""
    at = 8
    for _ in range(MAX_PARTS):
        if at + 12 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return
        yield kind, at, at + 12 + length
        at += 12 + length
    raise too_complex("PNG", f"{MAX_PARTS} chunks")


# --- GIF (GIF89a) ---


def _gif_size(data: bytes) -> tuple[int, int]:
    """Of the screen, or of the first frame where that one reaches beyond it."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _gif_colours(flags)
    for _ in range(MAX_PARTS):
        if data[at] == 0x2C:
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
            return max(width, left + frame_width), max(height, top + frame_height)
        if data[at] != 0x21:
            return 0, 0
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    raise too_complex("GIF", f"{MAX_PARTS} blocks before its first picture")


def _gif_colours(flags: int) -> int:
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0


# --- BMP ---


def _bmp_size(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return width, height
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression in (1, 2) and len(data) > MAX_RLE_BYTES:
        raise too_complex("BMP", f"{MAX_RLE_BYTES} bytes of run-length coded pixels")
    return max(width, 0), abs(height)


# --- WebP (RFC 9649) ---


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


# --- AVIF and HEIC (ISO/IEC 23008-12) ---

# The extent of an image item or of one tile of it, and the entry of a track, which sequences may have instead.
EXTENT = re.compile(rb"ispe\0{4}(....)(....)", re.DOTALL)
TRACK = re.compile(rb"stsd.{12}(?:av01|hvc1|hev1).{24}(..)(..)", re.DOTALL)


def _iso_media_size(data: bytes) -> tuple[int, int]:
    """Of all extents that are declared the largest: no tile, thumbnail or track may be larger than that."""
    extents = [match.groups() for pattern in (EXTENT, TRACK) for match in pattern.finditer(data)]
    sizes = [(int.from_bytes(width, "big"), int.from_bytes(height, "big")) for width, height in extents]
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


SIZES = {
    "PNG": _png_size,
    "GIF": _gif_size,
    "BMP": _bmp_size,
    "WEBP": _webp_size,
    "AVIF": _iso_media_size,
    "HEIC": _iso_media_size,
}


# --- JPEG (ITU-T T.81) ---

# A marker that is neither a stuffed byte, nor fill, nor a restart.
MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
SEQUENTIAL, PROGRESSIVE, ARITHMETIC = {0xC0, 0xC1}, {0xC2, 0xCA}, {0xC9, 0xCA}
# The others (lossless, hierarchical) are no pictures that a browser shows, and libjpeg answers grey for some of them.
OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}


@dataclass
class Frame:
    """A JPEG's frame header, and which of its coefficients have come, to which bit."""

    width: int
    height: int
    progressive: bool
    arithmetic: bool
    components: bytes
    missing_bits: dict[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def read(cls, marker: int, payload: bytes) -> "Frame":
        """Raises ImageProblem for a kind that is not read."""
        if marker in OTHER_FRAMES or len(payload) < 6 or len(payload) < 6 + 3 * payload[5] or payload[0] != 8:
            raise damaged("JPEG")
        height, width = struct.unpack_from(">HH", payload, 1)
        components = payload[6 : 6 + 3 * payload[5] : 3]
        return cls(width, height, marker in PROGRESSIVE, marker in ARITHMETIC, components)

    def take(self, scan: bytes) -> None:
        """Note what a scan brings. Raises ImageProblem."""
        count = scan[0] if scan else 0
        if len(scan) < 4 + 2 * count:
            raise damaged("JPEG")
        first, last, low = scan[1 + 2 * count], scan[2 + 2 * count], scan[3 + 2 * count] & 15
        for component in scan[1 : 1 + 2 * count : 2]:
            for coefficient in range(first, min(last, 63) + 1) if self.progressive else (0,):
                self.missing_bits[component, coefficient] = low if self.progressive else 0

    @property
    def complete(self) -> bool:
        """Whether every coefficient of every component has come to its last bit."""
        wanted = range(64) if self.progressive else range(1)
        return not any(self.missing_bits.get((name, place), 1) for name in self.components for place in wanted)


def jpeg_scan_end(data: bytes) -> int | None:
    """Where the data of a JPEG's only scan end; None for a file of several, or of a coding that has no such end.

    Raises ImageProblem for a file of too many scans, and for one that lacks some.
    """
    frame: Frame | None = None
    scans, end = 0, 0
    for marker, begin, payload in _jpeg_segments(data):
        if scans and not end:
            end = begin
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = Frame.read(marker, payload)
        elif marker == SOS and frame:
            scans += 1
            if scans > MAX_SCANS:
                raise too_complex("JPEG", f"{MAX_SCANS} scans")
            frame.take(payload)
    if frame is None or not frame.complete:
        raise damaged("JPEG")
    return None if scans > 1 or frame.progressive or frame.arithmetic else end or len(data)


def _jpeg_frame(data: bytes) -> Frame:
    for marker, _, payload in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return Frame.read(marker, payload)
        if marker == SOS:
            break
    raise damaged("JPEG")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Each segment up to the end of the first picture: its marker, where that begins, and what the segment holds.

    Bytes between segments are passed over, as the data of a scan are.
    """
    at = 2
    for _ in range(MAX_PARTS):
        match = MARKER.search(data, at)
        if match is None:
            return
        begin, at = match.span()
        marker = data[begin + 1]
        if marker in (SOI, EOI):
            yield marker, begin, b""
            if marker == EOI:
                return
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        yield marker, begin, data[at + 2 : at + length]
        at += max(2, length)
    raise too_complex("JPEG", f"{MAX_PARTS} segments")
