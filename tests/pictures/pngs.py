"""Write PNG files of every bit depth and colour type by hand, and say which colours they have; without Pillow."""

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH, HEIGHT = 16, 6
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}

KINDS = [
    *((bits, GREY) for bits in (1, 2, 4, 8, 16)),
    *((bits, PALETTE) for bits in (1, 2, 4, 8)),
    *((bits, colour) for bits in (8, 16) for colour in (RGB, GREY_ALPHA, RGB_ALPHA)),
]
"""All combinations that the specification allows."""


@dataclass(frozen=True)
class Kind:
    """A bit depth and a colour type, with or without a tRNS chunk."""

    bits: int
    colour: int
    transparent: bool = False

    @property
    def largest(self) -> int:
        return int(2**self.bits - 1)


def values(kind: Kind) -> Any:
    """Return samples (height, width, samples) over the whole range; the first pixel has the transparent colour."""
    random = np.random.default_rng(4)
    found = random.integers(0, kind.largest + 1, (HEIGHT, WIDTH, SAMPLES[kind.colour]))
    found[0, 0], found[0, 1] = 0, kind.largest
    found[0, 2] = transparent(kind)
    # One byte of it alone is not the transparent colour.
    found[1, 0], found[1, 1] = transparent(kind) & 0xFF, transparent(kind) & 0xFF00
    return found


def transparent(kind: Kind) -> Any:
    """Return the samples that a tRNS chunk makes transparent: of its bytes, no two are equal."""
    return np.array([0x12F2, 0x27E4, 0x41D5, 0x5AC6][: SAMPLES[kind.colour]]) & kind.largest


def palette(kind: Kind) -> tuple[Any, Any]:
    """Return the colours (2 ** bits, 3) of a palette and their alpha (2 ** bits, 1)."""
    random = np.random.default_rng(6)
    return random.integers(0, 256, (2**kind.bits, 3)), random.integers(0, 256, (2**kind.bits, 1))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(kind: Kind, samples: Any, *extra: bytes) -> bytes:
    """Write these samples; the chunks `extra` come before the pixels."""
    height, width, _ = samples.shape
    rows = samples.reshape(height, -1)
    if kind.bits < 8:
        ones = (rows[..., None] >> np.arange(kind.bits - 1, -1, -1)) & 1
        lines = np.packbits(ones.reshape(height, -1).astype(np.uint8), axis=1)
    else:
        lines = rows.astype(f">u{kind.bits // 8}")
    data = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    header = struct.pack(">IIBBBBB", width, height, kind.bits, kind.colour, 0, 0, 0)
    before = b"".join(extra)
    if kind.colour == PALETTE:
        colours, alpha = palette(kind)
        before += chunk(b"PLTE", colours.astype(np.uint8).tobytes())
        if kind.transparent:
            before += chunk(b"tRNS", alpha.astype(np.uint8).tobytes())
    elif kind.transparent:
        before += chunk(b"tRNS", transparent(kind).astype(">u2").tobytes())
    parts = [chunk(b"IHDR", header), before, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def colours(kind: Kind, samples: Any) -> Any:
    """Return the colours (height, width, 3) that the specification gives to these samples, 0 to 255, over white."""
    shares, alpha = samples / kind.largest, np.ones((*samples.shape[:2], 1))
    if kind.colour == PALETTE:
        table, opacity = palette(kind)
        colour = table[samples[..., 0]] / 255
        alpha = opacity[samples[..., 0]] / 255 if kind.transparent else alpha
    else:
        count = 1 if kind.colour in (GREY, GREY_ALPHA) else 3
        colour = np.repeat(shares[..., :1], 3, axis=2) if count == 1 else shares[..., :3]
        if kind.colour in (GREY_ALPHA, RGB_ALPHA):
            alpha = shares[..., count:]
        elif kind.transparent:
            alpha = 1.0 - (samples == transparent(kind)).all(axis=2, keepdims=True)
    return (colour * alpha + 1 - alpha) * 255
