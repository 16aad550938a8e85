"""Relative position biases: numbers added to attention logits, by how far two patches are apart.

In: the grid of an image. Out: the bias of each block.
Knows nothing of attention or of the network.

Sources: Bao et al. 2021 (BEiT, arXiv 2106.08254), microsoft/unilm `beit/modeling_finetune.py`.
Shapes: N tokens of one image, H heads, L blocks, h x w the grid of an image, gh x gw the native grid.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.network.positions.learned import Grid


@dataclass(frozen=True)
class Relative:
    """How an original implementation computes its biases.

    Args:
        window: the native grid, which the table was learned on.
        class_token: the table ends with three rows: from [CLS] to a patch, from a patch to [CLS], and [CLS] to itself.
        shared: all blocks have the same bias.
    """

    window: Grid
    class_token: bool = True
    shared: bool = False


class RelativeBias(nn.Module):
    """The biases of all blocks for an image of any grid."""

    def __init__(self, rule: Relative, depth: int, num_heads: int) -> None:
        super().__init__()
        height, width = rule.window
        rows = (2 * height - 1) * (2 * width - 1) + 3 * rule.class_token
        self.rule = rule
        self.tables = nn.Parameter(torch.empty(1 if rule.shared else depth, rows, num_heads))

    def forward(self, block: int, grid: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the bias of a block for an image of this grid: (H, N, N)."""
        raise NotImplementedError
