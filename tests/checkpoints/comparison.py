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
            expected = original.forward(images)
            ours = network(list(images))
        found[name] = {what: difference(value, ours, what) for what, value in expected.items()}
    return found


def difference(expected: Tensor, ours: Features, what: str) -> float:
    value = getattr(ours, what)
    assert value is not None, f"{what} was not read"
    assert value.shape == expected.shape, (what, value.shape, expected.shape)
    return relative(expected, value)


def relative(expected: Tensor, value: Tensor) -> float:
    """The largest difference on the scale of `BAR`."""
    return float((value - expected).abs().max() / max(1.0, float(expected.abs().max())))


def worst(found: dict[str, dict[str, float]]) -> float:
    return max(value for row in found.values() for value in row.values())
