"""Position embeddings at any resolution: one function, every family's rule.

In: a table learned on one grid of patches and the grid of the image at hand. Out: the table on that grid.
The rules differ between the original implementations, and each difference is visible in the answers, so the rule
belongs to the checkpoint. Shapes: h, w a grid of patches; D the embedding dimension.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Grid = tuple[int, int]

CACHED_POSITIONS = 262_144
"""Rows of resampled tables that are kept, all grids together: 64 images of 4096 patches, whatever clients ask for."""


@dataclass(frozen=True)
class Resampling:
    """How an original implementation resamples its position table.

    mode, antialias, align_corners: as in `torch.nn.functional.interpolate`.
    offset: added to the new grid's sides before the scale is computed (DINO adds 0.1, facebookresearch/dino issue 8).
    skip: when the table is used as it is: `grid` where the grids are equal; `pixels` where the counts of patches are
        equal and the image is square in pixels (DINO, DINOv2). They differ only where the offset makes resampling
        to the same grid something else than the identity.
    """

    mode: Literal["bicubic", "bilinear"] = "bicubic"
    antialias: bool = False
    align_corners: bool = False
    offset: float = 0.0
    skip: Literal["grid", "pixels"] = "grid"

    def leaves(self, native: Grid, grid: Grid, pixels: tuple[int, int]) -> bool:
        """Whether an image of `pixels` (height, width) cut into `grid` patches uses the `native` table unchanged."""
        if self.skip == "pixels":
            return native[0] * native[1] == grid[0] * grid[1] and pixels[0] == pixels[1]
        return native == grid


def resample(table: Tensor, grid: Grid, rule: Resampling) -> Tensor:
    """Resample a position table to another grid, in float32: (gh, gw, D) -> (h, w, D).

    Source: `interpolate_pos_encoding` of facebookresearch/dino and dinov2, `resample_abs_pos_embed` of timm.
    """
    # With an offset the scale itself is handed over: it, not the ratio of the sizes, sets where samples are taken.
    target: dict[str, Any] = {"size": grid}
    if rule.offset:
        scale = tuple((new + rule.offset) / old for new, old in zip(grid, table.shape[:2], strict=True))
        target = {"scale_factor": scale}
    channels_first = table.float().permute(2, 0, 1)[None]  # (1, D, gh, gw)
    resampled = F.interpolate(
        channels_first, mode=rule.mode, antialias=rule.antialias, align_corners=rule.align_corners, **target
    )
    if resampled.shape[-2:] != grid:
        raise ArithmeticError(f"resampling to {grid} gave {tuple(resampled.shape[-2:])}")
    return resampled[0].permute(1, 2, 0)  # (h, w, D)


class PositionEmbedding(nn.Module):
    """The learned table, and its resampled forms: a grid of patches -> (h * w, D).

    The table itself stays in float32 on the CPU whatever the network is moved to: resampled in half precision it would
    lose up to 2.5e-3 of itself. Each grid is resampled once and kept, the least recently used forgotten first.
    """

    table: Tensor  # (gh, gw, D)

    def __init__(self, native: Grid, embed_dim: int, rule: Resampling) -> None:
        super().__init__()
        self.register_buffer("table", torch.empty(*native, embed_dim, dtype=torch.float32))
        self.rule = rule
        self._kept: OrderedDict[tuple[Grid | None, torch.device, torch.dtype], Tensor] = OrderedDict()

    def forward(self, grid: Grid, pixels: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Positions for an image of `pixels` (height, width) cut into `grid`: (h * w, D)."""
        native = (self.table.shape[0], self.table.shape[1])
        unchanged = self.rule.leaves(native, grid, pixels)
        key = (None if unchanged else grid, device, dtype)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        table = self.table if unchanged else resample(self.table, grid, self.rule)
        self._kept[key] = table.flatten(0, 1).to(device, dtype)
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > CACHED_POSITIONS:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _apply(self, _fn: Callable[[Tensor], Tensor], _recurse: bool = True) -> Self:
        # `.to()` and `.half()` arrive here: the table is not theirs to move.
        return self
