"""Learned position embeddings, resampled to any grid of patches by every family's rule.

In: embeddings learned on one grid, and the grid of an image. Out: the embeddings of that grid.
Knows nothing of tokens or of the network.

The original implementations resample differently, and each difference changes the output of the network, so the rule is
part of the checkpoint.

Shapes: gh x gw native grid (of the learned embeddings), h x w grid of an image, D embedding dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network.positions.cache import GridCache

Grid = tuple[int, int]
"""Rows, columns of patches."""

CACHED_POSITIONS = 262_144
"""Rows of resampled embeddings in the cache, over all grids: 64 images of 4096 patches. The bound holds whatever sizes
clients request."""


@dataclass(frozen=True)
class Resampling:
    """How an original implementation resamples its position embeddings.

    Args:
        mode, antialias, align_corners: as in `torch.nn.functional.interpolate`.
        offset: added to the sides of the new grid before the scale is computed (DINO adds 0.1, see issue 8 of
            facebookresearch/dino).
        skip: when the embeddings are used without resampling. `grid`: if the grids are equal. `pixels`: if the numbers
            of patches are equal and the image is square in pixels (DINO, DINOv2). The two differ only with an offset,
            which makes resampling to the same grid differ from the identity.
        square: resample to a square of the longer side, and keep its top left corner (timm's NaFlex, to keep the aspect
            ratio).
    """

    mode: Literal["bicubic", "bilinear"] = "bicubic"
    antialias: bool = False
    align_corners: bool = False
    offset: float = 0.0
    skip: Literal["grid", "pixels"] = "grid"
    square: bool = False

    def is_identity(self, native: Grid, grid: Grid, pixels: tuple[int, int]) -> bool:
        """Return whether an image of `pixels` (height, width) cut into `grid` uses the embeddings unchanged."""
        if self.skip == "pixels":
            return native[0] * native[1] == grid[0] * grid[1] and pixels[0] == pixels[1]
        return native == grid


def resample(table: Tensor, grid: Grid, rule: Resampling) -> Tensor:
    """Resample position embeddings to another grid, in float32: (gh, gw, D) -> (h, w, D).

    Source: `interpolate_pos_encoding` of facebookresearch/dino and dinov2, `resample_abs_pos_embed` of timm.
    """
    size = (max(grid), max(grid)) if rule.square else grid
    target: dict[str, Any] = {"size": size}
    if rule.offset:
        # Pass the scale itself: the scale, not the ratio of the sizes, sets the sampling positions.
        scale = tuple((new + rule.offset) / old for new, old in zip(grid, table.shape[:2], strict=True))
        target = {"scale_factor": scale}
    channels_first = table.float().permute(2, 0, 1)[None]  # (1, D, gh, gw)
    resampled = F.interpolate(
        channels_first, mode=rule.mode, antialias=rule.antialias, align_corners=rule.align_corners, **target
    )  # (1, D, h, w), or a square of the longer side
    if resampled.shape[-2:] != size:
        raise ArithmeticError(f"resampling position embeddings to {grid} gave {tuple(resampled.shape[-2:])}")
    return resampled[0, :, : grid[0], : grid[1]].permute(1, 2, 0)  # (h, w, D)


class PositionEmbedding(nn.Module):
    """Learned position embeddings and their resampled forms: a grid of patches -> (h * w, D).

    The table stays in float32 on the CPU wherever the network is moved to: resampled in half precision it would be off
    by up to 2.5e-3. Each grid is resampled once and cached; the least recently used grid is evicted first.
    """

    table: Tensor  # (gh, gw, D)

    def __init__(self, native: Grid, embed_dim: int, rule: Resampling) -> None:
        super().__init__()
        self.register_buffer("table", torch.empty(*native, embed_dim, dtype=torch.float32))
        self.rule = rule
        self._cache: GridCache[Tensor] = GridCache(CACHED_POSITIONS, len)

    def forward(self, grid: Grid, pixels: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the position embeddings of an image of `pixels` (height, width) cut into `grid`: (h * w, D)."""
        native = (self.table.shape[0], self.table.shape[1])
        unchanged = self.rule.is_identity(native, grid, pixels)

        def compute() -> Tensor:
            table = self.table if unchanged else resample(self.table, grid, self.rule)  # (h, w, D)
            return table.flatten(0, 1).to(device, dtype)

        return self._cache.get((None if unchanged else grid, device, dtype), compute)

    def _apply(self, _fn: Callable[[Tensor], Tensor], _recurse: bool = True) -> Self:
        # `.to()` and `.half()` end here; they must not convert the table.
        return self
