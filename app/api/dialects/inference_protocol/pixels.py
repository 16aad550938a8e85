"""Preprocessed images: pixels (n, 3, height, width) that skip decoding and resizing.

uint8 pixels are from 0 to 255, and the engine normalises them. float32 pixels are already normalised by the
checkpoint's mean and std: the network receives exactly these numbers.
"""

import numpy as np

from app.errors import Problem
from app.service import Engine, PreparedImage
from models.preprocess import Pixels, Plan

MARGIN = 10
"""How many times larger than normalised black or white a pixel may be.

Resampling overshoots black and white a little. Pixels that were not normalised (0 to 255) are about 100 times larger.
"""


def prepared_images(engine: Engine, pixels: Pixels) -> list[PreparedImage]:
    """Return each image of a batch, ready for the network. Raises Problem for a shape or values that it cannot take."""
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
    """Raise Problem for pixels that look as if they were not normalised, and for NaN."""
    preprocess = engine.checkpoint.content.preprocess
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    limit = MARGIN * (np.maximum(mean, 1 - mean) / std).max()
    if not np.abs(pixels).max(initial=0) <= limit:  # negated, so that NaN is rejected too
        detail = f"FP32 pixels must be normalised by mean {preprocess.mean} and std {preprocess.std}"
        raise Problem(
            "invalid_parameter", f"{detail}, so that none exceeds {limit:.0f}; send pixels from 0 to 255 as UINT8"
        )
