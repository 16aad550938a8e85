"""The lifecycle of the model: loading, ready, draining, failed; and which requests may use it in each state.

It loads in the background, accepts work while it is ready, detects a forward pass that hangs or keeps failing, and
drains.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from app.errors import Fatal, Problem
from app.inference.batcher import Batcher, Expired, Observer
from app.inference.device.allocator import keep_large_blocks, limit_compiled_shapes, trim
from app.inference.engine import Engine
from app.inference.jobs import Answer, Job
from app.inference.queue.queue import ANYONE
from app.inference.queue.reservations import Reservation
from app.inference.queue.work import Asker, Refused, Result, Work
from app.inference.warm_up import warm_up
from app.settings import Settings
from app.threads.cores import usable_cores
from models.checkpoints.checkpoint import open_checkpoint
from models.checkpoints.describe import accuracy, assumptions

logger = logging.getLogger("vitrine")

State = Literal["loading", "ready", "draining", "failed"]
Load = Callable[[Settings], Engine]

FAILING_AFTER = 3
"""Consecutive requests whose forward passes all failed; after that, readiness depends on a probe that succeeds."""

PROBE_S = 5.0
"""Timeout of the probe."""

HELD_S = 0.05
"""For how long a client is refused without another look at the queue, at most."""

LAST_BATCH_S = 5.0
"""Timeout for the batch that runs when the process ends."""


TRIM_AFTER_S = 10.0
"""After so long without a batch, freed memory is given back to the system. The next batch takes a tenth longer."""


class Stuck(Fatal):
    """A forward pass does not end."""


def load_engine(settings: Settings) -> Engine:
    """Open the checkpoint, move it to its device and warm it up."""
    keep_large_blocks()
    limit_compiled_shapes(settings.compiled_shapes)
    # torch counts the machine's physical cores (or OMP_NUM_THREADS), and knows no quota of a container.
    torch.set_num_threads(settings.torch_threads or min(torch.get_num_threads(), usable_cores()))
    checkpoint = open_checkpoint(settings.model, **settings.choices, log=logger.info)
    for about, assumption in assumptions(checkpoint).items():
        logger.info("%s (%s)", assumption, about)
    for sentence in accuracy(checkpoint):
        logger.info(sentence)
    engine = Engine(
        *(checkpoint, settings.device, settings.dtype, settings.max_batch_tokens, settings.compile),
        colour=settings.colour,
        streams=settings.streams,
    )
    warm_up(engine)
    return engine


class Runtime:
    """One model and its queue.

    Args:
        settings: how the service runs.
        load: creates the engine, on the first thread of the device.
        observer: is told what was computed.
        decoders: how many images are decoded at once, at most.
    """

    def __init__(
        self,
        settings: Settings,
        load: Load = load_engine,
        observer: Observer[Job] | None = None,
        decoders: int = 1,
    ) -> None:
        self.settings = settings
        self.state: State = "loading"
        self.leaving = False
        """SIGTERM was received and requests are still served: a load balancer should send them elsewhere."""
        self.failure: Exception | None = None
        self.finished_loading = asyncio.Event()
        self._load = load
        self._engine: Engine | None = None
        self._report: Callable[[], None] = lambda: None
        self._failures = 0
        self._watchdog: asyncio.Task[None] | None = None
        self.batcher: Batcher[Job, Answer] = Batcher(self._prepare, self._prepared, settings.max_queue_tokens, observer)
        self.batcher.queue.streams.preparers = decoders

    @property
    def engine(self) -> Engine:
        """The engine, for a new request. Raises Problem while the model is loading, draining or failed."""
        if self.state in ("draining", "failed"):
            raise Problem("draining", "the service is shutting down", {"Retry-After": "1"})
        if self._engine is None or self.state == "loading":
            raise Problem("loading", "the model is still being loaded", {"Retry-After": "1"})
        return self._engine

    @property
    def loaded(self) -> Engine:
        """The engine, for a request that was admitted, also while the service drains."""
        if self._engine is None:
            raise Problem("loading", "the model is still being loaded", {"Retry-After": "1"})
        return self._engine

    @property
    def alive(self) -> bool:
        """Whether the threads of the device run and none hangs."""
        return self.state != "failed" and self.batcher.alive and not self._stuck

    async def check_ready(self) -> None:
        """Raise Problem unless the model can answer.

        This costs nothing while forward passes succeed; after several failures it runs one as a probe, as Hugging
        Face's Text Embeddings Inference does.
        """
        engine = self.engine
        if self.leaving:
            raise Problem("draining", "the service is about to shut down", {"Retry-After": "1"})
        if self._failures < FAILING_AFTER:
            return
        job = engine.probe()
        try:
            async with asyncio.timeout(PROBE_S):
                await self.run([Work(engine.cost(*job.pixels.shape[1:]), job)])
        except (TimeoutError, Problem):
            logger.warning("the probe was not answered; forward passes keep failing")
        if self._failures:
            raise Problem("unhealthy", "the model's forward passes keep failing", {"Retry-After": "1"})

    def start(self, report: Callable[[], None]) -> None:
        """Start loading; call `report` on the event loop when loading has ended, and when the model is lost."""
        self._report = report
        self.batcher.start()
        self._watchdog = asyncio.create_task(self._watch())

    def drain(self) -> None:
        """Accept no new work; accepted work is still answered."""
        if self.state != "failed":
            self.state = "draining"

    async def stop(self) -> None:
        """End the threads of the device; the server has already waited for the answers."""
        self.drain()
        if self._watchdog is not None:
            self._watchdog.cancel()
        # A load or a forward pass that hangs cannot be interrupted; do not wait for it.
        waits = self.finished_loading.is_set() and self.failure is None
        await self.batcher.stop(LAST_BATCH_S if waits else 0)

    def check_space(self, cost: int, asker: Asker) -> None:
        """Raise Problem if work of this cost would be refused now; it holds for a moment, whatever the work is."""
        if (refused := self.batcher.queue.refusal(cost, asker)) is not None:
            problem = overloaded(refused)
            # Shorter than what waits, so that the device does not become idle meanwhile.
            problem.holds_s = min(HELD_S, self.batcher.queue.empty_in_s / 4)
            raise problem

    def reserve(self, cost: int, asker: Asker, images: int) -> Reservation:
        """Reserve space in the queue for images that are still to be decoded. Raises Problem."""
        try:
            return self.batcher.queue.reserve(cost, asker, images)
        except Refused as refused:
            raise overloaded(refused) from refused

    async def run(
        self, works: Sequence[Work[Job]], asker: Asker = ANYONE, reservation: Reservation | None = None
    ) -> list[Result[Answer]]:
        """Return the answer or the error of each piece of work. Raises Problem for an error of the whole request."""
        try:
            dones = await self.batcher.submit(works, asker, reservation)
        except Refused as refused:
            raise overloaded(refused) from refused
        except Expired as expired:
            raise TimeoutError from expired
        except Fatal as fatal:
            raise Problem("draining", "the model was lost; the service is restarting", {"Retry-After": "1"}) from fatal
        if dones:
            failed = all(isinstance(done.answer, Exception) for done in dones)
            self._failures = self._failures + 1 if failed else 0
        return dones

    def _prepare(self) -> Engine:
        self._engine = self._load(self.settings)
        return self._engine

    def _prepared(self, failure: Exception | None) -> None:
        """Loading has ended, or the model was lost."""
        if failure is not None:
            self._fail(failure)
        elif self.state == "loading":
            self.state = "ready"
            self._report()
        self.finished_loading.set()

    def _fail(self, failure: Exception) -> None:
        reported = self.state in ("draining", "failed")
        self.failure, self.state = failure, "failed"
        if not reported:
            self._report()

    @property
    def _stuck(self) -> bool:
        return self._engine is not None and self.batcher.busy_s > self._engine.stuck_after_s

    async def _watch(self) -> None:
        """End the process when a forward pass hangs: its thread cannot be interrupted.

        Give freed memory back when the device is idle.
        """
        trimmed = 0
        while not self._stuck:
            await asyncio.sleep(0.5)
            if self.batcher.batches != trimmed and self.batcher.idle_s > TRIM_AFTER_S:
                trimmed = self.batcher.batches
                await asyncio.to_thread(trim)
        failure = Stuck(f"a forward pass has been running for {self.batcher.busy_s:.0f} s")
        self.batcher.abandon(failure)
        self._fail(failure)


def overloaded(refused: Refused) -> Problem:
    """Return the problem of a queue that does not take a request."""
    return Problem("overloaded", refused.detail, {"Retry-After": str(refused.retry_after_s)})
