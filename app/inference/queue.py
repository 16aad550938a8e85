"""Work that waits, bounded by what it costs: who may come in, who has left, and what makes up the next batch.

Room is taken before the work is ready: an image that will not fit is refused before it is decoded. Shared by the event
loop, which puts work in, and by the thread that takes it out. Of work it reads the cost and the deadline alone.
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
    """Something to be done: what it costs, in units that the backend's budget is in, and what it is."""

    cost: int
    payload: P


@dataclass(frozen=True)
class Result(Generic[A]):
    """The answer to a piece of work or its error, and how long it waited and ran, in seconds."""

    answer: A | Exception
    queue_s: float
    run_s: float


class QueueFull(Exception):
    """There is no room for this work; it might be worth another try in `retry_after_s` whole seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


@dataclass(eq=False)
class Entry(Generic[P, A]):
    """A piece of work in the queue, and who waits for it until when."""

    work: Work[P]
    future: asyncio.Future[Result[A]]
    queued_at: float
    deadline: float

    def fail(self, error: Exception) -> None:
        """Tell who waits, if somebody still does. To be called on the event loop."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # of several in one request only the first is looked at


class Reservation:
    """Room in the queue for work that is being prepared, given back at the end of the block as far as it was not used.

    cost: what is left of it.
    """

    def __init__(self, cost: int, give_back: Callable[["Reservation"], None]) -> None:
        self.cost = cost
        self._give_back = give_back

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back(self)


class Queue(Generic[P, A]):
    """Waiting work, in the order of its arrival.

    Args:
        max_cost: the most that may wait; an empty queue admits anything. None: not known yet, and nothing is refused.
    """

    def __init__(self, max_cost: int | None = None) -> None:
        self.max_cost = max_cost
        self.cost = 0
        """What waits and what room is kept for, together."""
        self.cost_per_s = 0.0
        """How fast it empties; 0 before that was measured."""
        self._entries: deque[Entry[P, A]] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def retry_after_s(self) -> int:
        """Whole seconds until the queue has emptied, at the measured rate."""
        return min(60, max(1, math.ceil(self.cost / self.cost_per_s))) if self.cost_per_s else 1

    def has_room(self, cost: int) -> bool:
        """Whether this much would be let in now."""
        return self.max_cost is None or not self.cost or self.cost + cost <= self.max_cost

    def reserve(self, cost: int) -> Reservation:
        """Keep room for work that is still to be prepared. Raises QueueFull."""
        with self._changed:
            if not self.has_room(cost):
                raise QueueFull(self.retry_after_s)
            self.cost += cost
        return Reservation(cost, self._give_back)

    def put(self, entries: Sequence[Entry[P, A]], reservation: Reservation | None = None) -> None:
        """Let all of this in, in the place of the room that was kept for it, or none. Raises QueueFull."""
        cost = sum(entry.work.cost for entry in entries)
        with self._changed:
            kept = reservation.cost if reservation else 0
            self.cost -= kept
            if cost > kept and not self.has_room(cost):
                self.cost += kept
                raise QueueFull(self.retry_after_s)
            if reservation:
                reservation.cost = 0
            self._entries.extend(entries)
            self.cost += cost
            self._changed.notify()

    def withdraw(self, entries: Sequence[Entry[P, A]]) -> None:
        """Make room at once for work that nobody waits for; what was taken already is not here any more."""
        abandoned = {entry for entry in entries if not entry.future.done() or entry.future.cancelled()}
        if abandoned:
            with self._changed:
                left = [entry for entry in self._entries if entry not in abandoned]
                self.cost -= sum(entry.work.cost for entry in self._entries) - sum(entry.work.cost for entry in left)
                self._entries = deque(left)

    def take(self, budget: Callable[[], int]) -> tuple[list[Entry[P, A]], list[Entry[P, A]]]:
        """Wait for work and take the oldest of it, as much as fits into the budget, but always something.

        Returns what is to be done, and what it is too late for; neither only when the queue is closed and empty.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._entries or self._closed)
                batch, late = self._next(budget())
                if batch or late or self._closed:
                    return batch, late

    def close(self) -> None:
        """Let `take` end once nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def clear(self) -> list[Entry[P, A]]:
        """Forget what waits, and return it."""
        with self._changed:
            entries = list(self._entries)
            self.cost -= sum(entry.work.cost for entry in entries)
            self._entries.clear()
            return entries

    def _next(self, reservation: int) -> tuple[list[Entry[P, A]], list[Entry[P, A]]]:
        batch: list[Entry[P, A]] = []
        late: list[Entry[P, A]] = []
        now = time.monotonic()
        while self._entries and (not batch or self._entries[0].work.cost <= reservation):
            entry = self._entries.popleft()
            self.cost -= entry.work.cost
            if entry.deadline <= now:
                late.append(entry)
            elif not entry.future.done():
                reservation -= entry.work.cost
                batch.append(entry)
        return batch, late

    def _give_back(self, reservation: Reservation) -> None:
        with self._changed:
            self.cost -= reservation.cost
            reservation.cost = 0
