"""Hostile files, generated: every class of the shared corpus, for machines that do not have the corpus.

Each is (bytes, the expected codes); None means that the image is answered normally.
"""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

Code = str | None
Case = tuple[bytes, set[Code]]

BOMB: set[Code] = {"too_many_pixels"}
DAMAGED: set[Code] = {"undecodable"}
FOREIGN: set[Code] = {"not_an_image"}
FINE: set[Code] = {None}


def photo(width: int = 96, height: int = 72) -> Image.Image:
    """Return an image with detail everywhere."""
    small = np.random.default_rng(7).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, pixels: bytes | None = None, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    data = zlib.compress(pixels if pixels is not None else b"\0" * 100, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def riff(kind: bytes, data: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def vp8l(width: int, height: int) -> bytes:
    """Return a lossless WebP of one colour, in as few bytes as possible."""
    bits = (width - 1) | (height - 1) << 14
    return riff(b"VP8L", b"\x2f" + struct.pack("<I", bits) + bytes.fromhex("88888807"))


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + kind + data


def avif_that_claims(width: int, height: int) -> bytes:
    """Return a real AVIF whose header declares another size."""
    data = encoded(photo(), "AVIF", speed=10)
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def jpeg_that_claims(width: int, height: int, **options: Any) -> bytes:
    data = encoded(photo(), "JPEG", **options)
    at = data.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def scan_bomb(side: int, scans: int) -> bytes:
    """Return a progressive JPEG that repeats its first scan."""
    data = encoded(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff\xda", first + 2)
    return data[:first] + data[first:second] * scans + data[second:]


def with_segments(marker: int, count: int, size: int) -> bytes:
    segment = bytes([0xFF, marker]) + struct.pack(">H", size + 2) + bytes(size)
    data = encoded(photo(), "JPEG")
    return data[:2] + segment * count + data[2:]


def half_a_jpeg(share: float, ending: bytes, mode: str = "RGB", **options: Any) -> bytes:
    data = encoded(photo(256, 256).convert(mode), "JPEG", quality=90, **options)
    return data[: int(len(data) * share)] + ending


def gif_frame(left: int, top: int, width: int, height: int, screen: tuple[int, int], disposal: int = 2) -> bytes:
    control = b"\x21\xf9\x04" + bytes([disposal << 2]) + b"\0\0\0\0"
    frame = b"\x2c" + struct.pack("<HHHH", left, top, width, height) + b"\0\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HH", *screen) + b"\x80\0\0\0\0\0\xff\xff\xff" + control + frame + b"\x3b"


def animation(image_format: str, frames: int) -> bytes:
    pictures = [Image.new("RGB", (16, 16), (n % 256, n // 256, 99)) for n in range(frames)]
    return encoded(pictures[0], image_format, save_all=True, append_images=pictures[1:])


def bmp(width: int, height: int, compression: int = 0, data: bytes = b"\0" * 64) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8 if compression else 24, compression, 0, 0, 0, 0, 0)
    palette = b"\0" * 1024 if compression else b""
    offset = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + palette + data


def exif(tag_type: int, count: int, value: bytes) -> bytes:
    entry = struct.pack("<HHI", 0x0112, tag_type, count) + value.ljust(4, b"\0")
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + b"\0\0\0\0"


DAMAGED_JPEGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "restarting": {"restart_marker_blocks": 4},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
    "progressive": {"progressive": True},
}


def cases() -> dict[str, Case]:
    """Return all cases by name."""
    grey = encoded(photo(), "PNG")
    text = zlib.compress(b"a" * 2**20, 9)
    return {
        # decompression bombs: many declared pixels in a few bytes
        "png of 60000x60000": (png(60_000, 60_000), BOMB),
        "png of 2147483647 a side": (png(2**31 - 1, 2**31 - 1), BOMB),
        "png of a million by one": (png(1, 1_000_000), BOMB),
        "jpeg of 65500x65500": (jpeg_that_claims(65_500, 65_500), BOMB),
        "progressive jpeg of 65500x65500": (jpeg_that_claims(65_500, 65_500, progressive=True), BOMB),
        "webp of 16383x16383 in 32 bytes": (vp8l(16_383, 16_383), BOMB),
        "webp of 12000x12000 in 32 bytes": (vp8l(12_000, 12_000), BOMB),
        "webp of 7000x7000 in 32 bytes": (vp8l(7_000, 7_000), BOMB),
        "webp with a canvas of 65000x65000": (
            riff(b"VP8X", b"\x10\0\0\0" + (64_999).to_bytes(3, "little") * 2),
            BOMB,
        ),
        "webp of vp8 with 16383x16383": (
            riff(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383)),
            BOMB,
        ),
        "avif that claims 17000x17000": (avif_that_claims(17_000, 17_000), BOMB),
        "gif with a screen of 65535x65535": (gif_frame(0, 0, 1, 1, (65_535, 65_535)), BOMB),
        "gif with a frame of 65535x65535": (gif_frame(0, 0, 65_535, 65_535, (1, 1)), BOMB),
        "gif with a frame far away": (gif_frame(60_000, 60_000, 1, 1, (1, 1)), BOMB),
        "bmp of 30000x30000": (bmp(30_000, 30_000), BOMB),
        "bmp of 30000x-30000": (bmp(30_000, -30_000), BOMB),
        # allowed sizes that cost far more than they should
        "jpeg of 2000 scans": (scan_bomb(2_000, 2_000), {"too_complex"}),
        "png of 20000 chunks": (png(8, 8, chunk(b"tEXt", b"a\0b") * 20_000), {"too_complex"}),
        "jpeg of 20000 segments": (with_segments(0xFE, 20_000, 0), {"too_complex"}),
        "gif of 20000 comments": (
            gif_frame(0, 0, 1, 1, (1, 1)).replace(b"\x21\xf9", b"\x21\xfe\x01a\0" * 20_000 + b"\x21\xf9"),
            {"too_complex"},
        ),
        "bmp of 2 MB of runs": (bmp(5_000, 5_000, 1, b"\x01\0" * 2**20), {"too_complex"}),
        # data beside the pixels that would inflate is skipped
        "png with 64 texts of 1 MB": (grey[:33] + chunk(b"zTXt", b"a\0\0" + text) * 64 + grey[33:], FINE),
        "png with a text of 64 MB": (
            grey[:33] + chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(64 * 2**20), 9)) + grey[33:],
            FINE,
        ),
        "png with a profile of 64 MB": (
            grey[:33] + chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(64 * 2**20), 9)) + grey[33:],
            FINE,
        ),
        "png with 50 MB behind its 8x8 pixels": (png(8, 8, pixels=bytes(25 * 8) + bytes(50 * 2**20)), FINE),
        "png that claims 2^31 frames": (
            grey[:33] + chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + grey[33:],
            FINE,
        ),
        "gif of 3000 frames": (animation("GIF", 3_000), FINE),
        "webp of 300 frames": (animation("WEBP", 300), FINE),
        "apng of 200 frames": (animation("PNG", 200), FINE),
        # truncated images
        **{
            f"{name} jpeg cut at {share:.0%}, {ending}": (half_a_jpeg(share, end, **options), DAMAGED)
            for name, options in DAMAGED_JPEGS.items()
            for share in (0.3, 0.6)
            for ending, end in {"without an end": b"", "with an end": b"\xff\xd9", "then zeros": bytes(4000)}.items()
        },
        "jpeg cut at 95%, with an end": (half_a_jpeg(0.95, b"\xff\xd9"), DAMAGED),
        "half a png": (grey[: len(grey) // 2], DAMAGED),
        "png without its end": (grey[:-12], DAMAGED),
        "half a webp": (encoded(photo(), "WEBP")[:500], DAMAGED),
        "half a gif": (encoded(photo(), "GIF")[:2000], DAMAGED),
        "half a bmp": (encoded(photo(), "BMP")[:3000], DAMAGED),
        "half an avif": (encoded(photo(), "AVIF", speed=10)[:600], DAMAGED),
        # invalid headers
        "png of no width": (png(0, 5), DAMAGED),
        "png of colour type 5": (png(5, 5, colour=5), DAMAGED),
        "png with 4 GB of data": (grey[:33] + b"\xff\xff\xff\xffIDAT" + grey[41:], DAMAGED),
        "jpeg of 12 bits": (encoded(photo(), "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), DAMAGED),
        "lossless jpeg": (encoded(photo(), "JPEG").replace(b"\xff\xc0", b"\xff\xc3", 1), DAMAGED),
        "jpeg with a start and an end": (b"\xff\xd8\xff\xd9", DAMAGED),
        "jpeg of random bytes": (b"\xff\xd8\xff" + np.random.default_rng(1).bytes(5000), DAMAGED | BOMB),
        "gif of a header": (b"GIF89a", DAMAGED),
        "bmp of 30000 bits": (bmp(5, 5).replace(struct.pack("<HH", 1, 24), struct.pack("<HH", 1, 30_000)), DAMAGED),
        "avif without a picture": (box(b"ftyp", b"avif\0\0\0\0avif"), DAMAGED),
        # broken metadata beside valid pixels
        "jpeg with a text for an orientation": (encoded(photo(), "JPEG", exif=exif(2, 2, b"6")), FINE),
        "jpeg with 4 G of orientations": (encoded(photo(), "JPEG", exif=exif(3, 2**32 - 1, b"\6")), FINE),
        "jpeg with orientation 65535": (encoded(photo(), "JPEG", exif=exif(3, 1, b"\xff\xff")), FINE),
        "jpeg with half an exif block": (encoded(photo(), "JPEG", exif=exif(3, 1, b"\6")[:-9]), FINE),
        "jpeg with 2000 segments": (with_segments(0xE7, 2_000, 10), FINE),
        "jpeg with 2 MB of comments": (with_segments(0xFE, 31, 65_000), FINE),
        "jpeg and a megabyte of zeros": (encoded(photo(), "JPEG") + bytes(10**6), FINE),
        "jpeg and a zip": (encoded(photo(), "JPEG") + b"PK\3\4" + bytes(100), FINE),
        "jpeg without its end marker": (encoded(photo(), "JPEG")[:-2], FINE),
        # not images
        "an empty file": (b"", {"no_image", "empty_image"}),
        "a kilobyte of NUL": (bytes(1024), FOREIGN),
        "eps that runs a command": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n", FOREIGN),
        "svg with an entity": (b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]>', FOREIGN),
        "svg that fetches": (
            b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1/"/></svg>',
            FOREIGN,
        ),
        "mvg": (b"push graphic-context\nfill 'url(https://x\"|id; \")'\n", FOREIGN),
        "pdf": (b"%PDF-1.7\n", FOREIGN),
        "zip": (b"PK\3\4" + bytes(100), FOREIGN),
        "elf": (b"\x7fELF" + bytes(100), FOREIGN),
        "wav": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(24), FOREIGN),
        "mp4": (box(b"ftyp", b"isom\0\0\0\0isommp42") + bytes(100), FOREIGN),
        "pickle": (b"\x80\x04cos\nsystem\n(S'id'\ntR.", FOREIGN),
        "safetensors": (b"\x02\0\0\0\0\0\0\0{}", FOREIGN),
        "html": (b"<!doctype html><img src=x onerror=alert(1)>", FOREIGN),
        "utf-16 text": ("hello".encode("utf-16"), FOREIGN),
        "ppm": (b"P6 1 1 255\n\0\0\0", FOREIGN),
        "tiff": (encoded(photo(), "TIFF"), {"format_not_allowed"}),
    }
