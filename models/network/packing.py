"""The packed sequence: where the tokens of images of different sizes lie when they share one tensor.

In: the number of tokens of each image. Out: views and slices of packed tensors.
Knows nothing of attention or of the network.

Images are sorted by length, so that images of equal length are neighbours and can be viewed as one batch:

    images     0: 5 tokens   1: 2 tokens   2: 5 tokens
    packed     1 1 | 0 0 0 0 0 | 2 2 2 2 2
    order      [1, 0, 2]
    runs       Run(start=0, images=1, length=2), Run(start=2, images=2, length=5)

Shapes: B images, N tokens of one image, T tokens of all images together, D embedding dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby, pairwise
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """Images of equal length that lie side by side in the packed sequence.

    Args:
        start: the row of the first token.
        images: the number of images.
        length: N, the number of tokens of each image.
    """

    start: int
    images: int
    length: int

    def view(self, x: Tensor) -> Tensor:
        """Return a view of these images in a packed tensor: (T, ...) -> (images, N, ...)."""
        rows = x[self.start : self.start + self.images * self.length]
        return rows.unflatten(0, (self.images, self.length))


@dataclass(frozen=True)
class Packing:
    """The layout of a packed sequence, shortest images first.

    Args:
        order: `order[i]` is the index of the image at position i of the sequence.
        runs: the images of each length, in packed order.
    """

    order: list[int]
    runs: list[Run]
    _cu_seqlens: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)
    _table: Tensor | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], kinds: Sequence[Any] | None = None) -> "Packing":
        """Return the packing of images with these numbers of tokens.

        Args:
            lengths: of the images, in their order.
            kinds: images of equal length share a run only if their kinds are equal, too; None: they are.
        """
        keys = [(length, kinds[image] if kinds else None) for image, length in enumerate(lengths)]
        order = sorted(range(len(lengths)), key=lambda image: keys[image] if kinds else lengths[image])
        runs: list[Run] = []
        start = 0
        for (length, _), images in groupby(order, key=keys.__getitem__):
            runs.append(Run(start, len(list(images)), length))
            start += runs[-1].images * length
        return cls(order, runs)

    @classmethod
    def of_bounds(cls, bounds: Tensor, longest: int) -> "Packing":
        """Return a packing for attention that reads bounds from memory each time that it runs, and nothing else.

        Args:
            bounds: offsets that may change, int32 (S + 1,); the images are in packed order.
            longest: no image has more tokens than this.
        """
        return cls([], [Run(0, 1, longest)], {bounds.device: bounds})

    @classmethod
    def of_table(cls, table: Tensor) -> "Packing":
        """Return a packing for attention that reads this table of runs each time that it runs, and nothing else."""
        return cls([], [], _table=table)

    def leading(self, count: int) -> "Packing":
        """Return the packing of the same images when each keeps only its first `count` tokens."""
        ends = accumulate(run.images for run in self.runs)
        return Packing(
            self.order,
            [Run((end - run.images) * count, run.images, count) for end, run in zip(ends, self.runs, strict=True)],
        )

    def leading_tokens(self, x: Tensor, count: int) -> Tensor:
        """Return the first `count` tokens of each image: (T, ...) -> (B * count, ...), in packed order."""
        return torch.cat([run.view(x)[:, :count].flatten(0, 1) for run in self.runs])

    def without_leading(self, count: int) -> "Packing":
        """Return the packing of the same images when each loses its first `count` tokens."""
        ends = accumulate(run.images for run in self.runs)
        return Packing(
            self.order,
            [
                Run(run.start - (end - run.images) * count, run.images, run.length - count)
                for end, run in zip(ends, self.runs, strict=True)
            ],
        )

    def trailing_tokens(self, x: Tensor, count: int) -> Tensor:
        """Return all but the first `count` tokens of each image: (T, ...) -> (T - B * count, ...), in packed order."""
        return torch.cat([run.view(x)[:, count:].flatten(0, 1) for run in self.runs])

    @property
    def offsets(self) -> list[int]:
        """The row at which each image starts and, last, T: B + 1 numbers."""
        return [0, *accumulate(run.length for run in self.runs for _ in range(run.images))]

    @property
    def table(self) -> Tensor:
        """The runs: start, images and length of each, int64 (R, 3) on the CPU."""
        if self._table is not None:
            return self._table
        return torch.tensor([[run.start, run.images, run.length] for run in self.runs])

    @property
    def total(self) -> int:
        """T, the number of tokens of all images."""
        last = self.runs[-1]
        return last.start + last.images * last.length

    def slices(self) -> dict[int, slice]:
        """Return the rows of each image, by the image's index."""
        return {image: slice(*rows) for image, rows in zip(self.order, pairwise(self.offsets), strict=True)}

    def first_images(self) -> list[int]:
        """Return the index of the first image of each run."""
        starts = accumulate((run.images for run in self.runs), initial=0)
        return [self.order[start] for start in list(starts)[:-1]]

    def run_of(self, image: int) -> int:
        """Return the index of the run that contains an image."""
        position = self.order.index(image)
        return next(i for i, end in enumerate(accumulate(run.images for run in self.runs)) if position < end)

    @property
    def longest(self) -> int:
        """The number of tokens of the longest image."""
        return max(run.length for run in self.runs)

    def cu_seqlens(self, device: torch.device) -> Tensor:
        """Return the offsets on a device, int32 (B + 1,), as FlashAttention calls them; copied once for all layers."""
        if device not in self._cu_seqlens:
            self._cu_seqlens[device] = on_device(self.offsets, torch.int32, device)
        return self._cu_seqlens[device]

    def unpack(self, x: Tensor) -> Tensor:
        """Return one row per image in the order of the images: (B, ...) in packed order -> (B, ...)."""
        if self.order == sorted(self.order):
            return x
        positions = sorted(range(len(self.order)), key=self.order.__getitem__)
        return x[on_device(positions, torch.int64, x.device)]


def on_device(numbers: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as a tensor on a device, (n,), without waiting for what the device computes.

    From pinned memory the copy is only started; torch keeps that memory until the copy has ended.
    """
    pinned = device.type == "cuda"
    return torch.tensor(numbers, dtype=dtype, pin_memory=pinned).to(device, non_blocking=pinned)
