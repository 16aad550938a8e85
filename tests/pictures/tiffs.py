"""Write TIFF files of every kind by hand (TIFF 6.0, 1992), and say which colours they have; without Pillow."""

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

WIDTH, HEIGHT = 16, 6
SHORT, LONG, UNDEFINED = 3, 4, 7
FORMATS = {SHORT: "H", LONG: "I", UNDEFINED: "B"}

GREY_INVERTED, GREY, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
NO_ALPHA, ASSOCIATED, ALPHA, COREL = 0, 1, 2, 999
COLOURS = {GREY_INVERTED: 1, GREY: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3}
"""Samples before the extra ones."""
RAW, DEFLATE = 1, 8

SRGB_D50 = np.array([[0.4360, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
"""XYZ under D50 of the primaries of sRGB, one in each column (IEC 61966-2-1, adapted by Bradford's matrix)."""


@dataclass(frozen=True)
class Kind:
    """The tags that say what the samples of a TIFF mean."""

    order: str
    photometric: int
    sample_format: int = UNSIGNED
    fill_order: int = 1
    bits: tuple[int, ...] = (8,)
    extra: tuple[int, ...] = ()
    planar: int = 1
    compression: int = RAW
    tags: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict, hash=False)

    @property
    def largest(self) -> float:
        """The value of white, or of full colour."""
        return 1.0 if self.sample_format == FLOAT else float(2 ** self.bits[0] - 1)

    @property
    def dtype(self) -> str:
        letter = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}[self.sample_format]
        return f"{'<' if self.order == 'II' else '>'}{letter}{max(1, self.bits[0] // 8)}"


def samples(kind: Kind, seed: int = 3) -> Any:
    """Return values (height, width, samples) over the whole range; associated colours are at most their alpha."""
    shares = np.random.default_rng(seed).random((HEIGHT, WIDTH, len(kind.bits)))
    shares[0, 0], shares[0, 1] = 0, 1
    if ASSOCIATED in kind.extra:
        at = len(kind.bits) - len(kind.extra)
        shares[..., :at] *= shares[..., at : at + 1]
    values = shares * kind.largest
    if kind.photometric == LAB:  # colours that sRGB has
        values = np.stack([130 + 90 * shares[..., 0], *(12 * (2 * shares[..., band] - 1) % 256 for band in (1, 2))], 2)
    return values if kind.sample_format == FLOAT else np.rint(values).astype(np.int64)


def tiff(kind: Kind, values: Any, blobs: dict[int, bytes] | None = None) -> bytes:
    """Write these samples as a file of one strip for each plane, with these tags of bytes."""
    planes = [values[..., [band]] for band in range(values.shape[2])] if kind.planar == 2 else [values]
    strips = [_packed(kind, plane) for plane in planes]
    if kind.compression == DEFLATE:
        strips = [zlib.compress(strip) for strip in strips]
    if kind.fill_order == 2:
        strips = [bytes(int(f"{byte:08b}"[::-1], 2) for byte in strip) for strip in strips]
    offsets, data = [], b""
    for strip in strips:
        offsets.append(8 + len(data))
        data += strip + b"\0" * (len(strip) % 2)
    tags = {
        256: (SHORT, (values.shape[1],)),
        257: (SHORT, (values.shape[0],)),
        258: (SHORT, kind.bits),
        259: (SHORT, (kind.compression,)),
        262: (SHORT, (kind.photometric,)),
        266: (SHORT, (kind.fill_order,)),
        273: (LONG, tuple(offsets)),
        277: (SHORT, (len(kind.bits),)),
        278: (SHORT, (values.shape[0],)),
        279: (LONG, tuple(len(strip) for strip in strips)),
        284: (SHORT, (kind.planar,)),
        339: (SHORT, (kind.sample_format,) * len(kind.bits)),
    }
    if kind.extra:
        tags[338] = SHORT, kind.extra
    if kind.photometric == PALETTE:
        tags[320] = SHORT, tuple(int(value) * 257 for value in palette(kind).T.ravel())
    undefined = {tag: (UNDEFINED, tuple(blob)) for tag, blob in (blobs or {}).items()}
    return _file(kind.order, data, tags | kind.tags | undefined)


def palette(kind: Kind) -> Any:
    """Return the colours of a palette (2 ** bits, 3), 0 to 255."""
    return np.random.default_rng(5).integers(0, 256, (2 ** kind.bits[0], 3))


def colours(kind: Kind, values: Any) -> Any:
    """Return the colours (height, width, 3) that the specification gives to these samples, 0 to 255, over white."""
    shares = values / kind.largest
    count = COLOURS[kind.photometric]
    colour = shares[..., :count]
    if kind.photometric in (GREY, GREY_INVERTED):
        colour = np.repeat(colour if kind.photometric == GREY else 1 - colour, 3, axis=2)
    elif kind.photometric == PALETTE:
        colour = palette(kind)[values[..., 0]] / 255
    elif kind.photometric == CMYK:
        colour = (1 - colour[..., :3]) * (1 - colour[..., 3:])
    elif kind.photometric == YCBCR and len(kind.bits) == 1:  # the luma alone
        colour = np.repeat(colour, 3, axis=2)
    elif kind.photometric == YCBCR:
        y, cb, cr = (shares[..., band] * 255 for band in range(3))
        red, blue = y + 1.402 * (cr - 128), y + 1.772 * (cb - 128)
        colour = np.stack([red, (y - 0.299 * red - 0.114 * blue) / 0.587, blue], axis=2).clip(0, 255) / 255
    elif kind.photometric == LAB:
        colour = _of_lab(values[..., :3])
    alpha = shares[..., count : count + 1]
    extra = kind.extra or ((ALPHA,) if len(kind.bits) > count else ())  # files of the time before the tag
    if extra and extra[0] == ASSOCIATED:
        colour = colour + 1 - alpha
    elif extra and extra[0] in (ALPHA, COREL):
        colour = colour * alpha + 1 - alpha
    return colour * 255


def _of_lab(values: Any) -> Any:
    """Return the sRGB colours of 8-bit CIE L*a*b* under D50, 0 to 1, with Bradford's adaptation to D65."""
    lightness, signed = values[..., 0] / 255 * 100, (values[..., 1:] + 128) % 256 - 128
    middle = (lightness + 16) / 116
    f = np.stack([middle + signed[..., 0] / 500, middle, middle - signed[..., 1] / 200], axis=2)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1.0, 0.8249]
    linear = (xyz @ np.linalg.inv(SRGB_D50).T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _packed(kind: Kind, plane: Any) -> bytes:
    bits = kind.bits[0]
    if bits >= 8 and bits % 8 == 0:
        data = plane.astype(kind.dtype).tobytes()
    else:
        rows = plane.reshape(plane.shape[0], -1)
        ones = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        data = np.packbits(ones.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()
    return data


def _file(order: str, data: bytes, tags: dict[int, tuple[int, tuple[int, ...]]]) -> bytes:
    mark = "<" if order == "II" else ">"
    data += b"\0" * (len(data) % 2)
    entries, after = b"", b""
    start = 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, (kind, numbers) in sorted(tags.items()):
        value = struct.pack(f"{mark}{len(numbers)}{FORMATS[kind]}", *numbers)
        if len(value) > 4:
            value, after = struct.pack(f"{mark}I", start + len(after)), after + value + b"\0" * (len(value) % 2)
        entries += struct.pack(f"{mark}HHI", tag, kind, len(numbers)) + value.ljust(4, b"\0")
    head = order.encode() + struct.pack(f"{mark}HI", 42, 8 + len(data))
    return head + data + struct.pack(f"{mark}H", len(tags)) + entries + b"\0\0\0\0" + after
