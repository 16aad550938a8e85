"""The weights of relative position biases: from the tensors of a checkpoint, and back to those of timm.

Files have the weights of each block, or of all blocks, in tensors of their own; the network has those of all blocks in
one tensor.
Source of timm's names: `timm/models/beit.py` and `timm/models/vision_transformer_relpos.py`.
Shapes: L blocks, or 1 if all blocks share a bias, H heads, gh x gw the native grid.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.layouts.tensors import Tensors
from models.network.positions.relative import Relative

LAYERS = [(layer, part) for layer in ("fc1", "fc2") for part in ("weight", "bias")]
BEIT_NAMES = ("rel_pos_bias", "blocks.{}.attn")
RELPOS_NAMES = ("shared_rel_pos", "blocks.{}.attn.rel_pos")
"""Names of timm's modules, for a bias of all blocks and of each block."""


def take_relative(tensors: Tensors, rule: Relative, depth: int) -> dict[str, Tensor]:
    """Return the weights under the network's names.

    A table of all blocks beside a table of each block is added to those.
    """
    places = ["relative"] if rule.shared else [f"blocks.{i}.relative" for i in range(depth)]
    if rule.window is None:
        return {
            f"relative.{layer}_{part}": torch.stack([tensors.take(f"{place}.{layer}.{part}") for place in places])
            for layer, part in LAYERS
        }
    tables = torch.stack([tensors.take(f"{place}.table") for place in places]).mT  # (L, H, rows)
    if not rule.shared and "relative.table" in tensors:
        tables = tables + tensors.take("relative.table").T
    height, width = (2 * side - 1 for side in rule.window)
    weights = {"relative.tables": tables[:, :, : height * width].unflatten(2, (height, width))}
    return weights | ({"relative.class_rows": tables[:, :, height * width :]} if rule.class_token else {})


def timm_relative(weights: Mapping[str, Tensor], rule: Relative, names: tuple[str, str]) -> dict[str, Tensor]:
    """Return the weights under timm's names.

    Args:
        weights: under the network's names.
        rule: of the network.
        names: `BEIT_NAMES` or `RELPOS_NAMES`.
    """
    if rule.window is None:
        found = {f"mlp.{layer}.{part}": weights[f"relative.{layer}_{part}"] for layer, part in LAYERS}
    else:
        rows = [weights["relative.tables"].flatten(2)] + ([weights["relative.class_rows"]] if rule.class_token else [])
        found = {"relative_position_bias_table": torch.cat(rows, dim=2).mT}  # (L, rows, H)
    shared, of_block = names
    return {
        f"{shared if rule.shared else of_block.format(i)}.{name}": layer
        for name, layers in found.items()
        for i, layer in enumerate(layers)
    }
