"""Attention as a picture: weights of patches -> colours, alone or over the pixels that the network was given."""

import numpy as np
from numpy.typing import NDArray

from app.pictures.decode import to_png

# Nine colours of matplotlib's `inferno` (Smith & van der Walt, CC0), evenly spaced; the page has the same.
INFERNO = np.array(
    [
        *((0, 0, 4), (33, 12, 74), (86, 16, 110), (137, 34, 106), (187, 55, 84)),
        *((227, 89, 50), (249, 140, 10), (249, 201, 50), (252, 255, 164)),
    ]
)
OPACITY, FAINTEST = 0.8, 0.3
"""Of the heat where it is greatest, and the part of that where it is least: what is not looked at stays to be seen."""

SHOWN = 448
"""The least side of a drawing: a network's own input may be no larger than a stamp."""


def attention_png(weights: NDArray[np.float32], pixels: NDArray[np.uint8], *, over: bool) -> bytes:
    """Weights (h, w), from their least (dark) to their greatest (bright), over the pixels (3, height, width) or alone.

    Over the picture they run smoothly from patch to patch; alone each patch is a square of its own.
    """
    size = pixels.shape[1], pixels.shape[2]
    relative = (weights - weights.min()) / max(float(np.ptp(weights)), 1e-12)
    if not over:
        return to_png(_coloured(_spread(relative, size, smooth=False)), SHOWN, smooth=False)
    heat = _spread(relative, size, smooth=True)
    opacity = OPACITY * (FAINTEST + (1 - FAINTEST) * heat)
    blended = (1 - opacity) * pixels + opacity * _coloured(heat)
    return to_png(np.rint(blended).astype(np.uint8), SHOWN)


def _spread(weights: NDArray[np.float32], size: tuple[int, int], *, smooth: bool) -> NDArray[np.float32]:
    """(h, w) -> (height, width): bilinear between the centres of the patches, or each patch one value."""
    for axis, side in enumerate(size):
        patches = weights.shape[axis]
        places = (np.arange(side) + 0.5) * patches / side - 0.5
        places = places.clip(0, patches - 1) if smooth else (np.arange(side) * patches // side).astype(float)
        below = np.floor(places).astype(int)
        above = np.minimum(below + 1, patches - 1)
        part = (places - below).reshape((-1, 1) if axis == 0 else (1, -1))
        weights = weights.take(below, axis) * (1 - part) + weights.take(above, axis) * part
    return weights


def _coloured(relative: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Numbers from 0 to 1 -> (3, height, width)."""
    places = np.linspace(0, 1, len(INFERNO))
    return np.stack([np.interp(relative, places, channel) for channel in INFERNO.T]).round().astype(np.uint8)
