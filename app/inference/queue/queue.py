"""The queue itself: admission in space and time, withdrawal, and what goes into the next batch.

Space is reserved before the work is ready, so that an image that does not fit, or would not end by its deadline, is
refused before it is decoded. Clients take turns, and when the space is used up, the client that holds most of it gives
some to the others. The event loop puts work in and the device's threads take it out; a lock guards both.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from app.fairness.shares import Shares
from app.fairness.turns import Turns
from app.inference.queue.forecast import Forecast
from app.inference.queue.reservations import Reservation, Reservations
from app.inference.queue.selection import ends_in_time, misses, patience_s
from app.inference.queue.streams import Streams
from app.inference.queue.work import Asker, Call, Entry, NotInTime, QueueFull, Refused

P = TypeVar("P")  # payload
A = TypeVar("A")  # answer

TURN = 256
"""Cost of one turn of a client: an image of 224 pixels with patches of 14."""

TRIAL_S = 60.0
"""An idle device tries, once in this time, what seems to take too long: the estimate may come from a bad moment."""

FULL = "the queue is full"
SLOW = "too much is waiting: the answer would come later than a request may take"
ANYONE = Asker()


class Queue(Generic[P, A]):
    """A queue with a limit on the total cost, in which clients take turns.

    Args:
        max_cost: the limit; an empty queue accepts work of any cost. None: the limit is not known yet, and nothing is
            refused.
        clock: tells the time in seconds, as deadlines do.
    """

    def __init__(self, max_cost: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_cost, self._clock = max_cost, clock
        self.forecast, self.streams, self._shares = Forecast(), Streams(clock), Shares()
        self._turns: Turns[Entry[P, A]] = Turns(TURN)
        self._changed, self._closed = threading.Condition(), False
        self._reservations = Reservations(self._shares, self._changed)

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def cost(self) -> int:
        """Cost of the waiting work and of the reservations together."""
        return self._shares.total

    @property
    def empty_in_s(self) -> float:
        """Estimate the seconds that the waiting work and the reservations take."""
        return self.forecast.seconds(self.cost)

    @property
    def retry_after_s(self) -> int:
        """Estimate the whole seconds until the queue is empty, from 1 to 60."""
        return min(60, max(1, math.ceil(self.empty_in_s)))

    def refusal(self, cost: int, asker: Asker = ANYONE) -> Refused | None:
        """Return why work of this cost would be refused now, or None if it would be accepted."""
        with self._changed:
            late_s = self._late_by(cost, asker)
            if late_s > 0 and not self._is_trial(late_s):
                return NotInTime(SLOW, min(60, max(1, math.ceil(late_s))))
            mine = self._shares.of(asker.client) + cost
            accepted = self._has_space(cost) or self._shares.of(self._shares.largest()) > mine  # which then yields
            return None if accepted else QueueFull(FULL, self.retry_after_s)

    def reserve(self, cost: int, asker: Asker = ANYONE, pieces: int = 1) -> Reservation:
        """Reserve space for pieces of work that are still to be prepared. Raises Refused. Call it on the event loop."""
        with self._changed:
            return self._reservations.add(cost, pieces, asker, self._admit(cost, asker))

    def put(self, call: Call[P, A], reservation: Reservation | None = None) -> None:
        """Add a call; the reservation's space is used first. Raises Refused. Call it on the event loop."""
        cost = sum(entry.work.cost for entry in call.entries)
        with self._changed:
            kept = self._reservations.prepared(reservation) if reservation else 0
            self._shares.add(call.asker.client, -kept)
            call.trial = reservation is not None and reservation.trial
            try:
                if cost > kept:
                    call.trial = self._admit(cost, call.asker) or call.trial
            except Refused:
                self._shares.add(call.asker.client, kept)
                raise
            if reservation:
                reservation.cost = 0
            for entry in call.entries:
                self._turns.add(call.asker.client, entry.work.cost, entry)
            call.waiting = cost
            self._shares.add(call.asker.client, cost)
            self._changed.notify_all()

    def withdraw(self, call: Call[P, A]) -> None:
        """Remove what waits of a call whose caller has gone."""
        with self._changed:
            self._remove(call)

    def take(self, budget: Callable[[], int], stream: int = 0) -> tuple[list[Entry[P, A]], list[Call[P, A]]]:
        """Wait for work, and take in turn what fits into the budget and ends in time, at least one.

        Returns the batch, and the calls that are given up because they would not end in time. Both are empty only when
        the queue is closed and empty. Call it on the thread of the stream when that is idle.
        """
        with self._changed:
            self.streams.end(stream)
            while True:
                self._changed.wait_for(lambda: self._closed or (self._turns and self.streams.is_next(stream)))
                self.forecast.budget = budget()
                self._gather(stream)
                batch, late = self._next(self._clock())
                if batch or late or self._closed:
                    break
            if batch:
                takes_s = self.forecast.seconds(sum(entry.work.cost for entry in batch))
                self.streams.begin(stream, takes_s, more=bool(self._turns), preparing=self._reservations.pieces)
                self._changed.notify_all()
            return batch, late

    def ended(self, stream: int, cost: int, *, restart: bool = False) -> None:
        """Note that a stream is idle, and learn how long a batch of this cost took, if it is not 0; see `Forecast`."""
        with self._changed:
            took_s = self.streams.end(stream)
            if cost:
                self.forecast.observe(cost, took_s, restart)

    def close(self) -> None:
        """Let `take` return empty lists once nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> list[Entry[P, A]]:
        """Remove and return all waiting entries."""
        with self._changed:
            entries = list(self._turns)
            for call in {entry.call for entry in entries}:
                self._remove(call)
            return entries

    # --- with the lock held ---

    def _gather(self, stream: int) -> None:
        """Let work that is being prepared join what waits, where preparing it needs the cores of this stream."""
        since = self._clock()
        while self._turns and not self._closed and self.streams.gathers(stream) and self._reservations.cost:
            waits, beside = self.cost - self._reservations.cost, self.streams.expected(more=True)
            calls = {entry.call for entry in self._turns}
            left_s = since + patience_s(calls, waits, self.forecast, since, beside) - self._clock()
            if left_s <= 0:
                return
            self._changed.wait(left_s)

    def _next(self, now: float) -> tuple[list[Entry[P, A]], list[Call[P, A]]]:
        batch: list[Entry[P, A]] = []
        late: list[Call[P, A]] = []
        beside = self.streams.expected(self.cost > self.forecast.budget, self._reservations.pieces)
        while True:
            self._pick(batch, late, now, beside)
            calls = misses(batch, self.forecast, now, beside)
            if not calls:
                return batch, late
            for call in calls:
                self._remove(call)
            late += calls
            batch = [entry for entry in batch if entry.call not in calls]

    def _pick(self, batch: list[Entry[P, A]], late: list[Call[P, A]], now: float, beside: float) -> None:
        """Move what fits into the batch, in turn; give up calls that would be late even if nothing else ran."""
        room = self.forecast.budget - sum(entry.work.cost for entry in batch)
        while self._turns and (not batch or self._turns.next_cost() <= room):
            entry = self._turns.take()
            call, cost = entry.call, entry.work.cost
            if not entry.future.done() and not ends_in_time(call, call.waiting, self.forecast, now, beside):
                late.append(call)
                self._remove(call)
                continue
            self._shares.add(call.asker.client, -cost)
            call.waiting -= cost
            if not entry.future.done():
                room -= cost
                batch.append(entry)

    def _has_space(self, cost: int) -> bool:
        return self.max_cost is None or not self.cost or self.cost + cost <= self.max_cost

    def _late_by(self, cost: int, asker: Asker) -> float:
        """Estimate by how many seconds work would miss its deadline: its batch takes what else waits along."""
        waits = min(self.cost + cost, self.forecast.budget)
        beside = self.streams.expected(self.cost + cost > self.forecast.budget, self._reservations.pieces)
        takes_s = self.forecast.at_most(max(waits, self._shares.ahead(asker.client, cost)), beside)
        return self._clock() + self.streams.left_s + takes_s - asker.deadline

    def _is_trial(self, late_s: float) -> bool:
        return late_s > 0 and not self.cost and self._clock() - self.streams.idle_since > TRIAL_S

    def _admit(self, cost: int, asker: Asker) -> bool:
        """Make space, at the expense of the clients that hold most, if need be. Return whether it is a trial.

        Raises Refused.
        """
        refusal = self.refusal(cost, asker)
        while refusal is None and not self._has_space(cost):
            self._evict(self._shares.largest())
            refusal = self.refusal(cost, asker)
        if refusal is not None:
            raise refusal
        return self._is_trial(self._late_by(cost, asker))

    def _evict(self, client: str) -> None:
        """Give up the newest call of a client, or what it has reserved, if nothing of it waits."""
        newest = self._turns.newest(client)
        if newest is not None:
            self._remove(newest.call)
            newest.call.fail(QueueFull(FULL, self.retry_after_s))
        else:
            self._reservations.evict(self._reservations.newest(client))

    def _remove(self, call: Call[P, A]) -> None:
        if call.waiting:
            self._turns.remove(call.asker.client, set(call.entries))
            self._shares.add(call.asker.client, -call.waiting)
            call.waiting = 0
