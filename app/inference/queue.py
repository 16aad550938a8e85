"""The bounded queue between requests and the device: admission, withdrawal, and what goes into the next batch.

Space is reserved before the work is ready, so that an image that does not fit is refused before it is decoded. The
event loop puts work in and the device thread takes it out; a lock guards both. The queue reads the cost and the
deadline of work, and nothing else.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

P = TypeVar("P")  # payload
A = TypeVar("A")  # answer


@dataclass(frozen=True)
class Work(Generic[P]):
    """A payload for the backend, and its cost in the units of the batch budget (tokens)."""

    cost: int
    payload: P


@dataclass(frozen=True)
class Result(Generic[A]):
    """The answer to a piece of work, or its error; and how long it waited and ran, in seconds."""

    answer: A | Exception
    queue_s: float
    run_s: float


class QueueFull(Exception):
    """The queue has no space for this work; a retry may succeed after `retry_after_s` whole seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


@dataclass(eq=False)
class Entry(Generic[P, A]):
    """A piece of work in the queue, the future that its caller awaits, and its deadline."""

    work: Work[P]
    future: asyncio.Future[Result[A]]
    queued_at: float
    deadline: float

    def fail(self, error: Exception) -> None:
        """Set the error on the future, unless the caller has gone. Call it on the event loop."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # a request of several reads the first error only; asyncio would warn of the others


class Reservation:
    """Space in the queue for work that is still being prepared; leaving the `with` block releases what was not used.

    cost: the space that is left.
    """

    def __init__(self, cost: int, release: Callable[["Reservation"], None]) -> None:
        self.cost = cost
        self._release = release

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release(self)


class Queue(Generic[P, A]):
    """A first-in, first-out queue with a limit on the total cost.

    Args:
        max_cost: the limit; an empty queue accepts work of any cost. None: the limit is not known yet, and nothing is
            refused.
    """

    def __init__(self, max_cost: int | None = None) -> None:
        self.max_cost = max_cost
        self.cost = 0
        """Cost of the waiting work and of the reservations together."""
        self.cost_per_s = 0.0
        """Measured throughput; 0 before the first batch."""
        self._entries: deque[Entry[P, A]] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def retry_after_s(self) -> int:
        """Estimate the whole seconds until the queue is empty, from 1 to 60."""
        return min(60, max(1, math.ceil(self.cost / self.cost_per_s))) if self.cost_per_s else 1

    def has_space(self, cost: int) -> bool:
        """Whether work of this cost would be accepted now."""
        return self.max_cost is None or not self.cost or self.cost + cost <= self.max_cost

    def reserve(self, cost: int) -> Reservation:
        """Reserve space for work that is still to be prepared. Raises QueueFull."""
        with self._changed:
            if not self.has_space(cost):
                raise QueueFull(self.retry_after_s)
            self.cost += cost
        return Reservation(cost, self._release)

    def put(self, entries: Sequence[Entry[P, A]], reservation: Reservation | None = None) -> None:
        """Add all entries or none; the reservation's space is used first. Raises QueueFull."""
        cost = sum(entry.work.cost for entry in entries)
        with self._changed:
            kept = reservation.cost if reservation else 0
            self.cost -= kept
            if cost > kept and not self.has_space(cost):
                self.cost += kept
                raise QueueFull(self.retry_after_s)
            if reservation:
                reservation.cost = 0
            self._entries.extend(entries)
            self.cost += cost
            self._changed.notify()

    def withdraw(self, entries: Sequence[Entry[P, A]]) -> None:
        """Remove the entries whose callers have gone, unless a batch has taken them already."""
        abandoned = {entry for entry in entries if not entry.future.done() or entry.future.cancelled()}
        if abandoned:
            with self._changed:
                left = [entry for entry in self._entries if entry not in abandoned]
                self.cost -= sum(entry.work.cost for entry in self._entries) - sum(entry.work.cost for entry in left)
                self._entries = deque(left)

    def take(self, budget: Callable[[], int]) -> tuple[list[Entry[P, A]], list[Entry[P, A]]]:
        """Wait for work, and take the oldest entries that fit into the budget, at least one.

        Returns the batch, and the entries whose deadline has passed. Both are empty only when the queue is closed and
        empty.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._entries or self._closed)
                batch, late = self._next(budget())
                if batch or late or self._closed:
                    return batch, late

    def close(self) -> None:
        """Let `take` return empty lists once nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def clear(self) -> list[Entry[P, A]]:
        """Remove and return all waiting entries."""
        with self._changed:
            entries = list(self._entries)
            self.cost -= sum(entry.work.cost for entry in entries)
            self._entries.clear()
            return entries

    def _next(self, budget: int) -> tuple[list[Entry[P, A]], list[Entry[P, A]]]:
        batch: list[Entry[P, A]] = []
        late: list[Entry[P, A]] = []
        now = time.monotonic()
        while self._entries and (not batch or self._entries[0].work.cost <= budget):
            entry = self._entries.popleft()
            self.cost -= entry.work.cost
            if entry.deadline <= now:
                late.append(entry)
            elif not entry.future.done():
                budget -= entry.work.cost
                batch.append(entry)
        return batch, late

    def _release(self, reservation: Reservation) -> None:
        with self._changed:
            self.cost -= reservation.cost
            reservation.cost = 0
