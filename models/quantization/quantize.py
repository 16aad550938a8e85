"""A network of float32 and images to calibrate it with -> the weights of the network of 8 bits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.network.config import ViTConfig
from models.network.kernels.quantized import Grid8
from models.network.quantized import linear_layers
from models.network.vit import VisionTransformer
from models.quantization.harm import Progress, harms, leaving_costs, left_out
from models.quantization.observe import Images, Inputs, observe
from models.quantization.rounding import round_weights
from models.quantization.smooth import smooth

HARM_TOKENS = 4096
"""Tokens of the images with which the harm of each layer is measured; as many forward passes as there are layers."""

PRODUCTS = 2**27
"""Numbers of the matrices of products in memory at a time: 512 MiB; each further part is a pass over the images."""


@dataclass(frozen=True)
class Quantized:
    """The result.

    config: of the network whose weights these are: what `VisionTransformer.fold` removes, it does not have.
    weights: of the blocks, under the network's names.
    layers, left_out: the names of the linear layers that are of 8 bits, and of those that are not.
    """

    config: ViTConfig
    weights: Mapping[str, Tensor]
    layers: tuple[str, ...]
    left_out: tuple[str, ...]


@torch.inference_mode()
def quantize(network: VisionTransformer, images: Images, report: Progress) -> Quantized:
    """Find scales, round weights and choose the layers that stay as they are.

    Args:
        network: float32, folded, on the CPU; its weights are changed.
        images: to calibrate with, normalised; those of the network's own size first.
        report: receives what is being done.
    """
    names = linear_layers(network.config.depth)
    report("observing layers")
    smooth(network, observe(network, images, names))
    report("observing layers again")
    inputs = observe(network, images, names)
    harm = harms(network, _few(network, images), inputs, report)
    left = left_out(harm, leaving_costs(network, names))
    chosen = tuple(name for name in names if name not in left)
    weights = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("blocks.")}
    for place, group in enumerate(_groups(network, chosen)):
        report(f"rounding weights, part {place + 1}")
        for name, seen in observe(network, images, group, products=True).items():
            weights |= _rounded(name, network.get_submodule(name), seen)
    for name in left:
        weights[f"{name}.weight"] = weights[f"{name}.weight"].bfloat16().float()  # as the file keeps it
    return Quantized(_folded(network.config), weights, chosen, left)


def _rounded(name: str, layer: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Return the tensors of a layer of 8 bits."""
    assert isinstance(layer, nn.Linear)  # noqa: S101 - the names are those of linear layers
    assert inputs.products is not None  # noqa: S101 - they are asked for
    weight, scales = round_weights(layer.weight, inputs.products)
    grid = Grid8.over(float(inputs.low.min()), float(inputs.high.max()))
    return {
        f"{name}.weight": weight,
        f"{name}.weight_scale": scales,
        f"{name}.bias": layer.bias,
        f"{name}.input_scale": torch.tensor(grid.scale),
        f"{name}.input_zero": torch.tensor(float(grid.zero)),
    }


def _few(network: VisionTransformer, images: Images) -> Images:
    """Return the first images that have so many tokens together, and at least one."""
    few: list[Tensor] = []
    tokens = 0
    for image in images:
        tokens += network.config.num_tokens(image.shape[1], image.shape[2])
        if few and tokens > HARM_TOKENS:
            break
        few.append(image)
    return few


def _groups(network: VisionTransformer, names: Sequence[str]) -> list[list[str]]:
    """Return the names in groups whose matrices of products fit into memory together."""
    groups: list[list[str]] = [[]]
    numbers = 0
    for name in names:
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)  # noqa: S101 - the names are those of linear layers
        more = layer.in_features**2
        if groups[-1] and numbers + more > PRODUCTS:
            groups.append([])
            numbers = 0
        groups[-1].append(name)
        numbers += more
    return groups


def _folded(config: ViTConfig) -> ViTConfig:
    rotary = replace(config.rotary, interleaved=False) if config.rotary else None
    return replace(config, rotary=rotary, layer_scale=False)
