"""Waiting work becomes batches: one thread owns the backend, and never waits while there is work.

In: pieces of work, each with a cost. Out: for each its answer or its own error. Knows neither images nor torch; of
work it reads the cost and the deadline alone.

It is work-conserving: an idle backend takes what waits at once, and under load batches form by themselves while the
last one runs. Work whose caller has gone, or has waited for as long as it would, leaves the queue at once and never
reaches the backend. A batch that fails is split until the culprit stands alone, so that it fails nobody else.
"""

import asyncio
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from app.errors import Fatal

P = TypeVar("P")  # payload
A = TypeVar("A")  # answer
P_contra = TypeVar("P_contra", contravariant=True)
A_co = TypeVar("A_co", covariant=True)

QUEUED_BATCHES = 16
"""Batches that may wait where no limit is set."""


class Backend(Protocol[P_contra, A_co]):
    """What runs a batch."""

    @property
    def max_batch_cost(self) -> int:
        """The most that one batch may cost; a single piece of work may cost more."""
        ...

    def run(self, payloads: Sequence[P_contra], /) -> Sequence[A_co | Exception]:
        """An answer for each payload, or the error that is its own. Raises Fatal when it can answer no more."""
        ...


@dataclass(frozen=True)
class Work(Generic[P]):
    """Something to be done: what it costs, in units that the backend's budget is in, and what it is."""

    cost: int
    payload: P


@dataclass(frozen=True)
class Done(Generic[A]):
    """The answer to a piece of work or its error, and how long it waited and ran, in seconds."""

    answer: A | Exception
    queue_s: float
    run_s: float


class QueueFull(Exception):
    """There is no room for this work; it might be worth another try in `retry_after_s` whole seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Expired(Exception):
    """Work that waited until its deadline, and was not done."""


@dataclass(frozen=True)
class Ran(Generic[P]):
    """A batch that is over: its payloads, how long each waited, and how long it ran, in seconds."""

    payloads: Sequence[P]
    queue_s: Sequence[float]
    run_s: float


@dataclass(eq=False)
class _Entry(Generic[P, A]):
    work: Work[P]
    future: asyncio.Future[Done[A]]
    queued_at: float
    deadline: float


class Batcher(Generic[P, A]):
    """A queue and the thread that empties it.

    Args:
        prepare: makes the backend; runs on the thread that will own it.
        report: called on the event loop when that is done, with the error if it failed; and once more, with the
            error, should the backend be lost later.
        max_queue_cost: the most that may wait; an empty queue admits anything. None: 16 batches.
        ran: told of each batch, on the event loop, after it was answered.
    """

    def __init__(
        self,
        prepare: Callable[[], Backend[P, A]],
        report: Callable[[Exception | None], None],
        max_queue_cost: int | None = None,
        ran: Callable[[Ran[P]], None] = lambda _: None,
    ) -> None:
        self._ran = ran
        self._prepare = prepare
        self._report = report
        self._max_queue_cost = max_queue_cost or 0
        self._waiting: deque[_Entry[P, A]] = deque()
        self._in_hand: Sequence[_Entry[P, A]] = ()
        self._queued_cost = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._lost: Exception | None = None
        self._busy_since: float | None = None
        self._cost_per_s = 0.0
        self._thread = threading.Thread(target=self._own, name="device", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self.tally: Counter[str] = Counter()
        """What became of all work that was ever submitted: answered, failed, refused, expired or cancelled."""

    def start(self) -> None:
        """Start the thread; returns at once. To be called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, timeout_s: float) -> None:
        """Finish what waits, then end the thread; after `timeout_s` seconds it is left behind."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        # In a thread of its own, because the loop must go on: answers come through it.
        await asyncio.to_thread(self._thread.join, timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the thread still takes work."""
        return self._thread.is_alive()

    @property
    def busy_s(self) -> float:
        """For how long the batch in hand has been running, in seconds; 0 when idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def waiting(self) -> int:
        """Pieces of work that wait."""
        return len(self._waiting)

    @property
    def waiting_cost(self) -> int:
        """What they cost."""
        return self._queued_cost

    @property
    def max_waiting_cost(self) -> int:
        """The most that may wait; 0 before the backend has said what a batch is."""
        return self._max_queue_cost

    @property
    def full(self) -> bool:
        """Whether there is no room for anything more."""
        return bool(self._waiting) and self._queued_cost >= self._max_queue_cost

    @property
    def retry_after_s(self) -> int:
        """Whole seconds until the queue has emptied, at the measured rate."""
        return min(60, max(1, math.ceil(self._queued_cost / self._cost_per_s))) if self._cost_per_s else 1

    async def submit(self, works: Sequence[Work[P]], deadline: float = math.inf) -> list[Done[A]]:
        """Queue all of this work, or none of it, and wait for the answers; cancelling the wait withdraws it.

        Args:
            works: the work.
            deadline: by the monotonic clock; what has not been begun by then never is.

        Raises QueueFull, Expired, or the error that the backend was lost by.
        """
        now = time.monotonic()
        entries = [_Entry(work, self._loop.create_future(), now, deadline) for work in works]
        cost = sum(work.cost for work in works)
        with self._changed:
            if self._lost is not None:
                raise self._lost
            if self._queued_cost and self._queued_cost + cost > self._max_queue_cost:
                self.tally["refused"] += len(works)
                raise QueueFull(self.retry_after_s)
            self._waiting.extend(entries)
            self._queued_cost += cost
            self._changed.notify()
        try:
            return list(await asyncio.gather(*(entry.future for entry in entries)))
        finally:
            self._withdraw(entries)

    def abandon(self, error: Exception) -> None:
        """Give the backend up: all that waits or runs fails with this error, and so does all that is yet to come.

        To be called on the event loop.
        """
        with self._changed:
            entries = [*self._in_hand, *self._waiting]
            self._lost = error
            self._waiting.clear()
            self._queued_cost = 0
            self._stopping = True
            self._changed.notify()
        self._fail(entries, error, "failed")

    def _fail(self, entries: Sequence[_Entry[P, A]], error: Exception, outcome: str) -> None:
        for entry in entries:
            if not entry.future.done():
                self.tally[outcome] += 1
                entry.future.set_exception(error)
                entry.future.exception()  # of several in one request only the first is looked at

    def _withdraw(self, entries: Sequence[_Entry[P, A]]) -> None:
        """Make room at once for work that nobody waits for; done work is not in the queue any more."""
        abandoned = {entry for entry in entries if not entry.future.done() or entry.future.cancelled()}
        if not abandoned:
            return
        now = time.monotonic()
        self.tally.update("expired" if entry.deadline <= now else "cancelled" for entry in abandoned)
        with self._changed:
            left = [entry for entry in self._waiting if entry not in abandoned]
            self._waiting = deque(left)
            self._queued_cost = sum(entry.work.cost for entry in left)

    def _own(self) -> None:
        """The thread: prepare the backend, then run batches until there is nothing left after `stop`."""
        try:
            backend = self._prepare()
        except Exception as error:  # noqa: BLE001 - whatever it is, the loop must hear of it
            self._loop.call_soon_threadsafe(self._report, error)
            return
        self._max_queue_cost = self._max_queue_cost or QUEUED_BATCHES * backend.max_batch_cost
        self._loop.call_soon_threadsafe(self._report, None)
        try:
            while batch := self._take(backend):
                self._work(backend, batch)
        except Exception as error:  # noqa: BLE001 - nobody must wait for a thread that has ended
            self._loop.call_soon_threadsafe(self.abandon, error)
            self._loop.call_soon_threadsafe(self._report, error)

    def _work(self, backend: Backend[P, A], batch: list[_Entry[P, A]]) -> None:
        self._busy_since = started = time.monotonic()
        answers = _run(backend, [entry.work.payload for entry in batch])
        self._busy_since = None
        ended = time.monotonic()
        self._measure(sum(entry.work.cost for entry in batch), ended - started)
        self._loop.call_soon_threadsafe(self._resolve, batch, answers, started, ended)
        self._loop.call_soon_threadsafe(self._ran, _summary(batch, started, ended))

    def _take(self, backend: Backend[P, A]) -> list[_Entry[P, A]]:
        """Wait for work and take the oldest of it, as much as fits; empty only when it is time to stop."""
        with self._changed:
            batch: list[_Entry[P, A]] = []
            while not batch:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    break
                batch = self._next(backend.max_batch_cost)
            self._in_hand = batch
            return batch

    def _next(self, budget: int) -> list[_Entry[P, A]]:
        """The oldest work that somebody still waits for, as much as fits; empty when that is none."""
        batch: list[_Entry[P, A]] = []
        late: list[_Entry[P, A]] = []
        room, now = budget, time.monotonic()
        while self._waiting and (not batch or self._waiting[0].work.cost <= room):
            entry = self._waiting.popleft()
            self._queued_cost -= entry.work.cost
            if entry.deadline <= now:
                late.append(entry)
            elif not entry.future.done():
                room -= entry.work.cost
                batch.append(entry)
        if late:
            self._loop.call_soon_threadsafe(self._fail, late, Expired(), "expired")
        return batch

    def _resolve(self, batch: list[_Entry[P, A]], answers: list[A | Exception], started: float, ended: float) -> None:
        for entry, answer in zip(batch, answers, strict=True):
            if not entry.future.done():
                self.tally["failed" if isinstance(answer, Exception) else "answered"] += 1
                entry.future.set_result(Done(answer, started - entry.queued_at, ended - started))

    def _measure(self, cost: int, seconds: float) -> None:
        rate = cost / max(seconds, 1e-9)
        self._cost_per_s = rate if not self._cost_per_s else 0.8 * self._cost_per_s + 0.2 * rate


def _run(backend: Backend[P, A], payloads: list[P]) -> list[A | Exception]:
    """Answers for all payloads; when the batch fails as a whole, those of its halves. Raises Fatal."""
    try:
        answers = list(backend.run(payloads))
        if len(answers) != len(payloads):
            raise RuntimeError(f"{len(payloads)} payloads got {len(answers)} answers")
        return answers
    except Fatal:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it must reach its callers and nobody else
        if len(payloads) == 1:
            return [error]
    # Outside of the except block: the error's traceback holds on to the failed batch's memory.
    half = len(payloads) // 2
    return _run(backend, payloads[:half]) + _run(backend, payloads[half:])


def _summary(batch: list[_Entry[P, A]], started: float, ended: float) -> Ran[P]:
    waited = [started - entry.queued_at for entry in batch]
    return Ran([entry.work.payload for entry in batch], waited, ended - started)
