"""The models of the benchmark: Vision Transformers with random weights, saved by transformers.

Speed does not depend on the weights, but comparing answers does: the classifiers are scaled so that a few classes get
most of the probability, and a wrong picture gives another answer.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

import tests.originals  # noqa: F401 - transformers imports torchvision; this makes it importable with any build of torch

SEED = 7
LOGITS_STD = 3.0


@dataclass(frozen=True)
class Architecture:
    """The shape of a network; `side` and `patch` in pixels."""

    name: str
    dim: int
    depth: int
    heads: int
    side: int = 224
    patch: int = 16
    classes: int = 1000

    @property
    def tokens(self) -> int:
        """The number of tokens at the network's own size, [CLS] included."""
        return (self.side // self.patch) ** 2 + 1


TOY = Architecture("toy", 64, 2, 2, side=32, classes=10)
"""So small that a request's time is that of the stack around the network."""

ARCHITECTURES = {"S": Architecture("ViT-S/16", 384, 12, 6), "B": Architecture("ViT-B/16", 768, 12, 12)}


def write(architecture: Architecture, folder: Path) -> Path:
    """Write a directory with `config.json`, `preprocessor_config.json` and weights, and return its path."""
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
    # The classifier's input is normalised, so its logits have the variance dim x std^2.
    torch.nn.init.normal_(model.classifier.weight, std=LOGITS_STD / architecture.dim**0.5)
    directory = folder / architecture.name.replace("/", "-")
    model.save_pretrained(directory)
    size = {"height": architecture.side, "width": architecture.side}
    transformers.ViTImageProcessor(size=size).save_pretrained(directory)
    return directory
