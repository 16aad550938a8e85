"""Pixels to the device, and results back: one after the other with what it computes, or beside it.

A device that runs one batch at a time has nothing to compute while pixels are copied to it, while Python starts the
operations, and while results are copied back. With two batches at once, each on a thread of its own, one is prepared
while the other computes (`OverlappedCopies`, for CUDA).

Shapes: n images of height x width pixels.
Source: https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html, and CUDA semantics in torch's notes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.preprocess import Pixels

PINNED_BYTES = 2**20
"""The largest value that is copied to pinned memory, of which torch gives none back. Vectors and classes of a batch
have less; the tokens of an image may have more."""

Arrive = Callable[[], Tensor]
"""Returns pixels on the device, for operations that are started after it on the same thread."""

Finish = Callable[[], list[np.ndarray]]
"""Waits until values have reached the CPU, and returns them."""


class Copies:
    """Copies that are in one order with what the device computes.

    Args:
        device: to which pixels are copied.
    """

    turn: AbstractContextManager[Any] = nullcontext()
    """Held while the operations of a batch are started, from the arrival of its pixels to the start of its results."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pinned = device.type == "cuda"
        """Whether the CPU's side of copies is pinned memory: only then does the device copy without the CPU."""

    def upload(self, pixels: Sequence[Pixels]) -> Arrive:
        """Start to copy images of one size and type, (3, height, width) each, as (n, 3, height, width)."""
        moved = self._stacked(pixels).to(self.device, non_blocking=True)
        return lambda: moved

    def fetch(self, values: Sequence[Tensor]) -> Finish:
        """Start to copy values of any shapes to the CPU, into memory that nothing else uses."""
        return lambda: [value.to("cpu", copy=True).contiguous().numpy() for value in values]

    def _stacked(self, pixels: Sequence[Pixels]) -> Tensor:
        """Return images in one piece of memory; torch keeps pinned memory until the copies from it have ended."""
        first = torch.from_numpy(pixels[0])
        batch = torch.empty(len(pixels), *first.shape, dtype=first.dtype, pin_memory=self.pinned)
        np.stack(pixels, out=batch.numpy())
        return batch


class OverlappedCopies(Copies):
    """Copies on CUDA streams of their own, for threads that each run a batch.

    All threads compute on one stream: batches do not compete for the device, and graphs may share memory. Events order
    the streams. A thread waits for its results, and for the device where a grid of patches is new to the network, whose
    positions are then copied from memory that is not pinned.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.turn = Lock()
        self._up, self._down = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def upload(self, pixels: Sequence[Pixels]) -> Arrive:
        """Start to copy images while the device computes; it waits for them where they arrive."""
        stacked = self._stacked(pixels)
        with self._on(self._up):
            moved = torch.empty_like(stacked, device=self.device)
            self._copy(moved, stacked)
        there = self._up.record_event()

        def arrive() -> Tensor:
            compute = torch.cuda.current_stream(self.device)
            compute.wait_event(there)
            # Without it, torch gives the memory to the next copy as soon as no variable holds it.
            moved.record_stream(compute)
            return moved

        return arrive

    def fetch(self, values: Sequence[Tensor]) -> Finish:
        """Start to copy values as soon as they are computed, while the device computes the next batch."""
        self._down.wait_event(torch.cuda.current_stream(self.device).record_event())
        with self._on(self._down):
            landed = [self._landing(value) for value in values]
        # A thread that waits for this event leaves its core to others, which decode.
        done = torch.cuda.Event(blocking=True)
        done.record(self._down)

        def finish() -> list[np.ndarray]:
            done.synchronize()
            with self._on(self._down):
                # Of pinned memory a copy, too: it is scarce, and an answer may be cached.
                return [each.to("cpu", copy=True).contiguous().numpy() for each in landed]

        return finish

    def _landing(self, value: Tensor) -> Tensor:
        """Start to copy a value to pinned memory; return that, or a large value itself, which is copied later."""
        value.record_stream(self._down)
        if value.nbytes > PINNED_BYTES:
            return value
        landed = torch.empty(value.shape, dtype=value.dtype, pin_memory=self.pinned)
        self._copy(landed, value)
        return landed

    @contextmanager
    def _on(self, stream: torch.cuda.Stream) -> Iterator[None]:
        """Start operations on a stream. Without the first, torch would also set itself up on the default GPU."""
        with torch.cuda.device(self.device), torch.cuda.stream(stream):
            yield

    @staticmethod
    def _copy(target: Tensor, source: Tensor) -> None:
        target.copy_(source, non_blocking=True)
