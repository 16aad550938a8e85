"""The path that all requests share: bytes -> decode -> queue -> one forward pass -> answers.

A request is refused before its body is read if the queue has no space or no time for one image, or if decoding would
wait longer than half of the timeout. Images for which the queue has no space or no time are refused before they are
decoded. Clients take turns in both.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import islice

from app.errors import ImageProblem, Problem, internal
from app.fairness.client import CLIENT
from app.inference.batcher import BatchReport, Observer
from app.inference.engine import Engine
from app.inference.jobs import Answer, Job, OutOfMemory, OutputInvalid
from app.inference.queue.queue import SLOW
from app.inference.queue.reservations import Reservation
from app.inference.queue.work import Asker, NotInTime, Result, Work
from app.inference.runtime import Load, Runtime, load_engine, overloaded
from app.inference.task import Task
from app.pictures.pool import Decoder, Transform
from app.pictures.prepared import PreparedImage, Resolution, Upload
from app.service.cache import Cache
from app.service.cache_keys import cache_keys, cached_bytes
from app.service.heads import Heads
from app.service.outcome import ImageAnswer
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.timings import Timings
from models.preprocess import Pixels

logger = logging.getLogger("vitrine")


class Service:
    """One model and everything that is needed to answer requests with it.

    Args:
        settings: how the service runs.
        load: creates the engine; see `Runtime`.
    """

    def __init__(self, settings: Settings, load: Load = load_engine) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.decoder = Decoder(settings, self.metrics.images.preprocessed)
        self.heads = Heads(settings)
        observer = Observer(self._count_batch, self._count_waste)
        self.runtime = Runtime(settings, self.heads.checked(load), observer, self.decoder.threads)
        self._cache: Cache[ImageAnswer | ImageProblem] | None = (
            Cache(settings.cache_mb * 2**20, cached_bytes, self.metrics.cache.asked) if settings.cache_mb else None
        )
        self._watch_gauges()

    @property
    def engine(self) -> Engine:
        """The engine. Raises Problem while the model is loading, draining or failed."""
        return self.runtime.engine

    def start(self, report: Callable[[], None]) -> None:
        """Start loading the model and return at once; call `report` on the event loop when loading has ended."""
        self.runtime.start(report)

    async def stop(self) -> None:
        """Answer the accepted requests, then end the threads."""
        await self.runtime.stop()
        self.decoder.stop()

    def admit(self) -> Engine:
        """Return the engine if it accepts requests now. Call it before a body is read. Raises Problem."""
        engine = self.engine
        self.runtime.check_space(engine.cost(*engine.network_size()), self._asker())
        if (wait_s := self.decoder.wait_s) > self.settings.request_timeout_s / 2:
            raise overloaded(NotInTime(SLOW, min(60, math.ceil(wait_s))))
        return engine

    def _asker(self) -> Asker:
        """Return who asks, and until when, if the request's time begins now."""
        client = CLIENT.get() if self.settings.fair else ""
        return Asker(client, time.monotonic() + self.settings.request_timeout_s)

    async def answer(
        self,
        engine: Engine,
        uploads: Sequence[Upload | PreparedImage],
        resolution: Resolution,
        task: Task,
        timings: Timings,
    ) -> list[ImageAnswer | ImageProblem]:
        """Return the answer or the problem of each image, in order. Raises Problem for an error of the whole request.

        Args:
            engine: what `admit` returned: a request that was admitted is answered, also while the service drains.
            uploads: image files; a PreparedImage is used as it is.
            resolution: the size and the resize mode, or the number of patches, that the request asks for.
            task: what to answer.
            timings: receives the duration of each step.
        """
        self._check_tokens(engine, resolution)

        async def compute(places: Sequence[int]) -> list[ImageAnswer | ImageProblem]:
            return await self._compute(engine, [uploads[place] for place in places], resolution, task, timings)

        if self._cache is None:
            outcomes = await compute(range(len(uploads)))
        else:
            keys = await cache_keys(uploads, (engine.fingerprint, self.settings.decode, resolution, task))
            outcomes = await self._cache.values(keys, compute)
        self._count(outcomes, task.name, timings)
        return outcomes

    async def _compute(
        self,
        engine: Engine,
        uploads: Sequence[Upload | PreparedImage],
        resolution: Resolution,
        task: Task,
        timings: Timings,
    ) -> list[ImageAnswer | ImageProblem]:
        asker = self._asker()
        # Before anything is decoded: under overload that work would be wasted.
        answers = 2 if task.second else 1
        expected = len(uploads) * answers * engine.cost(*engine.network_size(*resolution), task.attention_spec)
        with self.runtime.reserve(expected, asker, len(uploads)) as reservation:
            async with self._deadline():
                images = await self._decode(engine, uploads, resolution, timings)
                good = [image for image in images if isinstance(image, PreparedImage)]
                done = iter(await self._run(engine, good, task, asker, reservation))
        return [
            image
            if isinstance(image, ImageProblem)
            else self._answered(engine, image, list(islice(done, answers)), timings)
            for image in images
        ]

    async def prepare(
        self, engine: Engine, uploads: Sequence[Upload], resolution: Resolution, timings: Timings
    ) -> list[ImageAnswer | ImageProblem]:
        """Return the network's input for each image, or its problem, in order; the network does not run."""
        self._check_tokens(engine, resolution)
        async with self._deadline():
            images = await self._decode(engine, uploads, resolution, timings)
        outcomes = [
            image if isinstance(image, ImageProblem) else _described(engine, image, image.pixels) for image in images
        ]
        self._count(outcomes, "preprocess", timings)
        return outcomes

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                yield
        except TimeoutError as error:
            allowed = f"the request waited longer than {self.settings.request_timeout_s:g} s"
            raise Problem("timeout", allowed, {"Retry-After": str(self.runtime.batcher.queue.retry_after_s)}) from error

    async def _decode(
        self, engine: Engine, uploads: Sequence[Upload | PreparedImage], resolution: Resolution, timings: Timings
    ) -> list[PreparedImage | ImageProblem]:
        started = time.perf_counter()
        patches = self.settings.max_tokens_per_image - engine.config.num_prefix_tokens
        how = engine.checkpoint.content.preprocess, engine.config.patch_size, resolution, patches
        transform = Transform(*how, rounded=engine.dtype != "float32")
        images = await self.decoder.prepare(uploads, transform)
        timings.add("decode", time.perf_counter() - started)
        return images

    async def _run(
        self, engine: Engine, images: Sequence[PreparedImage], task: Task, asker: Asker, reservation: Reservation
    ) -> list[Result[Answer]]:
        works = [
            Work(engine.cost(*image.plan.size, task.attention_spec), job)
            for image in images
            for job in task.jobs_for(image.pixels)
        ]
        results = await self.runtime.run(works, asker, reservation)
        if any(isinstance(result.answer, OutOfMemory) for result in results):
            raise Problem("out_of_memory", "the device has not enough memory for this request", {"Retry-After": "1"})
        return results

    def _answered(
        self, engine: Engine, image: PreparedImage, results: Sequence[Result[Answer]], timings: Timings
    ) -> ImageAnswer | ImageProblem:
        """Return the answer to one image, which has one result or two."""
        answers: list[Answer] = []
        for result in results:
            timings.add("queue", result.queue_s, time.perf_counter() - result.run_s)
            timings.add("forward", result.run_s)
            if isinstance(result.answer, Exception):
                return _failed(result.answer)
            answers.append(result.answer)
        return _described(engine, image, *answers)

    def _count(self, outcomes: Sequence[ImageAnswer | ImageProblem], task: str, timings: Timings) -> None:
        """Count a request's images for the metrics and the log."""
        answered = [outcome for outcome in outcomes if isinstance(outcome, ImageAnswer)]
        for outcome in outcomes:
            if isinstance(outcome, ImageProblem):
                self.metrics.images.refused(outcome.code)
            else:
                self.metrics.images.answered(task, outcome.tokens)
        timings.facts["images"] = len(outcomes)
        timings.facts["failed"] = len(outcomes) - len(answered)
        timings.facts["tokens"] = sum(outcome.tokens for outcome in answered)

    def _count_batch(self, batch: BatchReport[Job]) -> None:
        tokens = [self._network_tokens(job) for job in batch.payloads]
        self.metrics.batches.ran(tokens, batch.queue_s, batch.run_s)

    def _count_waste(self, jobs: Sequence[Job]) -> None:
        self.metrics.batches.wasted(sum(self._network_tokens(job) for job in jobs))

    def _network_tokens(self, job: Job) -> int:
        return self.runtime.loaded.config.num_tokens(*job.pixels.shape[1:])

    def _watch_gauges(self) -> None:
        queue = self.runtime.batcher.queue
        self.metrics.batches.watch(lambda: len(queue), lambda: queue.cost, lambda: queue.max_cost or 0)
        self.metrics.cache.watch(lambda: self._cache.held_bytes if self._cache else 0)
        self.metrics.model.ready.set_function(lambda: self.runtime.state == "ready" and not self.runtime.leaving)

    def _check_tokens(self, engine: Engine, resolution: Resolution) -> None:
        """Raise Problem if the requested size needs too many tokens; the decoder checks the size of each image."""
        config, size = engine.config, engine.network_size(*resolution)
        most, patches = self.settings.max_tokens_per_image, engine.checkpoint.content.preprocess.budget(*resolution)
        if config.num_tokens(*size) > most and patches is not None:
            detail = f"max_patches {patches} needs {config.num_tokens(*size)} tokens; {most} are allowed"
            raise Problem("too_many_tokens", f"{detail}, so at most {most - config.num_prefix_tokens} patches")
        if config.num_tokens(*size) > most:
            side = int((most - config.num_prefix_tokens) ** 0.5)
            largest = f"{side * config.patch_size[0]}x{side * config.patch_size[1]}"
            detail = f"size {size[0]}x{size[1]} needs {config.num_tokens(*size)} tokens; {most} are allowed"
            raise Problem("too_many_tokens", f"{detail}, the largest square size is {largest}")


def _described(
    engine: Engine, image: PreparedImage, answer: Answer | Pixels, second: Answer | None = None
) -> ImageAnswer:
    config, size = engine.config, image.plan.size
    grid = config.grid(*size)
    return ImageAnswer(answer, image, config.num_tokens(*size), grid, grid != config.grid_size, second)


def _failed(error: Exception) -> ImageProblem:
    """Return what a client is told about an error of the forward pass."""
    if isinstance(error, OutputInvalid):
        return ImageProblem("model_output_invalid", "the model's answer to this image is not a finite number")
    logger.error("the forward pass failed", exc_info=error)
    return ImageProblem(internal().code, internal().detail)
