"""Pixels that come ready for the network: (n, 3, height, width) -> n images that skip decoding and resizing.

uint8 is from 0 to 255, and the engine normalises it. float32 is already normalised, by the checkpoint's mean and std:
the network sees exactly these numbers.
"""

import numpy as np

from app.errors import Problem
from app.inference.engine import Engine
from app.pictures.prepared import PreparedImage
from models.preprocess import Pixels, Plan

BEYOND = 10
"""How many times further out than black and white a normalised value may lie: those of a resized picture lie a little
beyond, those that nobody normalised a hundred times."""


def ready_pixels(engine: Engine, pixels: Pixels) -> list[PreparedImage]:
    """Each image as the network is to see it. Raises Problem for what it cannot see."""
    patch = engine.config.patch_size
    size = pixels.shape[2:]
    if pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in size or any(np.mod(size, patch)):
        allowed = f"(n, 3, height, width), height a multiple of {patch[0]} and width of {patch[1]}"
        raise Problem("invalid_parameter", f"shape {list(pixels.shape)}: must be {allowed}"[:300])
    if pixels.dtype == np.float32:
        _check_normalised(engine, pixels)
    height, width = size
    plan = Plan("none", (height, width), (0, 0), (height, width))
    return [PreparedImage(image, plan, width, height, "pixels") for image in pixels]


def _check_normalised(engine: Engine, pixels: Pixels) -> None:
    of = engine.checkpoint.content.preprocess
    mean, std = np.array(of.mean), np.array(of.std)
    most = BEYOND * (np.maximum(mean, 1 - mean) / std).max()
    if not np.abs(pixels).max(initial=0) <= most:  # what is no number is not within either
        detail = f"these pixels must be normalised by mean {of.mean} and std {of.std}"
        raise Problem("invalid_parameter", f"{detail}: none lies beyond {most:.0f} then; 0 to 255 goes as UINT8")
