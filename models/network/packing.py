"""Where the tokens of images of different sizes lie when they are packed into one sequence.

Shapes: B images, N tokens of one image, T tokens of all images together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """Images of equal length that lie side by side in the packed sequence."""

    start: int  # of their first token
    images: int
    length: int  # N, tokens of each

    def of(self, x: Tensor) -> Tensor:
        """Their rows of a packed tensor: (T, ...) -> (images, N, ...), a view."""
        rows = x[self.start : self.start + self.images * self.length]
        return rows.unflatten(0, (self.images, self.length))


@dataclass(frozen=True)
class Packing:
    """Where each image's tokens lie: shorter images first, so that equal lengths are neighbours."""

    order: list[int]  # order[i] is the image that lies in place i
    runs: list[Run]
    _bounds: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "Packing":
        """Pack images of these lengths."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        runs: list[Run] = []
        start = 0
        for image in order:
            length = lengths[image]
            if runs and runs[-1].length == length:
                runs[-1] = Run(runs[-1].start, runs[-1].images + 1, length)
            else:
                runs.append(Run(start, 1, length))
            start += length
        return cls(order, runs)

    def firsts(self, count: int) -> "Packing":
        """Where the tokens lie when each image keeps its first `count` alone."""
        ends = accumulate(run.images for run in self.runs)
        return Packing(
            self.order,
            [Run((end - run.images) * count, run.images, count) for end, run in zip(ends, self.runs, strict=True)],
        )

    def first(self, x: Tensor, count: int) -> Tensor:
        """The first `count` tokens of each image: (T, D) -> (B * count, D), in packed order."""
        return torch.cat([run.of(x)[:, :count].flatten(0, 1) for run in self.runs])

    @property
    def edges(self) -> list[int]:
        """Where each image begins and, last, where all end."""
        return [0, *accumulate(run.length for run in self.runs for _ in range(run.images))]

    def places(self) -> dict[int, slice]:
        """Where each image's tokens lie in the packed sequence."""
        return {image: slice(*place) for image, place in zip(self.order, pairwise(self.edges), strict=True)}

    @property
    def longest(self) -> int:
        """Tokens of the longest image."""
        return max(run.length for run in self.runs)

    def bounds(self, device: torch.device) -> Tensor:
        """The edges on a device, int32 (B + 1,); brought there once for all layers."""
        if device not in self._bounds:
            self._bounds[device] = torch.tensor(self.edges, dtype=torch.int32).to(device)
        return self._bounds[device]

    def unpack(self, x: Tensor) -> Tensor:
        """Rows in packed order -> rows in the order of the images: (B, ...) -> (B, ...)."""
        if self.order == sorted(self.order):
            return x
        places = torch.tensor(self.order).argsort()
        return x[places.to(x.device)]
