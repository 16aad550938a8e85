"""Move what is large from the inputs of linear layers to their weights, which have a scale for each output.

Each input channel is divided by a factor and its weights are multiplied by it, so that the network stays the same
function. The factor of a channel is a^alpha / w^(1 - alpha), for its largest input a and its largest weight w. The
division goes into what comes before: the norm, or the rows of the values for the projection after attention.

Source: SmoothQuant (Xiao et al. 2023, arXiv 2211.10438), with alpha = 0.5 as there.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from models.network.block import Block
from models.network.vit import VisionTransformer
from models.quantization.observe import Inputs

ALPHA = 0.5
LEAST = 1e-5
"""Of inputs and weights, so that a channel that is always zero keeps a factor."""


def smooth(network: VisionTransformer, inputs: Mapping[str, Inputs]) -> None:
    """Change the weights of the blocks in place."""
    config = network.config
    for number, module in enumerate(network.blocks):
        block, name = cast(Block, module), f"blocks.{number}"
        if not config.norm_post:  # otherwise the layers read the residual stream, which nothing can divide
            _move(block.norm1, block.attn.qkv, inputs[f"{name}.attn.qkv"])
            _move(block.norm2, block.mlp.fc1, inputs[f"{name}.mlp.fc1"])
        if not config.attn_norm:
            _move_from_values(block, inputs[f"{name}.attn.proj"])
        else:
            _move(block.attn.norm, block.attn.proj, inputs[f"{name}.attn.proj"])
        if config.mlp_norm:
            _move(block.mlp.norm, block.mlp.fc2, inputs[f"{name}.mlp.fc2"])


def _move(norm: nn.Module, layer: nn.Linear, inputs: Inputs) -> None:
    factor = _factor(layer, inputs)
    for name, tensor in norm.named_parameters():
        setattr(norm, name, _fixed(tensor / factor))
    layer.weight = _fixed(layer.weight * factor)


def _move_from_values(block: Block, inputs: Inputs) -> None:
    layer, qkv = block.attn.proj, block.attn.qkv
    factor = _factor(layer, inputs)
    rows = torch.cat([torch.ones(2 * len(factor)), 1 / factor])
    qkv.weight, qkv.bias = _fixed(qkv.weight * rows[:, None]), _fixed(qkv.bias * rows)
    layer.weight = _fixed(layer.weight * factor)


def _factor(layer: nn.Linear, inputs: Inputs) -> Tensor:
    """Return the factor of each channel (D,); their geometric mean is 1."""
    largest = torch.maximum(inputs.high, -inputs.low).clamp(min=LEAST)
    factor = largest**ALPHA / layer.weight.abs().amax(0).clamp(min=LEAST) ** (1 - ALPHA)
    return factor / factor.log().mean().exp()


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
