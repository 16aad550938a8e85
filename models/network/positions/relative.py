"""Relative position biases: numbers added to attention logits, by how far apart two patches are.

In: the grid of an image. Out: the bias of each block.
Knows nothing of attention or of the network.

A block has a number for each head and each offset between two patches, in rows and columns. It is learned, in a table
for the offsets of the native grid, which is resampled for another grid; or a small network computes it for any offset.

Sources: Bao et al. 2021 (BEiT, arXiv 2106.08254), microsoft/unilm `beit/modeling_finetune.py`; resampling as in
timm's `resize_rel_pos_bias_table` and transformers' `BeitRelativePositionBias`; logarithmic offsets as in Liu et al.
2021 (Swin V2, arXiv 2111.09883) and timm's `RelPosMlp`.
Shapes: N tokens of one image, P prefix tokens, H heads, L blocks, h x w the grid of an image, gh x gw the native grid,
R = 2 h - 1 and C = 2 w - 1 the offsets in rows and in columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network.positions.cache import GridCache
from models.network.positions.learned import Grid

CACHED_NUMBERS = 2**24
"""Numbers in the cache of tables, over all grids: 64 MiB in float32."""

MAX_MATRIX = 2**24
"""Numbers of a bias (heads, N, N) in memory at a time, but at least one head's: 64 MiB in float32."""

OffsetResampling = Literal["geometric", "bilinear"]
"""How a table is resampled. geometric: BEiT's rule, see `geometric_axis`. bilinear: transformers."""


@dataclass(frozen=True)
class Relative:
    """How an original implementation computes its biases.

    Args:
        window: the native grid, which the tables were learned on; None: a network computes them.
        hidden_dim: the width of that network; 0: there are tables.
        class_token: the tables have numbers for [CLS]; otherwise its bias is zero.
        shared: all blocks have the same bias.
        resampling: of the tables.
    """

    window: Grid | None = None
    hidden_dim: int = 0
    class_token: bool = False
    shared: bool = False
    resampling: OffsetResampling = "geometric"


@dataclass(frozen=True)
class Bias:
    """The bias of one block for images of one grid.

    The matrices are large, (H, N, N), so they are made when they are read, and for a part of the heads.

    Args:
        offsets: by how many rows and columns the query is further than the key, from -(h - 1) and -(w - 1): (H, R, C).
        class_rows: of [CLS] to a patch, of a patch to [CLS], and of [CLS] to itself: (H, 3); None: zeros.
        num_prefix_tokens: P.
    """

    offsets: Tensor
    class_rows: Tensor | None
    num_prefix_tokens: int

    @property
    def grid(self) -> Grid:
        """The grid of the images."""
        return (self.offsets.shape[1] + 1) // 2, (self.offsets.shape[2] + 1) // 2

    @property
    def length(self) -> int:
        """N."""
        return self.num_prefix_tokens + self.grid[0] * self.grid[1]

    def head_groups(self) -> list[slice]:
        """Return the heads in groups whose matrices fit into `MAX_MATRIX`."""
        heads, step = len(self.offsets), max(1, MAX_MATRIX // self.length**2)
        return [slice(start, min(start + step, heads)) for start in range(0, heads, step)]

    def matrix(self, heads: slice) -> Tensor:
        """Return the bias of all tokens for these heads: (heads, N, N), queries before keys."""
        prefix, (h, w) = self.num_prefix_tokens, self.grid
        offsets = self.offsets[heads]
        matrix = offsets.new_zeros(len(offsets), self.length, self.length)
        patches = matrix[:, prefix:, prefix:].unflatten(2, (h, w)).unflatten(1, (h, w))  # (heads, h, w, h, w)
        # Windows of offsets: key (k, l) of query (i, j) is at (i - k, j - l), so the keys run backwards.
        patches.copy_(offsets.unfold(1, h, 1).unfold(2, w, 1).flip(3, 4))
        return self._with_class(matrix, heads)

    def leading(self, heads: slice, count: int) -> Tensor:
        """Return the rows of `matrix` of the first `count` queries: (heads, count, N)."""
        if count > self.num_prefix_tokens:
            return self.matrix(heads)[:, :count]
        offsets = self.offsets[heads]
        return self._with_class(offsets.new_zeros(len(offsets), count, self.length), heads)

    def _with_class(self, matrix: Tensor, heads: slice) -> Tensor:
        """Write the numbers of [CLS] into the first row and the first column."""
        if self.class_rows is not None:
            to_patch, from_patch, to_itself = self.class_rows[heads].unsqueeze(1).unbind(2)  # (heads, 1) each
            matrix[:, 0, 1:], matrix[:, 1:, 0], matrix[:, :1, 0] = to_patch, from_patch, to_itself
        return matrix


def geometric_axis(old: int, new: int) -> Tensor:
    """Return the matrix that resamples one axis of a table by BEiT's rule: (2 new - 1, 2 old - 1), float64.

    The learned offsets are put at distances 1, 1 + q, 1 + q + q^2, ... on both sides of 0, so that the last one is the
    last offset of the new grid; between them, the numbers are interpolated linearly, as timm does it. q is from 1.01 to
    1.5, found by bisection. (BEiT's own code, for fine-tuning, interpolates by cubic splines of SciPy.)

    Args:
        old: the side of the native grid.
        new: the side of the new one.
    """
    low, high, ratio = 1.01, 1.5, 1.01
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio ** (old - 1)) / (1 - ratio) > new - 1:
            high = ratio
        else:
            low = ratio
    distances = (ratio ** torch.arange(old - 1, dtype=torch.float64)).cumsum(0)
    learned = torch.cat([-distances.flip(0), distances.new_zeros(1), distances])  # (2 old - 1,)
    wanted = torch.arange(-(new - 1), new, dtype=torch.float64).clamp(learned[0], learned[-1])  # (2 new - 1,)
    if old == 1:
        return torch.ones(len(wanted), 1, dtype=torch.float64)
    right = torch.searchsorted(learned, wanted).clamp(min=1)
    matrix = wanted.new_zeros(len(wanted), len(learned))
    share = (wanted - learned[right - 1]) / (learned[right] - learned[right - 1])
    rows = torch.arange(len(wanted))
    matrix[rows, right - 1], matrix[rows, right] = 1 - share, share
    return matrix


def resample_offsets(offsets: Tensor, grid: Grid, rule: OffsetResampling) -> Tensor:
    """Resample the numbers of all offsets to another grid: (L, H, 2 gh - 1, 2 gw - 1) -> (L, H, R, C), float32."""
    native = (offsets.shape[2] + 1) // 2, (offsets.shape[3] + 1) // 2
    if native == grid:
        return offsets
    if rule == "bilinear":
        return F.interpolate(offsets, size=(2 * grid[0] - 1, 2 * grid[1] - 1), mode="bilinear")
    # Both axes, also one that keeps its length: its ratio is not 1, so it changes too.
    rows, columns = (geometric_axis(old, new) for old, new in zip(native, grid, strict=True))
    return torch.einsum("rh,cw,lnhw->lnrc", rows, columns, offsets.double()).float()


def log_offsets(grid: Grid) -> Tensor:
    """Return sign(d) log(1 + |d|) of every offset d, in rows and columns: (R, C, 2)."""
    axes = [torch.arange(-(side - 1), side, dtype=torch.float32) for side in grid]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return offsets.sign() * offsets.abs().log1p()


class RelativeBias(nn.Module):
    """The biases of all blocks for an image of any grid: a block and a grid -> `Bias`.

    The weights stay in float32 on the CPU wherever the network is moved to, as learned position embeddings do. The
    numbers of a grid are computed once for all blocks and cached.
    """

    tables: Tensor  # (L, H, 2 gh - 1, 2 gw - 1), with L = 1 if all blocks share one
    class_rows: Tensor  # (L, H, 3)
    fc1_weight: Tensor  # (L, hidden, 2), or the network instead of tables
    fc1_bias: Tensor
    fc2_weight: Tensor  # (L, H, hidden)
    fc2_bias: Tensor

    def __init__(self, rule: Relative, depth: int, num_heads: int, num_prefix_tokens: int) -> None:
        super().__init__()
        layers = 1 if rule.shared else depth
        self.rule = rule
        self.num_prefix_tokens = num_prefix_tokens
        shapes: dict[str, tuple[int, ...]] = {}
        if rule.window is not None:
            shapes["tables"] = (num_heads, 2 * rule.window[0] - 1, 2 * rule.window[1] - 1)
            shapes |= {"class_rows": (num_heads, 3)} if rule.class_token else {}
        else:
            shapes |= {"fc1_weight": (rule.hidden_dim, 2), "fc1_bias": (rule.hidden_dim,)}
            shapes |= {"fc2_weight": (num_heads, rule.hidden_dim), "fc2_bias": (num_heads,)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.empty(layers, *shape))
        self._cache: GridCache[Tensor] = GridCache(CACHED_NUMBERS, Tensor.numel)

    def forward(self, block: int, grid: Grid, device: torch.device, dtype: torch.dtype) -> Bias:
        """Return the bias of a block for images of this grid."""
        layer = 0 if self.rule.shared else block
        offsets = self._cache.get((grid, device, dtype), lambda: self._offsets(grid).to(device, dtype))
        if not self.rule.class_token:
            return Bias(offsets[layer], None, self.num_prefix_tokens)
        class_rows = self._cache.get(("class rows", device, dtype), lambda: self.class_rows.to(device, dtype))
        return Bias(offsets[layer], class_rows[layer], self.num_prefix_tokens)

    def _offsets(self, grid: Grid) -> Tensor:
        """Return the numbers of all offsets between patches of an image: float32 (L, H, R, C)."""
        if self.rule.window is not None:
            return resample_offsets(self.tables, grid, self.rule.resampling)
        coordinates = log_offsets(grid)
        return torch.stack([self._by_network(layer, coordinates) for layer in range(len(self.fc1_weight))])

    def _by_network(self, layer: int, coordinates: Tensor) -> Tensor:
        """Return the numbers that the network of a layer computes: (R, C, 2) -> (H, R, C)."""
        hidden = F.linear(coordinates, self.fc1_weight[layer], self.fc1_bias[layer]).relu()
        return F.linear(hidden, self.fc2_weight[layer], self.fc2_bias[layer]).permute(2, 0, 1)

    def _apply(self, _fn: Callable[[Tensor], Tensor], _recurse: bool = True) -> Self:
        # `.to()` and `.half()` end here; they must not convert the weights.
        return self
