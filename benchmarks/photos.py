"""The pictures of the benchmark, made from one of the examples."""

import io

import numpy as np
from PIL import Image

from tests.server import ROOT

SEED = 7


def small_png() -> bytes:
    """A PNG of 64 x 64 pixels."""
    return _encode(_photo((64, 64)), "PNG")


def photo_png() -> bytes:
    """A PNG of 500 x 375 pixels; unlike JPEG, it is never decoded at a reduced size."""
    return _encode(_photo((500, 375)), "PNG")


def small_jpeg() -> bytes:
    """A JPEG of 64 x 64 pixels, about 2 kB."""
    return _encode(_photo((64, 64)), "JPEG")


def photo() -> bytes:
    """A JPEG of 500 x 375 pixels, a usual size in ImageNet."""
    return _encode(_photo((500, 375)), "JPEG")


def camera_photo() -> bytes:
    """A JPEG of 12 megapixels with sensor noise; without noise, a JPEG of this size would decode too fast."""
    picture = np.asarray(_photo((4000, 3000)), np.int16)
    noise = np.random.default_rng(SEED).normal(0, 4, picture.shape)
    return _encode(Image.fromarray((picture + noise).clip(0, 255).astype(np.uint8)), "JPEG")


def _photo(size: tuple[int, int]) -> Image.Image:
    with Image.open(ROOT / "examples" / "espresso.jpg") as picture:
        return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _encode(picture: Image.Image, format_name: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, format_name, quality=90)
    return file.getvalue()
