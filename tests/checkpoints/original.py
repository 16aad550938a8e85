"""A tiny original with random parameters, and the checkpoint that it saved, for the parity tests.

Every parameter is random: default initialisation hides mistakes (zero biases, layer scales of 1e-5, zero heads).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Size = tuple[int, int]
Forward = Callable[[Tensor], Mapping[str, Tensor]]

NATIVE, SMALLER, LARGER, WIDE, TALL = (64, 64), (40, 40), (104, 104), (48, 88), (88, 48)
SIZES: dict[str, Size] = {"native": NATIVE, "smaller": SMALLER, "larger": LARGER, "wide": WIDE, "tall": TALL}
SQUARE = {name: size for name, size in SIZES.items() if size[0] == size[1]}
NATIVE_ONLY = {"native": NATIVE}


@dataclass(frozen=True)
class Original:
    """A checkpoint on disk, and the forward pass of its own library.

    Args:
        path: of the checkpoint.
        forward: (B, 3, H, W) -> any of `cls`, `native`, `logits`, `mean`.
        options: further arguments of `open_checkpoint`.
        sizes: at which the original can run.
    """

    path: Path
    forward: Forward
    options: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Size] = field(default_factory=lambda: SIZES)


@dataclass(frozen=True)
class Family:
    """A row of the parity table; `make` saves its original in an empty folder."""

    name: str
    make: Callable[[Path], Original]
    against: str  # the implementation to compare with


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every parameter with random values at the scale of trained networks; set evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            leaf = name.split(".")[-1] if "norm" not in name and ".ln_" not in name else "norm." + name.split(".")[-1]
            parameter.copy_(_scaled(name, leaf, noise))
    return model.requires_grad_(False).eval()


def _scaled(name: str, leaf: str, noise: Tensor) -> Tensor:
    if any(word in name for word in ("gamma", "lambda1", "layer_scale")):
        return 0.5 + 0.2 * noise
    learned = ("token", "pos", "embedding.weight", "class_embedding", "latent", "probe", "freqs")
    if any(word in name for word in learned) and "patch_" not in name and ".mlp." not in name:
        return 0.5 * noise
    if leaf == "bias" or leaf.endswith(".bias") or noise.dim() < 2:
        return 1 + 0.2 * noise if leaf.endswith("weight") else 0.5 * noise
    return noise / (noise.numel() / noise.shape[0]) ** 0.5


def pictures(size: Size, count: int = 2, seed: int = 1) -> Tensor:
    """Random normalised pictures: (count, 3, H, W)."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))
