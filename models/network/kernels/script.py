"""TorchScript: functions and blocks that run in one call, without Python between their operations.

In: a function, or blocks and an example of their input. Out: what computes the same.
Knows nothing of what blocks do with their packing and their places.

A forward pass on a processor has some 300 operations. Each that Python starts releases Python's lock and waits for it
again, beside another forward pass, decoding and the event loop. The interpreter of TorchScript holds no lock.
torch calls TorchScript deprecated, and names no successor that runs without a C++ compiler. What it cannot compile here
runs as it is.

Source: https://docs.pytorch.org/docs/stable/jit.html.
Shapes: T tokens of all images together, D embedding dimension, R runs of images of equal length.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache, wraps
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from models.network.packing import Packing
from models.network.positions.places import NOWHERE, Places

Function = TypeVar("Function", bound=Callable[..., object])


@cache
def scripted(function: Function) -> Function:
    """Return a function compiled by TorchScript, or itself where this torch or this Python cannot compile it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the deprecation, whose category differs between releases
        try:
            compiled = torch.jit.script(function)
        except Exception:  # noqa: BLE001 - its errors have no class in common
            return function

    @wraps(function)
    def run(*arguments: object) -> object:
        with _as_it_is():
            return compiled(*arguments)

    return cast(Function, run)


def _as_it_is() -> AbstractContextManager[None]:
    """Keep TorchScript from optimising: it compiles again for each new shape, and the result is no faster."""
    return cast(AbstractContextManager[None], torch.jit.optimized_execution(False))  # type: ignore[attr-defined]


class Stack(nn.Module):
    """Blocks that share their places, one after the other: (T, D) -> (T, D)."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, packing: Packing, places: Places) -> Tensor:
        """Run the blocks."""
        for block in self.blocks:
            x = block(x, packing, places)
        return x


class _Recording(nn.Module):
    """A stack whose arguments are tensors alone, which is what a recording takes."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, x: Tensor, table: Tensor, *rotation: Tensor) -> Tensor:
        """Run the blocks: tokens (T, D), runs (R, 3), and cosines and sines where there are rotations -> (T, D)."""
        places = Places((rotation[0], rotation[1])) if rotation else NOWHERE
        return cast(Tensor, self.stack(x, Packing.of_table(table), places))


class Script:
    """A stack of blocks as one call, for tokens of any images.

    Attention has to read the lengths of images from the table of their packing. Several threads may call it at once.

    Args:
        stack: the blocks, as they stay.
        like: tokens (T, D) of an example.
        packing: of the example.
        places: of the example, without a bias.

    Raises whatever torch raises where TorchScript cannot record them.
    """

    def __init__(self, stack: Stack, like: Tensor, packing: Packing, places: Places) -> None:
        inputs = like, packing.table, *(places.rotation or ())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the deprecation, and of numbers that stay as they are in the example
            # A module, whose weights go with it; those of a recorded function would stay until the process ends.
            self._run = torch.jit.trace(_Recording(stack), inputs, check_trace=False)

    def __call__(self, x: Tensor, packing: Packing, places: Places) -> Tensor | None:
        """Return the output for packed tokens, (T, D) -> (T, D); None where gradients are wanted."""
        if torch.is_grad_enabled():
            return None
        with _as_it_is():
            return cast(Tensor, self._run(x, packing.table, *(places.rotation or ())))
