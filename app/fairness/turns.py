"""Waiting items of several clients, taken in turn: deficit round robin.

Each turn of a client is worth the same cost, so a client that sends much, or large items, gets no more than another
that always has something waiting. What a turn leaves over counts for the next one. The items of one client leave in
their order. Source: Shreedhar & Varghese, Efficient Fair Queueing using Deficit Round Robin (SIGCOMM 1995).
"""

from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Line(Generic[T]):
    """What waits for one client: (cost, item), and the cost that it may still take in this turn."""

    credit: int
    waiting: deque[tuple[int, T]] = field(default_factory=deque)


class Turns(Generic[T]):
    """Items that wait; not synchronised.

    Args:
        turn: the cost that a client may take in one turn.
    """

    def __init__(self, turn: int) -> None:
        self._turn = turn
        self._lines: OrderedDict[str, _Line[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum([len(line.waiting) for line in list(self._lines.values())])

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __iter__(self) -> Iterator[T]:
        return (item for line in self._lines.values() for _, item in line.waiting)

    def add(self, client: str, cost: int, item: T) -> None:
        """Add an item behind those of its client; a client without any gets the last turn."""
        self._lines.setdefault(client, _Line(self._turn)).waiting.append((cost, item))

    def next_cost(self) -> int:
        """Return the cost of the item that `take` returns. Raises StopIteration if nothing waits."""
        return self._front()[1].waiting[0][0]

    def take(self) -> T:
        """Remove and return the next item. Raises StopIteration if nothing waits."""
        client, line = self._front()
        cost, item = line.waiting.popleft()
        line.credit -= cost
        if not line.waiting:
            del self._lines[client]
        return item

    def newest(self, client: str) -> T | None:
        """Return the item that this client added last."""
        line = self._lines.get(client)
        return line.waiting[-1][1] if line else None

    def remove(self, client: str, items: Collection[T]) -> int:
        """Remove items of a client, and return their cost; those that have been taken are passed over."""
        line = self._lines.get(client)
        if line is None:
            return 0
        removed = sum(cost for cost, item in line.waiting if item in items)
        line.waiting = deque((cost, item) for cost, item in line.waiting if item not in items)
        if not line.waiting:
            del self._lines[client]
        return removed

    def _front(self) -> tuple[str, _Line[T]]:
        """Return the client whose turn it is, and its line."""
        while True:
            client, line = next(iter(self._lines.items()))
            if line.waiting[0][0] <= line.credit:
                return client, line
            line.credit += self._turn
            self._lines.move_to_end(client)
