"""Waiting work becomes batches: one thread owns the backend, and never waits while there is work.

In: pieces of work, each with a cost. Out: for each its answer or its own error. Knows neither images nor torch.

It is work-conserving: an idle backend takes what waits at once, and under load batches form by themselves while the
last one runs. Work whose caller has gone, or has waited for as long as it would, leaves the queue at once and never
reaches the backend. A batch that fails is split until the culprit stands alone, so that it fails nobody else.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from app.errors import Fatal
from app.inference.queue import Entry, Queue, Reservation, Result, Work
from app.threads.event_loop import call_soon

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


class Expired(Exception):
    """Work that waited until its deadline, and was not done."""


@dataclass(frozen=True)
class BatchReport(Generic[P]):
    """A batch that is over: its payloads, how long each waited, and how long it ran, in seconds."""

    payloads: Sequence[P]
    queue_s: Sequence[float]
    run_s: float


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
        ran: Callable[[BatchReport[P]], None] = lambda _: None,
    ) -> None:
        self.queue: Queue[P, A] = Queue(max_queue_cost)
        self._ran = ran
        self._prepare = prepare
        self._report = report
        self._in_hand: Sequence[Entry[P, A]] = ()
        self._lost: Exception | None = None
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._own, name="device", daemon=True)
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Start the thread; returns at once. To be called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, timeout_s: float) -> None:
        """Finish what waits, then end the thread; after `timeout_s` seconds it is left behind."""
        self.queue.close()
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

    async def submit(
        self, works: Sequence[Work[P]], deadline: float = math.inf, reservation: Reservation | None = None
    ) -> list[Result[A]]:
        """Queue all of this work, or none of it, and wait for the answers; cancelling the wait withdraws it.

        Args:
            works: the work.
            deadline: by the monotonic clock; what has not been begun by then never is.
            reservation: what `queue.reserve` kept for it.

        Raises QueueFull, Expired, or the error that the backend was lost by.
        """
        if self._lost is not None:
            raise self._lost
        now = time.monotonic()
        entries = [Entry(work, self._loop.create_future(), now, deadline) for work in works]
        self.queue.put(entries, reservation)
        try:
            return [await entry.future for entry in entries]
        finally:
            self.queue.withdraw(entries)

    def abandon(self, error: Exception) -> None:
        """Give the backend up: all that waits or runs fails with this error, and so does all that is yet to come.

        To be called on the event loop.
        """
        self._lost = error
        self.queue.close()
        self._fail([*self._in_hand, *self.queue.clear()], error)

    @staticmethod
    def _fail(entries: Sequence[Entry[P, A]], error: Exception) -> None:
        for entry in entries:
            entry.fail(error)

    def _own(self) -> None:
        """The thread: prepare the backend, then run batches until there is nothing left after `stop`."""
        try:
            backend = self._prepare()
        except Exception as error:  # noqa: BLE001 - whatever it is, the loop must hear of it
            call_soon(self._loop, self._report, error)
            return
        self.queue.max_cost = self.queue.max_cost or QUEUED_BATCHES * backend.max_batch_cost
        call_soon(self._loop, self._report, None)
        try:
            self._work(backend)
        except Exception as error:  # noqa: BLE001 - nobody must wait for a thread that has ended
            call_soon(self._loop, self.abandon, error)
            call_soon(self._loop, self._report, error)

    def _work(self, backend: Backend[P, A]) -> None:
        while True:
            batch, late = self.queue.take(lambda: backend.max_batch_cost)
            self._in_hand = batch
            if late:
                call_soon(self._loop, self._fail, late, Expired())
            elif not batch:
                return
            if batch:
                self._run(backend, batch)

    def _run(self, backend: Backend[P, A], batch: list[Entry[P, A]]) -> None:
        self._busy_since = started = time.monotonic()
        answers = _answers(backend, [entry.work.payload for entry in batch])
        self._busy_since = None
        ended = time.monotonic()
        self._measure(sum(entry.work.cost for entry in batch), ended - started)
        call_soon(self._loop, self._resolve, batch, answers, started, ended)

    def _resolve(self, batch: list[Entry[P, A]], answers: list[A | Exception], started: float, ended: float) -> None:
        """On the event loop: hand the answers out."""
        waited = [started - entry.queued_at for entry in batch]
        for entry, answer, queue_s in zip(batch, answers, waited, strict=True):
            if not entry.future.done():
                entry.future.set_result(Result(answer, queue_s, ended - started))
        self._ran(BatchReport([entry.work.payload for entry in batch], waited, ended - started))

    def _measure(self, cost: int, seconds: float) -> None:
        rate, before = cost / max(seconds, 1e-9), self.queue.cost_per_s
        self.queue.cost_per_s = 0.8 * before + 0.2 * rate if before else rate


def _answers(backend: Backend[P, A], payloads: list[P]) -> list[A | Exception]:
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
    return _answers(backend, payloads[:half]) + _answers(backend, payloads[half:])
