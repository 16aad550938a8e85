"""Draw PNG files: pixels as they are; a number or a colour for each patch, alone or over the pixels; thumbnails."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Nine colours of matplotlib's `inferno` (Smith & van der Walt, CC0), evenly spaced. The page uses the same.
INFERNO = np.array(
    [
        *((0, 0, 4), (33, 12, 74), (86, 16, 110), (137, 34, 106), (187, 55, 84)),
        *((227, 89, 50), (249, 140, 10), (249, 201, 50), (252, 255, 164)),
    ]
)
MAX_OPACITY, MIN_RELATIVE_OPACITY = 0.8, 0.3
"""Opacity of the heat map where attention is greatest, and the part of it where attention is least: the image stays
visible in both places."""

MIN_SIDE = 448
"""Shortest side of a drawing in pixels; the input of a network may be very small."""

COLOUR_OPACITY = 0.7
"""Opacity of the colours of patches over an image."""


def to_png(pixels: NDArray[np.uint8], min_side: int = 1, *, smooth: bool = True) -> bytes:
    """Encode pixels (3, height, width) as PNG.

    Args:
        pixels: the image.
        min_side: enlarge by a whole number until the shorter side has this length.
        smooth: enlarge with the bicubic filter; else repeat pixels.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    factor = -(-min_side // min(image.size))
    if factor > 1:
        resampling = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
        image = image.resize((image.width * factor, image.height * factor), resampling)
    return _encoded(image)


def _encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def thumbnail(image: Image.Image, side: int) -> bytes:
    """Return a picture as a JPEG whose longer side has at most so many pixels."""
    small = image.copy()
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return file.getvalue()


def heat_png(weights: NDArray[np.float32], pixels: NDArray[np.uint8], *, over: bool) -> bytes:
    """Draw weights (h, w) as PNG, dark where they are least and bright where they are greatest.

    Args:
        weights: one number per patch: its attention, or its similarity to another one.
        pixels: the network's pixels (3, height, width).
        over: draw the weights over the pixels, interpolated between patches; else alone, one square per patch.
    """
    size = pixels.shape[1], pixels.shape[2]
    relative = (weights - weights.min()) / max(float(np.ptp(weights)), 1e-12)
    if not over:
        return to_png(_coloured(_upsampled(relative, size, smooth=False)), MIN_SIDE, smooth=False)
    heat = _upsampled(relative, size, smooth=True)
    opacity = MAX_OPACITY * (MIN_RELATIVE_OPACITY + (1 - MIN_RELATIVE_OPACITY) * heat)
    blended = (1 - opacity) * pixels + opacity * _coloured(heat)
    return to_png(np.rint(blended).astype(np.uint8), MIN_SIDE)


def colours_png(
    colours: NDArray[np.uint8], foreground: NDArray[np.bool_], pixels: NDArray[np.uint8], *, over: bool
) -> bytes:
    """Draw a colour for each patch as PNG.

    Args:
        colours: (h, w, 3).
        foreground: the patches that have a colour, (h, w).
        pixels: the network's pixels (3, height, width).
        over: draw the colours over the pixels, interpolated between patches, and the background as the pixels are;
            else draw them alone, one square per patch, on black.
    """
    size = pixels.shape[1], pixels.shape[2]
    opaque = _upsampled(foreground.astype(np.float32), size, smooth=over)
    drawn = [_upsampled(channel.astype(np.float32), size, smooth=over) for channel in np.moveaxis(colours, 2, 0)]
    if not over:
        return to_png(np.rint(np.stack(drawn) * opaque).astype(np.uint8), MIN_SIDE, smooth=False)
    blended = pixels + COLOUR_OPACITY * opaque * (np.stack(drawn) - pixels)
    return to_png(np.rint(blended).clip(0, 255).astype(np.uint8), MIN_SIDE)


def patches_png(colours: NDArray[np.uint8], foreground: NDArray[np.bool_]) -> bytes:
    """Return a PNG with one pixel per patch (h, w), transparent where there is no foreground."""
    alpha = (255 * foreground[..., None]).astype(np.uint8)
    return _encoded(Image.fromarray(np.concatenate([colours, alpha], 2)))


def _upsampled(weights: NDArray[np.float32], size: tuple[int, int], *, smooth: bool) -> NDArray[np.float32]:
    """(h, w) -> (height, width): bilinear between the centres of patches, or one value per patch."""
    for axis, side in enumerate(size):
        patches = weights.shape[axis]
        positions = (np.arange(side) + 0.5) * patches / side - 0.5
        positions = positions.clip(0, patches - 1) if smooth else (np.arange(side) * patches // side).astype(float)
        below = np.floor(positions).astype(int)
        above = np.minimum(below + 1, patches - 1)
        fraction = (positions - below).reshape((-1, 1) if axis == 0 else (1, -1))
        weights = weights.take(below, axis) * (1 - fraction) + weights.take(above, axis) * fraction
    return weights


def _coloured(relative: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Weights from 0 to 1 (height, width) -> colours (3, height, width)."""
    positions = np.linspace(0, 1, len(INFERNO))
    return np.stack([np.interp(relative, positions, channel) for channel in INFERNO.T]).round().astype(np.uint8)
