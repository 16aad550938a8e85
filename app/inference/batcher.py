"""Run batches of waiting work: a model does not wait while there is work, except for a moment that pays.

In: pieces of work, each with a cost. Out: an answer or an error for each. Knows neither images nor torch.
`app/inference/queue/` selects what goes into a batch.

An idle model takes waiting work at once, and under load batches form while the previous ones run. Where the same cores
prepare work and run batches, the last idle one first lets work that is being prepared join. A runner may run several
batches side by side, each on a thread of its own; all take from one queue. Work leaves the queue when its client
disconnects or when it would miss its deadline, and never reaches the model. A batch that fails is split in halves
until the piece of work that causes it is alone, so that it fails no other request.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from app.errors import Fatal
from app.inference.queue.queue import ANYONE, SLOW, Queue
from app.inference.queue.reservations import Reservation
from app.inference.queue.work import Asker, Call, Entry, NotInTime, Result, Work, call_of
from app.threads.event_loop import call_soon
from app.threads.names import show_name

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

    @property
    def measured(self) -> tuple[int, float] | None:
        """The cost of a batch that ran before the first one of a client, and the seconds that it took."""
        ...

    @property
    def streams(self) -> int:
        """How many batches it runs side by side."""
        ...

    @property
    def more_streams(self) -> int:
        """How many more while other programs use the cores."""
        ...

    @property
    def cores(self) -> int:
        """Cores of this machine that run batches and prepare work; 0 where batches run elsewhere."""
        ...

    def run(self, payloads: Sequence[P_contra], share: float, /) -> Sequence[A_co | Exception]:
        """Return an answer or an error for each payload, with this share of the device, up to 1.

        Raises Fatal when no later batch can succeed.
        """
        ...


class Expired(Exception):
    """The deadline of the work passed before it was run."""


@dataclass(frozen=True)
class BatchReport(Generic[P]):
    """A finished batch: its payloads, how long each waited, and how long the batch ran, in seconds."""

    payloads: Sequence[P]
    queue_s: Sequence[float]
    run_s: float


@dataclass(frozen=True)
class Observer(Generic[P]):
    """What is called on the event loop.

    on_batch: after each batch.
    on_waste: with payloads that were computed in vain: the client had gone, or another part of its request failed.
    """

    on_batch: Callable[[BatchReport[P]], None] = lambda _: None
    on_waste: Callable[[Sequence[P]], None] = lambda _: None


class Batcher(Generic[P, A]):
    """A queue and the threads that empty it.

    Args:
        prepare: creates the runner, on the first of the threads.
        report: called on the event loop when `prepare` has ended, with its error if it failed; and again, with the
            error, if the runner is lost later.
        max_queue_cost: limit of the queue. None: 16 batches.
        observer: is told what was computed.
    """

    def __init__(
        self,
        prepare: Callable[[], BatchRunner[P, A]],
        report: Callable[[Exception | None], None],
        max_queue_cost: int | None = None,
        observer: Observer[P] | None = None,
    ) -> None:
        self.queue: Queue[P, A] = Queue(max_queue_cost)
        self._observer: Observer[P] = observer or Observer()
        self._prepare = prepare
        self._report = report
        self._running: dict[int, Sequence[Entry[P, A]]] = {}
        self._busy_since: dict[int, float] = {}
        self._lost: Exception | None = None
        self._ended_at = math.inf
        self.batches = 0
        """How many batches have run."""
        self._threads = [threading.Thread(target=self._run_thread, name="device", daemon=True)]
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Start the first thread and return at once. Call it on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._threads[0].start()

    async def stop(self, timeout_s: float) -> None:
        """Run the waiting work, then end the threads; abandon them after `timeout_s` seconds."""
        self.queue.close()
        # On another thread: the event loop has to run on, because answers come through it.
        await asyncio.to_thread(self._join, time.monotonic() + timeout_s)

    def _join(self, until: float) -> None:
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    @property
    def alive(self) -> bool:
        """Whether all threads are running."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def busy_s(self) -> float:
        """Seconds that the batch that runs longest has been running; 0 when idle."""
        since = list(self._busy_since.values())
        return time.monotonic() - min(since) if since else 0.0

    @property
    def idle_s(self) -> float:
        """Seconds since the last batch; 0 while one runs, and before the first one."""
        return 0.0 if self.busy_s else max(0.0, time.monotonic() - self._ended_at)

    async def submit(
        self, works: Sequence[Work[P]], asker: Asker = ANYONE, reservation: Reservation | None = None
    ) -> list[Result[A]]:
        """Queue all of the work or none of it, and wait for the answers; cancelling the call withdraws the work.

        Args:
            works: the work.
            asker: who waits, and until when; work that would not end by then is not run.
            reservation: space that `queue.reserve` returned for it.

        Raises Refused, Expired, or the error by which the runner was lost.
        """
        if self._lost is not None:
            raise self._lost
        call: Call[P, A] = call_of(works, asker, time.monotonic(), self._loop)
        self.queue.put(call, reservation)
        try:
            return [await entry.future for entry in call.entries]
        except BaseException:
            self._give_up(call)
            raise

    def _give_up(self, call: Call[P, A]) -> None:
        """Withdraw what has not run, and count what has run for nothing."""
        for entry in call.entries:
            entry.future.cancel()
        self.queue.withdraw(call)
        self._observer.on_waste([entry.work.payload for entry in call.entries if entry.has_answer])

    def abandon(self, error: Exception) -> None:
        """Give up the runner: all waiting, running and later work fails with this error. Call it on the event loop."""
        self._lost = error
        self.queue.close()
        running = [entry for batch in list(self._running.values()) for entry in batch]
        self._fail([*running, *self.queue.clear()], error)

    @staticmethod
    def _fail(entries: Sequence[Entry[P, A]], error: Exception) -> None:
        for entry in entries:
            entry.fail(error)

    def _run_thread(self) -> None:
        """Create the runner, then run batches until `stop` was called and the queue is empty; so do further threads."""
        show_name()
        try:
            runner = self._prepare()
            self._set_up(runner)
        except Exception as error:  # noqa: BLE001 - any error must reach the event loop
            call_soon(self._loop, self._report, error)
            return
        call_soon(self._loop, self._report, None)
        self._work(runner, 0)

    def _set_up(self, runner: BatchRunner[P, A]) -> None:
        """Tell the queue what the runner can do, and start the further threads. Raises RuntimeError if that fails."""
        streams = self.queue.streams
        streams.usual, streams.more, streams.cores = runner.streams, runner.more_streams, runner.cores
        self.queue.max_cost = self.queue.max_cost or QUEUED_BATCHES * runner.max_batch_cost
        self.queue.forecast.budget = runner.max_batch_cost
        if runner.measured:
            self.queue.forecast.observe(*runner.measured)
        for stream in range(1, runner.streams + runner.more_streams):
            thread = threading.Thread(target=self._work, args=(runner, stream), name=f"device {stream}", daemon=True)
            thread.start()
            self._threads.append(thread)  # not before: `alive` and `stop` may look at them meanwhile

    def _work(self, runner: BatchRunner[P, A], stream: int) -> None:
        """Run batches until `stop` was called and the queue is empty, or tell that the runner is lost."""
        show_name()
        try:
            while self._take(runner, stream):
                pass
        except Exception as error:  # noqa: BLE001 - any error must reach the event loop
            call_soon(self._loop, self.abandon, error)
            call_soon(self._loop, self._report, error)

    def _take(self, runner: BatchRunner[P, A], stream: int) -> bool:
        """Wait for a batch and run it. Returns False when there will be none."""
        batch, late = self.queue.take(lambda: runner.max_batch_cost, stream)
        if late:
            call_soon(self._loop, self._give_back, late)
        if batch:
            self._running[stream] = batch
            self._run(runner, batch, stream)
        return bool(batch or late)

    def _give_back(self, late: Sequence[Call[P, A]]) -> None:
        """Tell the callers of work that was not begun, because it would have been late."""
        now = time.monotonic()
        for call in late:
            call.fail(Expired() if call.asker.deadline <= now else NotInTime(SLOW, self.queue.retry_after_s))

    def _run(self, runner: BatchRunner[P, A], batch: list[Entry[P, A]], stream: int) -> None:
        self._busy_since[stream] = started = time.monotonic()
        answers = _answers(runner, batch, self.queue.streams.share(stream))
        ended = self._ended_at = time.monotonic()
        del self._busy_since[stream]
        # A failure may be quick, or run several times.
        right = not any(isinstance(answer, Exception) for answer in answers)
        cost = sum(entry.work.cost for entry in batch) if right else 0
        self.queue.ended(stream, cost, restart=any(entry.call.trial for entry in batch))
        del self._running[stream]
        call_soon(self._loop, self._resolve, batch, answers, started, ended)

    def _resolve(self, batch: list[Entry[P, A]], answers: list[A | Exception], started: float, ended: float) -> None:
        """Set the answers on the futures, on the event loop."""
        self.batches += 1
        waited = [started - entry.call.queued_at for entry in batch]
        wasted = [entry.work.payload for entry in batch if entry.future.done()]
        for entry, answer, queue_s in zip(batch, answers, waited, strict=True):
            if not entry.future.done():
                entry.future.set_result(Result(answer, queue_s, ended - started))
        self._observer.on_batch(BatchReport([entry.work.payload for entry in batch], waited, ended - started))
        if wasted:
            self._observer.on_waste(wasted)


def _answers(runner: BatchRunner[P, A], batch: Sequence[Entry[P, A]], share: float) -> list[A | Exception]:
    """Return answers for all entries; if the batch fails as a whole, run its halves, without those that have gone.

    Raises Fatal.
    """
    try:
        answers = list(runner.run([entry.work.payload for entry in batch], share))
        if len(answers) != len(batch):
            raise RuntimeError(f"{len(batch)} payloads got {len(answers)} answers")
        return answers
    except Fatal:
        raise
    except Exception as error:  # noqa: BLE001 - any error must reach its own callers, and no others
        if len(batch) == 1:
            return [error]
    # Outside of the except block: the error's traceback holds on to the failed batch's memory.
    half = len(batch) // 2
    return [answer for part in (batch[:half], batch[half:]) for answer in _answers_of_part(runner, part, share)]


def _answers_of_part(runner: BatchRunner[P, A], part: Sequence[Entry[P, A]], share: float) -> list[A | Exception]:
    """Return answers for a part of a batch that has failed; Expired for those whose callers have gone."""
    wanted = [entry for entry in part if not entry.future.done()]
    answers = iter(_answers(runner, wanted, share) if wanted else ())
    return [next(answers) if entry in wanted else Expired() for entry in part]
