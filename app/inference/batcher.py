"""Run batches of waiting work: one thread owns the model, and never waits while there is work.

In: pieces of work, each with a cost. Out: an answer or an error for each. Knows neither images nor torch. `queue.py`
selects what goes into a batch.

The batcher is work-conserving: an idle model takes waiting work at once, and under load batches form while the previous
one runs. Work leaves the queue when its client disconnects or its deadline passes, and never reaches the model. A batch
that fails is split in halves until the piece of work that causes it is alone, so that it fails no other request.
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
"""Size of the queue in batches, where no limit is set."""


class BatchRunner(Protocol[P_contra, A_co]):
    """Something that runs a batch, such as `Engine`."""

    @property
    def max_batch_cost(self) -> int:
        """The budget of one batch; a single piece of work may cost more."""
        ...

    def run(self, payloads: Sequence[P_contra], /) -> Sequence[A_co | Exception]:
        """Return an answer or an error for each payload. Raises Fatal when no later batch can succeed."""
        ...


class Expired(Exception):
    """The deadline of the work passed before it was run."""


@dataclass(frozen=True)
class BatchReport(Generic[P]):
    """A finished batch: its payloads, how long each waited, and how long the batch ran, in seconds."""

    payloads: Sequence[P]
    queue_s: Sequence[float]
    run_s: float


class Batcher(Generic[P, A]):
    """A queue and the device thread that empties it.

    Args:
        prepare: creates the runner, on the device thread, which owns it.
        report: called on the event loop when `prepare` has ended, with its error if it failed; and again, with the
            error, if the runner is lost later.
        max_queue_cost: limit of the queue. None: 16 batches.
        on_batch: called on the event loop after each batch.
    """

    def __init__(
        self,
        prepare: Callable[[], BatchRunner[P, A]],
        report: Callable[[Exception | None], None],
        max_queue_cost: int | None = None,
        on_batch: Callable[[BatchReport[P]], None] = lambda _: None,
    ) -> None:
        self.queue: Queue[P, A] = Queue(max_queue_cost)
        self._on_batch = on_batch
        self._prepare = prepare
        self._report = report
        self._running: Sequence[Entry[P, A]] = ()
        self._lost: Exception | None = None
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run_thread, name="device", daemon=True)
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Start the device thread and return at once. Call it on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, timeout_s: float) -> None:
        """Run the waiting work, then end the thread; abandon it after `timeout_s` seconds."""
        self.queue.close()
        # On another thread: the event loop has to run on, because answers come through it.
        await asyncio.to_thread(self._thread.join, timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the device thread is running."""
        return self._thread.is_alive()

    @property
    def busy_s(self) -> float:
        """Seconds that the current batch has been running; 0 when idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def submit(
        self, works: Sequence[Work[P]], deadline: float = math.inf, reservation: Reservation | None = None
    ) -> list[Result[A]]:
        """Queue all of the work or none of it, and wait for the answers; cancelling the call withdraws the work.

        Args:
            works: the work.
            deadline: on the monotonic clock; work that has not started by then is not run.
            reservation: space that `queue.reserve` returned for it.

        Raises QueueFull, Expired, or the error by which the runner was lost.
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
        """Give up the runner: all waiting, running and later work fails with this error. Call it on the event loop."""
        self._lost = error
        self.queue.close()
        self._fail([*self._running, *self.queue.clear()], error)

    @staticmethod
    def _fail(entries: Sequence[Entry[P, A]], error: Exception) -> None:
        for entry in entries:
            entry.fail(error)

    def _run_thread(self) -> None:
        """Run the device thread: create the runner, then run batches until `stop` was called and the queue is empty."""
        try:
            runner = self._prepare()
        except Exception as error:  # noqa: BLE001 - any error must reach the event loop
            call_soon(self._loop, self._report, error)
            return
        self.queue.max_cost = self.queue.max_cost or QUEUED_BATCHES * runner.max_batch_cost
        call_soon(self._loop, self._report, None)
        try:
            self._work(runner)
        except Exception as error:  # noqa: BLE001 - no caller may wait for a thread that has ended
            call_soon(self._loop, self.abandon, error)
            call_soon(self._loop, self._report, error)

    def _work(self, runner: BatchRunner[P, A]) -> None:
        while True:
            batch, late = self.queue.take(lambda: runner.max_batch_cost)
            self._running = batch
            if late:
                call_soon(self._loop, self._fail, late, Expired())
            elif not batch:
                return
            if batch:
                self._run(runner, batch)

    def _run(self, runner: BatchRunner[P, A], batch: list[Entry[P, A]]) -> None:
        self._busy_since = started = time.monotonic()
        answers = _answers(runner, [entry.work.payload for entry in batch])
        self._busy_since = None
        ended = time.monotonic()
        self._measure(sum(entry.work.cost for entry in batch), ended - started)
        call_soon(self._loop, self._resolve, batch, answers, started, ended)

    def _resolve(self, batch: list[Entry[P, A]], answers: list[A | Exception], started: float, ended: float) -> None:
        """Set the answers on the futures, on the event loop."""
        waited = [started - entry.queued_at for entry in batch]
        for entry, answer, queue_s in zip(batch, answers, waited, strict=True):
            if not entry.future.done():
                entry.future.set_result(Result(answer, queue_s, ended - started))
        self._on_batch(BatchReport([entry.work.payload for entry in batch], waited, ended - started))

    def _measure(self, cost: int, seconds: float) -> None:
        rate, before = cost / max(seconds, 1e-9), self.queue.cost_per_s
        self.queue.cost_per_s = 0.8 * before + 0.2 * rate if before else rate


def _answers(runner: BatchRunner[P, A], payloads: list[P]) -> list[A | Exception]:
    """Return answers for all payloads; if the batch fails as a whole, run its halves. Raises Fatal."""
    try:
        answers = list(runner.run(payloads))
        if len(answers) != len(payloads):
            raise RuntimeError(f"{len(payloads)} payloads got {len(answers)} answers")
        return answers
    except Fatal:
        raise
    except Exception as error:  # noqa: BLE001 - any error must reach its own callers, and no others
        if len(payloads) == 1:
            return [error]
    # Outside of the except block: the error's traceback holds on to the failed batch's memory.
    half = len(payloads) // 2
    return _answers(runner, payloads[:half]) + _answers(runner, payloads[half:])
