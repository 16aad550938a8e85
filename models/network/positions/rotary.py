"""Rotary positions: queries and keys are rotated by angles that depend on where a patch lies.

In: the grid of an image. Out: cosines and sines for its tokens, and rotated queries and keys.
Knows nothing of attention or of the network.

Channels are rotated in pairs, each pair by one angle. A pair is (i, i + d/2), or (2 i, 2 i + 1) in networks that
interleave; `deinterleaved` reorders the weights of such a network, because the first kind is faster. Prefix tokens are
not rotated.

Sources: Su et al. 2021 (arXiv 2104.09864); axial angles as in EVA-02 (arXiv 2303.11331), Perception Encoder (arXiv
2504.13181) and DINOv3 (arXiv 2508.10104); mixed ones as in RoPE-ViT (Heo et al. 2024, arXiv 2403.13298).
Shapes: N tokens of one image, T tokens of all images together, P prefix tokens, L blocks, H heads, d dimension of a
head, h x w the grid of an image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from models.network.positions.cache import GridCache
from models.network.positions.learned import Grid

CACHED_ANGLES = 2**26
"""Cosines and sines in the cache, over all grids: 256 MiB in float32."""

Rotation = tuple[Tensor, Tensor]
"""Cosines (T, 1, d) and sines (T, 1, d / 2) of the angles of packed tokens, or (T, H, ...) if heads differ. The cosines
are there twice, for both channels of each pair, so that `rotate` multiplies whole rows by them."""


@dataclass(frozen=True)
class Rotary:
    """How an original implementation computes its angles.

    Args:
        base: of the axial frequencies, which are `base ** (-4 i / d)` for i = 0 ... d / 4 - 1.
        coordinates: of a patch. `index`: its row and column. `centred`: the centre of the patch, from -1 to 1 on each
            axis, and the frequencies are multiplied by 2 pi (DINOv3).
        axes: which axis has the first half of the angles; `yx` is rows before columns.
        offset: added to the index.
        reference: the grid that index coordinates are scaled to (EVA); None: they are not scaled.
        interleaved: which channels are a pair, see above.
        learned: the frequencies are learned, for each block, head and angle, and each angle mixes both axes (RoPE-ViT).
        rounded: the periods, 1 / frequency, are rounded to bfloat16, as in the published files of DINOv3.
    """

    base: float
    coordinates: Literal["index", "centred"] = "index"
    axes: Literal["yx", "xy"] = "yx"
    offset: float = 0.0
    reference: Grid | None = None
    interleaved: bool = True
    learned: bool = False
    rounded: bool = False

    def positions(self, grid: Grid) -> Tensor:
        """Return the two coordinates of every patch, row by row, in the order of `axes`: float32 (h * w, 2)."""
        sides = [torch.arange(side, dtype=torch.float32) for side in grid]
        if self.coordinates == "centred":
            sides = [2 * ((side + 0.5) / len(side)) - 1 for side in sides]
        else:
            sides = [side + self.offset for side in sides]
        if self.reference is not None:
            sides = [side / len(side) * native for side, native in zip(sides, self.reference, strict=True)]
        rows, columns = (axis.flatten() for axis in torch.meshgrid(*sides, indexing="ij"))
        return torch.stack([rows, columns] if self.axes == "yx" else [columns, rows], dim=1)

    def periods(self, head_dim: int) -> Tensor:
        """Return the numbers that one axis' coordinates are divided by: float32 (d / 4,)."""
        periods = self.base ** (torch.arange(head_dim // 4, dtype=torch.float32) / (head_dim // 4))
        return periods.bfloat16().float() if self.rounded else periods

    def frequencies(self, head_dim: int) -> Tensor:
        """Return the frequencies of one axis: float32 (d / 4,)."""
        return (2 * math.pi if self.coordinates == "centred" else 1) / self.periods(head_dim)


class RotaryEmbedding(nn.Module):
    """Cosines and sines for the tokens of an image of any grid; each grid is computed once and cached.

    Learned frequencies stay in float32 on the CPU wherever the network is moved to: an angle of some tens of radians
    would lose its last digits in half precision.
    """

    frequencies: Tensor  # (2, L, H, d / 2), for x and y, if they are learned

    def __init__(self, rule: Rotary, depth: int, num_heads: int, head_dim: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.rule = rule
        self.head_dim = head_dim
        self.num_prefix_tokens = num_prefix_tokens
        if rule.learned:
            self.register_buffer("frequencies", torch.empty(2, depth, num_heads, head_dim // 2))
        self._cache: GridCache[Rotation] = GridCache(CACHED_ANGLES, lambda rotation: sum(map(Tensor.numel, rotation)))

    def forward(self, grid: Grid, device: torch.device, dtype: torch.dtype) -> Rotation:
        """Return the cosines (1, N, 1, d) and sines (1, N, 1, d / 2) of an image; (L, N, H, ...) if learned."""
        return self._cache.get((grid, device, dtype), lambda: self._compute(grid, device, dtype))

    def _compute(self, grid: Grid, device: torch.device, dtype: torch.dtype) -> Rotation:
        angles = self._angles(self.rule.positions(grid))  # (1 or L, h * w, 1 or H, d / 2)
        prefix = angles.new_zeros(angles.shape[0], self.num_prefix_tokens, *angles.shape[2:])
        angles = torch.cat([prefix, angles], dim=1)  # an angle of 0 leaves a token as it is
        return angles.cos().repeat(1, 1, 1, 2).to(device, dtype), angles.sin().to(device, dtype)

    def _angles(self, positions: Tensor) -> Tensor:
        if self.rule.learned:
            x, y = positions[:, :, None, None].unbind(1)  # (h * w, 1, 1)
            first, second = self.frequencies[:, :, None]  # (L, 1, H, d / 2)
            return x * first + y * second
        angles = positions[:, :, None] * self.rule.frequencies(self.head_dim)  # (h * w, 2, d / 4)
        return angles.flatten(1)[None, :, None]

    def _apply(self, _fn: Callable[[Tensor], Tensor], _recurse: bool = True) -> Self:
        # `.to()` and `.half()` end here; they must not convert the frequencies.
        return self


def pack(rotations: Sequence[Rotation]) -> Rotation:
    """Concatenate the cosines and sines of images in packed order: (N, H, ...) each -> (T, H, ...)."""
    cosines, sines = zip(*rotations, strict=True)
    return torch.cat(cosines), torch.cat(sines)


def rotate(x: Tensor, rotation: Rotation, interleaved: bool) -> Tensor:
    """Rotate queries or keys: (T, H, d) -> (T, H, d)."""
    if interleaved:
        halves = x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        return rotate(halves, rotation, False).unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
    cosines, sines = rotation
    first, second = x.chunk(2, dim=-1)  # (T, H, d / 2) each
    rotated = x * cosines
    half = sines.shape[-1]
    rotated[..., :half].addcmul_(second, sines, value=-1)
    rotated[..., half:].addcmul_(first, sines)
    return rotated


def deinterleaved(rows: Tensor, head_dim: int) -> Tensor:
    """Reorder the output rows of a projection to queries or keys, from pairs (2 i, 2 i + 1) to (i, i + d / 2).

    Queries and keys are reordered alike, so their products are the same.

    Args:
        rows: (H * d, ...), or (d, ...) for the weights of a norm of each head.
        head_dim: d.
    """
    pairs = rows.unflatten(0, (-1, head_dim // 2, 2))  # (H, d / 2, 2, ...)
    return pairs.transpose(1, 2).flatten(0, 2)
