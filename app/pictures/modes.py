"""Convert images of every Pillow mode to 8-bit RGB, or refuse those whose values have no certain meaning."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from app.errors import ImageProblem
from app.pictures.colour import to_srgb

WHITE = (255, 255, 255, 255)

EXPANDED = {"1": "L", "La": "LA", "RGBa": "RGBA", "P": "RGB", "PA": "RGBA", "YCbCr": "RGB"}
"""Modes that say the same as another one, which this module goes on with."""

KNOWN = {"L", "LA", "RGB", "RGBA", "CMYK", "LAB"}


@dataclass(frozen=True)
class Samples:
    """What the numbers of a file mean, where Pillow's image does not say it.

    black, white: the values of grey images of more than 8 bits.
    bits: bits of a sample in the file, in which it also writes its transparent colour.
    lower: the lower bytes of a 16-bit RGB image with a transparent colour; Pillow's image has the upper ones alone.
    """

    black: float = 0
    white: float = 65535
    bits: int = 8
    lower: Image.Image | None = None


EIGHT_BITS = Samples()


def to_rgb(image: Image.Image, samples: Samples = EIGHT_BITS, profile: bytes | None = None) -> Image.Image:
    """Convert an image to RGB: scale values of more than 8 bits, composite transparency over white.

    Raises ImageProblem for values that have no certain meaning.

    Args:
        image: a loaded image.
        samples: what the numbers of its file mean.
        profile: the ICC profile by which colours are converted to sRGB; None leaves them as they are.
    """
    image = _expanded(image, samples)
    if image.mode not in KNOWN:
        raise _refused(f"its pixels are of Pillow's mode {image.mode}, which says nothing of black and white")
    if profile is not None:
        image = to_srgb(image, profile)
    if image.mode in ("LA", "RGBA"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _expanded(image: Image.Image, samples: Samples) -> Image.Image:
    """Return the image in one of a few modes; with an alpha band if it has transparency of any kind."""
    key = image.info.get("transparency")
    if image.mode == "F" or image.mode.startswith("I;16"):
        return _to_8_bits(image, samples, key)
    if isinstance(key, tuple) and samples.lower is not None:
        return _without_colour(image, samples.lower, key)
    if isinstance(key, int) and image.mode == "L" and samples.bits < 8:
        image.info["transparency"] = key * 255 // (2**samples.bits - 1)  # as Pillow scales the samples
    if image.mode not in KNOWN or key is not None:
        mode = EXPANDED.get(image.mode, image.mode)
        # An alpha band for a palette or a colour that has transparency; the modes with an alpha band keep theirs.
        if image.has_transparency_data and not mode.endswith("A"):
            mode += "A"
        return image if image.mode == mode else image.convert(mode)
    return image


def _without_colour(upper: Image.Image, lower: Image.Image, key: tuple[int, ...]) -> Image.Image:
    """Return an RGBA image in which the pixels of one 16-bit colour are transparent."""
    alpha = np.full((upper.height, upper.width), 255, np.uint8)
    bands = zip(upper.split(), lower.split(), key, strict=True)
    equal = [(np.asarray(high) == value >> 8) & (np.asarray(low) == value & 255) for high, low, value in bands]
    alpha[np.logical_and.reduce(equal)] = 0
    upper.putalpha(Image.fromarray(alpha))
    return upper


def _to_8_bits(image: Image.Image, samples: Samples, key: object) -> Image.Image:
    """Scale grey values of more than 8 bits; Pillow's own conversion clips them, which turns 16-bit images white.

    Float values outside of black and white are refused: nothing says which value is white then.
    """
    values = np.asarray(image)
    least, most = sorted((samples.black, samples.white))
    if not (values.min() >= least and values.max() <= most):  # also if a value is not a number
        raise _refused(f"it has values outside of {least:g} to {most:g}, so that nothing says which one is white")
    scaled = values.astype(np.float32)  # then in place, because an image may be large
    scaled -= samples.black
    scaled *= 255 / (samples.white - samples.black)
    grey = Image.fromarray(np.rint(scaled, out=scaled).astype(np.uint8))
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def _refused(reason: str) -> ImageProblem:
    return ImageProblem("undecodable", f"this image cannot be read with certainty: {reason}; save it with 8 bits")
