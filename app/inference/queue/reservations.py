"""Space in the queue that is held for work while it is being prepared."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from app.fairness.shares import Shares
from app.inference.queue.work import Asker


class Reservation:
    """Space in the queue for work that is still being prepared; leaving the `with` block releases what was not used.

    cost: the space that is left; 0 also when another client needed it.
    pieces: how many pieces of work are being prepared for it, also when another client needed the space.
    trial: the work is run whatever the forecast says.
    """

    def __init__(
        self, cost: int, pieces: int, asker: Asker, trial: bool, release: Callable[["Reservation"], None]
    ) -> None:
        self.cost = cost
        self.pieces = pieces
        self.asker = asker
        self.trial = trial
        self._release = release

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release(self)


class Reservations:
    """All reservations, each of which is in its client's share.

    Args:
        shares: what each client holds of the queue.
        changed: the lock of the queue, which is told when a reservation ends.
    """

    def __init__(self, shares: Shares, changed: threading.Condition) -> None:
        self._shares, self._changed = shares, changed
        self._held: list[Reservation] = []
        self.pieces = 0
        """How many pieces of work are being prepared. Counted, because each refusal asks for it."""

    @property
    def cost(self) -> int:
        """Cost of the work that is being prepared. The lock is held."""
        return sum(reservation.cost for reservation in self._held)

    def add(self, cost: int, pieces: int, asker: Asker, trial: bool) -> Reservation:
        """Return a new reservation. The lock is held."""
        reservation = Reservation(cost, pieces, asker, trial, self.release)
        self._shares.add(asker.client, cost)
        self._held.append(reservation)
        self.pieces += pieces
        return reservation

    def prepared(self, reservation: Reservation) -> int:
        """Note that nothing is being prepared for it any more. Returns the space that is left. The lock is held."""
        self.pieces -= reservation.pieces
        reservation.pieces = 0
        return reservation.cost

    def newest(self, client: str) -> Reservation:
        """Return the newest reservation of a client that holds one. The lock is held."""
        return next(held for held in reversed(self._held) if held.asker.client == client and held.cost)

    def evict(self, reservation: Reservation) -> None:
        """Give back what is left of its space, while its work is still being prepared. The lock is held."""
        if reservation.cost:
            self._shares.add(reservation.asker.client, -reservation.cost)
            reservation.cost = 0
            self._changed.notify_all()

    def release(self, reservation: Reservation) -> None:
        """End a reservation."""
        with self._changed:
            self.prepared(reservation)
            self._held.remove(reservation)
            self.evict(reservation)
