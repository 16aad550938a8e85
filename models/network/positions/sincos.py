"""Position embeddings by sines and cosines of a patch's row and column, which no checkpoint stores.

In: the grid of an image. Out: the embeddings of that grid.
Knows nothing of tokens or of the network.

Source: AIMv2 (Fini et al. 2024, arXiv 2411.14402) at native resolutions, `get_sincos_pos_embed` of apple/ml-aim.
Shapes: h x w grid of an image, D embedding dimension.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.network.positions.cache import GridCache
from models.network.positions.learned import CACHED_POSITIONS, Grid


@dataclass(frozen=True)
class SinCos:
    """How an original implementation computes its embeddings: sin and cos of the column, then sin and cos of the row.

    Args:
        base: the frequencies are `base ** (-4 i / D)` for i = 0 ... D / 4 - 1.
    """

    base: float = 10_000.0


class SinCosEmbedding(nn.Module):
    """Embeddings of any grid, computed in float64; each grid is computed once and cached."""

    def __init__(self, rule: SinCos, embed_dim: int) -> None:
        super().__init__()
        self.rule = rule
        self.embed_dim = embed_dim
        self._cache: GridCache[Tensor] = GridCache(CACHED_POSITIONS, len)

    def forward(self, grid: Grid, _pixels: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the position embeddings of an image cut into `grid`: (h * w, D)."""
        return self._cache.get((grid, device, dtype), lambda: self._compute(grid).to(device, dtype))

    def _compute(self, grid: Grid) -> Tensor:
        quarter = self.embed_dim // 4
        frequencies = self.rule.base ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
        sides = [torch.arange(side, dtype=torch.float64) for side in grid]
        rows, columns = (axis.flatten()[:, None] * frequencies for axis in torch.meshgrid(*sides, indexing="ij"))
        return torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], dim=1).float()
