"""Write ICC profiles by hand (ICC.1:2022), and say which sRGB colours they give; without LittleCMS."""

import itertools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.pictures.tiffs import SRGB_D50

DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
PROPHOTO = np.array([[0.79767, 0.13519, 0.03135], [0.28804, 0.71187, 0.00009], [0.0, 0.0, 0.82510]])
"""XYZ under D50 of the primaries, one in each column."""

WHITE = (0.9642, 1.0, 0.8249)


def rgb(primaries: Any, gamma: float, kind: bytes = b"mntr") -> bytes:
    """Return a profile of RGB colours with these primaries, each value to the power of gamma."""
    columns = {name: _xyz(*primaries[:, place]) for place, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return profile(kind, b"RGB ", columns | {name: _curve(gamma) for name in (b"rTRC", b"gTRC", b"bTRC")})


def grey(gamma: float) -> bytes:
    """Return a profile of grey values."""
    return profile(b"mntr", b"GRAY", {b"kTRC": _curve(gamma)})


def cmyk(lightness: Callable[..., float]) -> bytes:
    """Return a profile of inks that print a neutral grey of this lightness, a function of four shares."""
    corners = itertools.product((0.0, 0.5, 1.0), repeat=4)
    table = b"".join(bytes([round(255 * lightness(*inks)), 128, 128]) for inks in corners)
    numbers = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    steps = bytes(range(256))
    return profile(
        b"prtr",
        b"CMYK",
        {b"A2B0": _element(b"mft1", struct.pack("4B", 4, 3, 3, 0) + numbers + steps * 4 + table + steps * 3)},
        b"Lab ",
    )


def profile(kind: bytes, space: bytes, elements: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """Return a profile of version 2 with these elements."""
    text = struct.pack(">I", 5) + b"test\0" + b"\0" * 78
    elements = {b"desc": _element(b"desc", text), b"wtpt": _xyz(*WHITE)} | elements
    table, data, start = struct.pack(">I", len(elements)), b"", 128 + 4 + 12 * len(elements)
    for name, content in elements.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    header = struct.pack(">I4xI", start + len(data), 0x02400000) + kind + space + connection + b"\0" * 12 + b"acsp"
    header = header.ljust(68, b"\0") + struct.pack(">3i", *(round(65536 * value) for value in WHITE))
    return header.ljust(128, b"\0") + table + data


def to_srgb(values: Any, primaries: Any, gamma: float) -> Any:
    """Return the sRGB colours (..., 3) of RGB values under a profile of `rgb`, 0 to 255."""
    linear = ((values / 255) ** gamma @ primaries.T @ np.linalg.inv(SRGB_D50).T).clip(0, 1)
    return encoded(linear)


def encoded(linear: Any) -> Any:
    """Return the sRGB values of linear light, 0 to 1 -> 0 to 255."""
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _element(kind: bytes, data: bytes) -> bytes:
    return kind + b"\0\0\0\0" + data


def _xyz(*values: float) -> bytes:
    return _element(b"XYZ ", struct.pack(">3i", *(round(65536 * value) for value in values)))


def _curve(gamma: float) -> bytes:
    return _element(b"curv", struct.pack(">IH", 1, round(256 * gamma)))
