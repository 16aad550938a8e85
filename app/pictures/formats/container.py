"""What a row of the format table holds, and the problems that any format can report."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from app.errors import ImageProblem

MAX_PARTS = 16_384
"""Segments, chunks or blocks read from one file. A PNG of 64 MiB in chunks of 4 KiB has this many."""


MAX_PROFILE_BYTES = 2**22
"""Size of an ICC profile that is used. Those of displays and cameras have 500 bytes to 10 kB, those of presses 3 MB."""


class Declared(NamedTuple):
    """What a file declares about its image.

    width, height: in pixels, as stored, before any rotation.
    extra_bytes_per_pixel: memory that decoding this file needs beyond its format's `bytes_per_pixel`.
    """

    width: int
    height: int
    extra_bytes_per_pixel: int = 0


@dataclass(frozen=True)
class ContainerFormat:
    """What the service knows of one container format.

    matches: tells from the first bytes of a file whether it has this format; any true value means yes.
    read: returns what a file declares, or raises ImageProblem, IndexError, ValueError or struct.error if it is damaged.
        None if only the decoder can find the size.
    bytes_per_pixel: peak memory of decoding, transparent images included; measured with Pillow 13.
    pixel_divisor: an image may have `max_pixels` divided by this many pixels.
    opened_as: Pillow's names for the format.
    source: wraps a file's bytes for the decoder.
    profile: returns the ICC profile that a file embeds, where `source` leaves it out; None if the decoder gives it.
    scales_down: whether the decoder can decode at 1/2, 1/4 or 1/8 of the size.
    """

    matches: Callable[[bytes], object]
    read: Callable[[bytes], Declared] | None
    bytes_per_pixel: int
    opened_as: tuple[str, ...]
    pixel_divisor: int = 2
    source: Callable[[bytes], io.BytesIO] = io.BytesIO
    profile: Callable[[bytes], bytes | None] | None = None
    scales_down: bool = False


def damaged(image_format: str) -> ImageProblem:
    """Return the problem of a file that starts in this format and is not a valid file of it."""
    return ImageProblem("undecodable", f"this {image_format} file is damaged, truncated or of an unsupported kind")


def too_complex(image_format: str, limit: str) -> ImageProblem:
    """Return the problem of a valid file that is built to cost far more than any real image needs."""
    return ImageProblem("too_complex", f"this {image_format} file has more than {limit}")
