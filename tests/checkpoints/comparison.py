"""Compare an original with the network on the same pictures."""

import torch
from torch import Tensor

from models.checkpoints.checkpoint import build, open_checkpoint
from models.network.vit import Features, VisionTransformer
from tests.checkpoints.original import Original, pictures

BAR = 1e-5
"""Largest allowed difference, relative to the largest absolute value of the original's answer or to 1 if larger."""


def open_network(original: Original) -> VisionTransformer:
    return build(open_checkpoint(str(original.path), **original.options))


def differences(original: Original, network: VisionTransformer) -> dict[str, dict[str, float]]:
    """Return by size and readout the largest difference, on the scale of `BAR`."""
    found: dict[str, dict[str, float]] = {}
    for name, size in original.sizes.items():
        images = pictures(size)
        with torch.inference_mode():
            theirs = original.forward(images)
            ours = network(list(images))
        found[name] = {what: difference(value, ours, what) for what, value in theirs.items()}
    return found


def difference(theirs: Tensor, ours: Features, what: str) -> float:
    value = getattr(ours, what)
    assert value is not None, f"{what} was not read"
    assert value.shape == theirs.shape, (what, value.shape, theirs.shape)
    return float((value - theirs).abs().max() / max(1.0, float(theirs.abs().max())))


def worst(found: dict[str, dict[str, float]]) -> float:
    return max(value for row in found.values() for value in row.values())
