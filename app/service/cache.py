"""Values that were asked for before, within so many bytes, and those that are on their way for somebody else.

Knows neither images nor answers: a key stands for all that decides a value. Used on the event loop alone.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

V = TypeVar("V")

Compute = Callable[[Sequence[int]], Awaitable[Sequence[V]]]
"""The places of keys -> their values, in that order."""

How = Literal["hit", "shared", "miss"]
"""How a value was come by: kept, under way for somebody else, or computed."""


@dataclass(eq=False)
class _UnderWay(Generic[V]):
    """A computation, and how many wait for it; it ends with the last of them."""

    task: asyncio.Task[Mapping[Hashable, V]]
    waiting: int = 0

    @property
    def succeeded(self) -> bool:
        return self.task.done() and not self.task.cancelled() and self.task.exception() is None


class Cache(Generic[V]):
    """The least recently used values are forgotten first.

    Args:
        max_bytes: what all values may take together.
        size: what one takes, in bytes; None for what is not to be kept.
        asked: told of every key that is asked for.
    """

    def __init__(self, max_bytes: int, size: Callable[[V], int | None], asked: Callable[[How], None]) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._size = size
        self._asked = asked
        self._kept: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._under_way: dict[Hashable, _UnderWay[V]] = {}

    async def values(self, keys: Sequence[Hashable], compute: Compute[V]) -> list[V]:
        """The value of each key: kept, waited for, or computed together with the others that are neither.

        Raises what `compute` raises. A failure for somebody else is not ours: what was waited for in vain is computed.
        """
        found = {key: self._recall(key) for key in keys if key in self._kept}
        ways = {key: self._under_way[key] for key in keys if key in self._under_way}
        for key in keys:
            self._asked("hit" if key in found else "shared" if key in ways else "miss")
        new = {key: place for place, key in enumerate(keys) if key not in found and key not in ways}
        if new:
            ways |= dict.fromkeys(new, self._start(new, compute))
        await _wait(set(ways.values()))
        found |= {key: way.task.result()[key] for key, way in ways.items() if key in new or way.succeeded}
        vain = {key: place for place, key in enumerate(keys) if key not in found}
        if vain:
            found |= dict(zip(vain, await compute(list(vain.values())), strict=True))
        return [found[key] for key in keys]

    def _recall(self, key: Hashable) -> V:
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def _start(self, places: Mapping[Hashable, int], compute: Compute[V]) -> _UnderWay[V]:
        way = _UnderWay(asyncio.create_task(self._run(places, compute)))
        self._under_way |= dict.fromkeys(places, way)
        return way

    async def _run(self, places: Mapping[Hashable, int], compute: Compute[V]) -> Mapping[Hashable, V]:
        try:
            values = dict(zip(places, await compute(list(places.values())), strict=True))
        finally:
            for key in places:
                del self._under_way[key]
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


async def _wait(ways: Collection[_UnderWay[V]]) -> None:
    """Until all have ended, well or not; who stops waiting as the last one ends them."""
    for way in ways:
        way.waiting += 1
    try:
        if ways:
            await asyncio.wait([way.task for way in ways])
    finally:
        for way in ways:
            way.waiting -= 1
            if not way.waiting and not way.task.done():
                way.task.cancel()
