"""How much harm the rounding of each layer does to the answers, and which layers are better left as they are."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network.kernels.quantized import Grid8
from models.network.vit import Readout, VisionTransformer
from models.quantization.observe import Images, Inputs, batches, everything, hooked
from models.quantization.rounding import nearest, weight_scales

ALLOWED = 5e-4
"""Harm that all layers of 8 bits together may do by the estimate: 1 - cosine, the mean over the images."""

Progress = Callable[[str], None]


@torch.inference_mode()
def vectors(network: VisionTransformer, images: Images) -> Tensor:
    """Return the default vector of each image: (B, F)."""
    parts = []
    for batch in batches(network, images):
        features = network(batch, everything(network))
        vector = features.cls if Readout.CLS in network.readouts else features.native
        assert vector is not None  # noqa: S101 - it is asked for
        parts.append(vector)
    return torch.cat(parts)


@torch.inference_mode()
def harms(
    network: VisionTransformer, images: Images, inputs: Mapping[str, Inputs], report: Progress
) -> dict[str, float]:
    """Return for each layer the mean of 1 - cosine over the images if this layer alone is rounded."""
    expected, found = vectors(network, images), {}
    for place, (name, seen) in enumerate(inputs.items(), 1):
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)  # noqa: S101 - the names are those of linear layers
        exact, scales = layer.weight, weight_scales(layer.weight)
        layer.weight = nn.Parameter(nearest(exact, scales) * scales[:, None], requires_grad=False)
        grid = Grid8.over(float(seen.low.min()), float(seen.high.max()))
        with hooked(network, {name: partial(_rounded, grid)}):
            cosines = F.cosine_similarity(vectors(network, images), expected)
        layer.weight = exact
        found[name] = float(1 - cosines.mean())
        if place % max(1, len(inputs) // 4) == 0:
            report(f"measured the harm of {place} of {len(inputs)} layers")
    return found


def _rounded(grid: Grid8, _layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Tensor]:
    return (grid.restore(grid.quantize(arguments[0])),)


def left_out(found: Mapping[str, float], costs: Mapping[str, float], allowed: float = ALLOWED) -> tuple[str, ...]:
    """Return the layers to leave as they are, so that the others together do no more harm than allowed.

    Args:
        found: the harm of each layer.
        costs: what it costs to leave a layer as it is. Those with the most harm for it are left first.
        allowed: the sum of the harm of all others.
    """
    worst: Sequence[str] = sorted(found, key=lambda name: found[name] / costs[name], reverse=True)
    total, chosen = sum(found.values()), []
    for name in worst:
        if total <= allowed:
            break
        chosen.append(name)
        total -= found[name]
    # The last ones may have made some of the others unnecessary.
    for name in sorted(chosen, key=lambda name: costs[name], reverse=True):
        if total + found[name] <= allowed:
            chosen.remove(name)
            total += found[name]
    return tuple(name for name in found if name in chosen)


def leaving_costs(network: VisionTransformer, names: Sequence[str]) -> dict[str, float]:
    """Return the products of an image that each layer computes, in products of one token.

    A network with [CLS] mostly answers it, and after the keys and values of the last block computes it alone.
    """
    config = network.config
    tokens = config.num_prefix_tokens + config.grid_size[0] * config.grid_size[1]
    costs: dict[str, float] = {}
    for name in names:
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)  # noqa: S101 - the names are those of linear layers
        alone = config.class_token and name.startswith(f"blocks.{config.depth - 1}.") and not name.endswith("qkv")
        costs[name] = layer.weight.numel() * (1 if alone else tokens)
    return costs
