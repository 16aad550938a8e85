"""Convert images of every Pillow mode to 8-bit RGB."""

import numpy as np
from PIL import Image

WHITE = (255, 255, 255, 255)
SCALED_16_BITS = np.rint(np.arange(65536) / 257).astype(np.uint8)
"""The 8-bit value of each 16-bit value."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB: composite transparency over white, scale values of more than 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bits(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale grey values of more than 8 bits; Pillow's own conversion clips them, which turns 16-bit images white.

    A float image does not say which value is white. The smallest of 1, 255 and 65535 that no value exceeds is taken.
    """
    values = np.asarray(image)
    if image.mode != "F":
        return Image.fromarray(SCALED_16_BITS[np.clip(values, 0, 65535).astype(np.uint16, copy=False)])
    largest = float(np.nan_to_num(values.max(initial=0), posinf=1.0))
    white = next((white for white in (1.0, 255.0, 65535.0) if largest <= white), largest)
    return Image.fromarray(np.rint(np.clip(np.nan_to_num(values), 0, white) * (255 / white)).astype(np.uint8))
