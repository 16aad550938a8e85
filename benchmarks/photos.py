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


def calibration(count: int = 64) -> list[Image.Image]:
    """Pictures to quantise with: crops of the examples."""
    return _crops(count, SEED)


def other_crops(count: int = 64) -> list[bytes]:
    """PNG files to compare the answers with: other crops of the examples, which are decoded in the same way by all."""
    return [_encode(crop, "PNG") for crop in _crops(count, SEED + 1)]


def _crops(count: int, seed: int) -> list[Image.Image]:
    """Return windows of the examples, of random place and size, some mirrored."""
    random = np.random.default_rng(seed)
    pictures = [Image.open(path).convert("RGB") for path in sorted((ROOT / "examples").glob("*.[jp][pn]g"))]
    crops = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        side = int(random.uniform(0.3, 1) * min(picture.size))
        left, top = (int(random.uniform(0, whole - side)) for whole in picture.size)
        crop = picture.crop((left, top, left + side, top + side)).resize((256, 256), Image.Resampling.LANCZOS)
        crops.append(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 1 / 2 else crop)
    return crops


def _photo(size: tuple[int, int]) -> Image.Image:
    with Image.open(ROOT / "examples" / "espresso.jpg") as picture:
        return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _encode(picture: Image.Image, format_name: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, format_name, quality=90)
    return file.getvalue()
