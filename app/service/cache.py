"""A least-recently-used cache with a limit in bytes, which also shares computations in flight.

Knows neither images nor answers: a key stands for everything that decides a value. Used on the event loop only.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

V = TypeVar("V")

Compute = Callable[[Sequence[int]], Awaitable[Sequence[V]]]
"""Positions of keys -> their values, in that order."""

How = Literal["hit", "shared", "miss"]
"""Where a value came from: the cache, another request's computation, or its own computation."""


@dataclass(eq=False)
class _InFlight(Generic[V]):
    """A computation in flight and the number of its waiters; it is cancelled when the last one leaves."""

    task: asyncio.Task[Mapping[Hashable, V]]
    waiting: int = 0

    @property
    def succeeded(self) -> bool:
        return self.task.done() and not self.task.cancelled() and self.task.exception() is None


class Cache(Generic[V]):
    """A cache that evicts the least recently used values first.

    Args:
        max_bytes: limit of all values together.
        size: returns the size of a value in bytes, or None for one that is not kept.
        on_lookup: called for each key that is looked up.
    """

    def __init__(self, max_bytes: int, size: Callable[[V], int | None], on_lookup: Callable[[How], None]) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._size = size
        self._on_lookup = on_lookup
        self._kept: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._in_flight: dict[Hashable, _InFlight[V]] = {}

    async def values(self, keys: Sequence[Hashable], compute: Compute[V]) -> list[V]:
        """Return the value of each key: from the cache, from a computation in flight, or from a new one.

        Raises what `compute` raises. If another request's computation fails, the value is computed here.
        """
        found = {key: self._recall(key) for key in keys if key in self._kept}
        flights = {key: self._in_flight[key] for key in keys if key in self._in_flight}
        for key in keys:
            self._on_lookup("hit" if key in found else "shared" if key in flights else "miss")
        new = {key: place for place, key in enumerate(keys) if key not in found and key not in flights}
        if new:
            flights |= dict.fromkeys(new, self._start(new, compute))
        await _wait(set(flights.values()))
        found |= {key: flight.task.result()[key] for key, flight in flights.items() if key in new or flight.succeeded}
        missing = {key: place for place, key in enumerate(keys) if key not in found}
        if missing:
            found |= dict(zip(missing, await compute(list(missing.values())), strict=True))
        return [found[key] for key in keys]

    def _recall(self, key: Hashable) -> V:
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def _start(self, places: Mapping[Hashable, int], compute: Compute[V]) -> _InFlight[V]:
        flight = _InFlight(asyncio.create_task(self._run(places, compute)))
        self._in_flight |= dict.fromkeys(places, flight)
        return flight

    async def _run(self, places: Mapping[Hashable, int], compute: Compute[V]) -> Mapping[Hashable, V]:
        try:
            values = dict(zip(places, await compute(list(places.values())), strict=True))
        finally:
            for key in places:
                del self._in_flight[key]
        for key, value in values.items():
            self._keep(key, value)
        return values

    def _keep(self, key: Hashable, value: V) -> None:
        size = self._size(value)
        if size is None or size > self.max_bytes or key in self._kept:
            return
        self._kept[key] = value, size
        self.held_bytes += size
        while self.held_bytes > self.max_bytes:
            _, (_, freed) = self._kept.popitem(last=False)
            self.held_bytes -= freed


async def _wait(flights: Collection[_InFlight[V]]) -> None:
    """Wait until all have ended; the last waiter that is cancelled cancels the computation."""
    for flight in flights:
        flight.waiting += 1
    try:
        if flights:
            await asyncio.wait([flight.task for flight in flights])
    finally:
        for flight in flights:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()
