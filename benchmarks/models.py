"""What is served and what is asked: Vision Transformers of random weights as transformers writes them, and pictures.

Speed does not depend on what weights were trained for, but comparisons do on their answers: the classifiers here are
scaled so that a few classes take most of the probability, and a wrong picture gives another answer.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

import tests.originals  # noqa: F401 - transformers wants torchvision, and here it is one that imports on any build of torch
from tests.server import ROOT

SEED = 7
LOGITS_STD = 3.0


@dataclass(frozen=True)
class Architecture:
    """A network's shape; sides in pixels."""

    name: str
    dim: int
    depth: int
    heads: int
    side: int = 224
    patch: int = 16
    classes: int = 1000

    @property
    def tokens(self) -> int:
        """Patches and [CLS] at the network's own size."""
        return (self.side // self.patch) ** 2 + 1


TOY = Architecture("toy", 64, 2, 2, side=32, classes=10)
"""So small that what remains is the stack around it."""

ARCHITECTURES = {"S": Architecture("ViT-S/16", 384, 12, 6), "B": Architecture("ViT-B/16", 768, 12, 12)}


def write(architecture: Architecture, folder: Path) -> Path:
    """Write a directory of `config.json`, `preprocessor_config.json` and weights, and answer where."""
    torch.manual_seed(SEED)
    config = transformers.ViTConfig(
        hidden_size=architecture.dim,
        num_hidden_layers=architecture.depth,
        num_attention_heads=architecture.heads,
        intermediate_size=4 * architecture.dim,
        image_size=architecture.side,
        patch_size=architecture.patch,
        num_labels=architecture.classes,
    )
    model = transformers.ViTForImageClassification(config)
    # What the classifier reads is normed, so that its logits have the variance dim x std^2.
    torch.nn.init.normal_(model.classifier.weight, std=LOGITS_STD / architecture.dim**0.5)
    place = folder / architecture.name.replace("/", "-")
    model.save_pretrained(place)
    size = {"height": architecture.side, "width": architecture.side}
    transformers.ViTImageProcessor(size=size).save_pretrained(place)
    return place


def small_png() -> bytes:
    """64 x 64."""
    return _file(_photo((64, 64)), "PNG")


def photo_png() -> bytes:
    """500 x 375, in a format that is always decoded whole."""
    return _file(_photo((500, 375)), "PNG")


def small_jpeg() -> bytes:
    """64 x 64, some 2 kB."""
    return _file(_photo((64, 64)), "JPEG")


def photo() -> bytes:
    """500 x 375, as ImageNet's are."""
    return _file(_photo((500, 375)), "JPEG")


def camera_photo() -> bytes:
    """12 megapixels, with a camera's noise: without it a JPEG so large would be too easy to decode."""
    picture = np.asarray(_photo((4000, 3000)), np.int16)
    noise = np.random.default_rng(SEED).normal(0, 4, picture.shape)
    return _file(Image.fromarray((picture + noise).clip(0, 255).astype(np.uint8)), "JPEG")


def _photo(size: tuple[int, int]) -> Image.Image:
    with Image.open(ROOT / "examples" / "espresso.jpg") as picture:
        return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _file(picture: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, quality=90)
    return file.getvalue()
