"""Checkpoints of plain Vision Transformers with random weights in timm's layout, and the multiplications they need.

Speed does not depend on the weights.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

CLASSES = 1000

LAYERS = (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4))
"""The linear layers of a block, with their rows and columns as multiples of the embedding dimension."""


@dataclass(frozen=True)
class Shape:
    """The shape of a network; `side` and `patch` in pixels."""

    name: str
    architecture: str
    dim: int
    depth: int
    side: int = 224
    patch: int = 16

    @property
    def tokens(self) -> int:
        """The number of tokens of an image of the network's own size, [CLS] included."""
        return (self.side // self.patch) ** 2 + 1

    @property
    def multiplications(self) -> int:
        """Multiplications of matrix products to classify one image.

        In the last block, queries, attention and MLP are those of [CLS] only; keys and values are those of all tokens.
        """
        n, d = self.tokens, self.dim
        block = 12 * n * d * d + 2 * n * n * d
        last = 2 * n * d * d + 10 * d * d + 2 * n * d
        return (n - 1) * 3 * self.patch**2 * d + (self.depth - 1) * block + last + d * CLASSES


SHAPES = {
    "T": Shape("ViT-Ti/16", "vit_tiny_patch16_224", 192, 12),
    "S": Shape("ViT-S/16", "vit_small_patch16_224", 384, 12),
    "B": Shape("ViT-B/16", "vit_base_patch16_224", 768, 12),
    "L": Shape("ViT-L/16", "vit_large_patch16_224", 1024, 24),
}


def write(shape: Shape, folder: Path) -> Path:
    """Write a directory with `config.json` and weights, as timm saves them, and return its path."""
    generator = torch.Generator().manual_seed(7)
    dim = shape.dim

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator) * 0.02

    tensors = {
        "cls_token": random(1, 1, dim),
        "pos_embed": random(1, shape.tokens, dim),
        "patch_embed.proj.weight": random(dim, 3, shape.patch, shape.patch),
        "patch_embed.proj.bias": random(dim),
        **_norm("norm", dim),
        # The classifier's input is normalised; these logits have a standard deviation of 3.
        "head.weight": torch.randn(CLASSES, dim, generator=generator) * 3 / dim**0.5,
        "head.bias": random(CLASSES),
    }
    for number in range(shape.depth):
        block = f"blocks.{number}"
        tensors |= _norm(f"{block}.norm1", dim) | _norm(f"{block}.norm2", dim)
        for layer, rows, columns in LAYERS:
            tensors[f"{block}.{layer}.weight"] = random(rows * dim, columns * dim)
            tensors[f"{block}.{layer}.bias"] = random(rows * dim)
    directory = folder / shape.architecture
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    config = {"architecture": shape.architecture, "num_classes": CLASSES, "pretrained_cfg": _preprocessing(shape)}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def _norm(name: str, dim: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.ones(dim), f"{name}.bias": torch.zeros(dim)}


def _preprocessing(shape: Shape) -> dict[str, object]:
    half = [0.5, 0.5, 0.5]
    size = {"input_size": [3, shape.side, shape.side], "crop_pct": 0.9, "interpolation": "bicubic"}
    return {"mean": half, "std": half, "num_classes": CLASSES, **size}
