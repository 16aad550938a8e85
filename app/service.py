"""The straight line that every way of asking shares: bytes -> decode -> queue -> one forward -> answers.

Holds what lives as long as the process: the decoding threads, the batcher with the engine behind it, and the state
that `/readyz` tells.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from app.batcher import Batcher, Done, QueueFull, Ran, Work
from app.engine import Answer, Engine, Job, OutputInvalid
from app.errors import ImageProblem, Problem, internal
from app.images import Limits, decode, to_network
from app.metrics import Metrics
from app.settings import Settings
from app.uploads import Upload
from models.checkpoint import open_checkpoint
from models.preprocess import Plan, Resize, Size, whole_patches
from models.vit import Readout

logger = logging.getLogger("vitrine")

State = Literal["loading", "ready", "draining", "failed"]

POOLS = {"cls": Readout.CLS, "mean": Readout.MEAN, "native": Readout.NATIVE}

STUCK_AFTER_S = 120.0
"""A batch that runs for longer than this is not going to end."""


@dataclass(frozen=True)
class View:
    """The resolution that a request asks for; None is the checkpoint's own."""

    size: Size | None = None
    resize: Resize | None = None


@dataclass(frozen=True)
class Want:
    """What a request asks of each image; see `engine.Job`."""

    readout: Readout
    normalize: bool = False
    top_k: int | None = None

    @classmethod
    def classes(cls, engine: Engine, top_k: int | None) -> "Want":
        """The best `top_k` classes (0: all), or the probabilities of all in their order (None).

        Raises Problem for a model without a classifier.
        """
        if Readout.LOGITS not in engine.readouts:
            raise Problem("no_classifier", f"{engine.checkpoint.name} has no classifier; /embed answers its vectors")
        return cls(Readout.LOGITS, top_k=engine.config.num_classes if top_k == 0 else top_k)

    @classmethod
    def vector(cls, engine: Engine, pool: str | None, normalize: bool) -> "Want":
        """The vector of this pool. Raises Problem for one that the model does not have."""
        readout = POOLS[pool] if pool else engine.native_readout
        if readout not in engine.readouts:
            has = ", ".join(name for name, readout in POOLS.items() if readout in engine.readouts)
            raise Problem("no_such_pool", f"{engine.checkpoint.name} cannot pool by {pool!r}; it can by {has}")
        return cls(readout, normalize)


@dataclass(frozen=True)
class Prepared:
    """An image that is ready for the queue, and what became of it on the way."""

    pixels: NDArray[np.uint8]  # (3, height, width)
    plan: Plan
    width: int  # of the upright picture
    height: int
    format: str


@dataclass(frozen=True)
class Answered:
    """An image's answer, and how it was come by."""

    answer: Answer
    image: Prepared
    tokens: int
    interpolated: bool


@dataclass
class Timings:
    """Seconds that the steps of a request took and when they ended; a step that did not run has none.

    `facts` are what else is known of the request: how many images, how many of them failed, their tokens.
    """

    spans: dict[str, float] = field(default_factory=dict)
    ended_at: dict[str, float] = field(default_factory=dict)
    facts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, seconds: float, ended_at: float | None = None) -> None:
        """Record a step that ended now or at another time of `perf_counter`; of several images the longest counts."""
        if seconds >= self.spans.get(name, 0.0):
            self.spans[name] = seconds
            self.ended_at[name] = time.perf_counter() if ended_at is None else ended_at


class Service:
    """One model, served."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.limits = Limits(settings.image_formats, settings.max_pixels)
        self.state: State = "loading"
        self.failure: Exception | None = None
        self.finished_loading = asyncio.Event()
        self._engine: Engine | None = None
        self._report: Callable[[Service], None] = lambda _: None
        self._decoders = ThreadPoolExecutor(settings.decode_threads or os.cpu_count(), "decode")
        self.metrics = Metrics()
        self._batcher: Batcher[Job, Answer] = Batcher(
            self._load, self._loaded, settings.max_queue_tokens, self._count_batch
        )
        self._watch_gauges()

    @property
    def engine(self) -> Engine:
        """The engine. Raises Problem while there is none, and while nothing new is taken."""
        if self.state == "draining":
            raise Problem("draining", "the service is shutting down", {"Retry-After": "1"})
        if self._engine is None or self.state != "ready":
            raise Problem("loading", "the model is still being loaded", {"Retry-After": "1"})
        return self._engine

    @property
    def alive(self) -> bool:
        """Whether the thread that runs the model is there and moving."""
        return self._batcher.alive and self._batcher.busy_s < STUCK_AFTER_S

    def start(self, report: Callable[["Service"], None]) -> None:
        """Start loading the model, and `report` on the event loop when that has ended; returns at once."""
        self._report = report
        self._batcher.start()

    def drain(self) -> None:
        """Take nothing new; what was taken is answered."""
        self.state = "draining"

    async def stop(self) -> None:
        """Answer what was taken, then let go of the threads."""
        self.drain()
        # A load cannot be interrupted, and nobody waits for its end.
        await self._batcher.stop(self.settings.drain_timeout_s if self.finished_loading.is_set() else 0)
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def admit(self) -> Engine:
        """The engine, if it takes requests now: asked before a body is read. Raises Problem."""
        engine = self.engine
        if self._batcher.full:
            raise _overloaded(self._batcher.retry_after_s)
        return engine

    async def answer(
        self, engine: Engine, uploads: Sequence[Upload], view: View, want: Want, timings: Timings
    ) -> list[Answered | ImageProblem]:
        """Each image's answer or its own problem, in order. Raises Problem where it concerns the whole request.

        Takes the engine that admitted the request: what was admitted is answered, also while the service drains.
        """
        self._check_tokens(engine, view)
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                started = time.perf_counter()
                images = await self._prepare_all(engine, uploads, view)
                timings.add("decode", time.perf_counter() - started)
                good = [image for image in images if isinstance(image, Prepared)]
                done = iter(await self._run(engine, good, want))
        except TimeoutError as error:
            allowed = f"the request waited longer than {self.settings.request_timeout_s:g} s"
            raise Problem("timeout", allowed, {"Retry-After": str(self._batcher.retry_after_s)}) from error
        outcomes = [
            image if isinstance(image, ImageProblem) else self._answered(engine, image, next(done), timings)
            for image in images
        ]
        self._count(outcomes, want, timings)
        return outcomes

    async def _prepare_all(
        self, engine: Engine, uploads: Sequence[Upload], view: View
    ) -> list[Prepared | ImageProblem]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(self._decoders, self._prepare, engine, upload, view) for upload in uploads)
        )

    def _prepare(self, engine: Engine, upload: Upload, view: View) -> Prepared | ImageProblem:
        """On a decoding thread: all that can be wrong with one image is found here."""
        if isinstance(upload, ImageProblem):
            return upload
        started = time.perf_counter()
        preprocess = engine.checkpoint.content.preprocess
        try:
            picture = decode(upload, self.limits)
            plan = preprocess.plan(picture.size, engine.config.patch_size, view.size, view.resize)
            self._check_scaled(picture.size, plan)
            pixels = to_network(picture, plan, preprocess.interpolation)
        except ImageProblem as problem:
            return problem
        finally:
            self.metrics.images.preprocessed(time.perf_counter() - started)
        height, width = picture.size
        return Prepared(pixels, plan, width, height, picture.format)

    async def _run(self, engine: Engine, images: Sequence[Prepared], want: Want) -> list[Done[Answer]]:
        works = [
            Work(engine.cost(*image.plan.size), Job(image.pixels, want.readout, want.normalize, want.top_k))
            for image in images
        ]
        try:
            return await self._batcher.submit(works)
        except QueueFull as full:
            raise _overloaded(full.retry_after_s) from full

    def _answered(
        self, engine: Engine, image: Prepared, done: Done[Answer], timings: Timings
    ) -> Answered | ImageProblem:
        timings.add("queue", done.queue_s, time.perf_counter() - done.run_s)
        timings.add("forward", done.run_s)
        if isinstance(done.answer, Exception):
            return _failed(done.answer)
        config = engine.config
        return Answered(
            done.answer,
            image,
            tokens=config.num_tokens(*image.plan.size),
            interpolated=config.grid(*image.plan.size) != config.grid_size,
        )

    def _count(self, outcomes: Sequence[Answered | ImageProblem], want: Want, timings: Timings) -> None:
        """Tell the metrics and the log what became of a request's images."""
        task = "classify" if want.readout is Readout.LOGITS else "embed"
        answered = [outcome for outcome in outcomes if isinstance(outcome, Answered)]
        for outcome in outcomes:
            if isinstance(outcome, ImageProblem):
                self.metrics.images.refused(outcome.code)
            else:
                self.metrics.images.answered(task, outcome.tokens)
        timings.facts["images"] = len(outcomes)
        timings.facts["failed"] = len(outcomes) - len(answered)
        timings.facts["tokens"] = sum(outcome.tokens for outcome in answered)

    def _count_batch(self, batch: Ran[Job]) -> None:
        tokens = [self._network_tokens(job) for job in batch.payloads]
        self.metrics.batches.ran(tokens, batch.queue_s, batch.run_s)

    def _network_tokens(self, job: Job) -> int:
        _, height, width = job.pixels.shape
        return self._engine.config.num_tokens(height, width) if self._engine else 0

    def _watch_gauges(self) -> None:
        batcher = self._batcher
        self.metrics.batches.watch(
            lambda: batcher.waiting, lambda: batcher.waiting_cost, lambda: batcher.max_waiting_cost
        )
        self.metrics.model.ready.set_function(lambda: self.state == "ready")

    def _check_tokens(self, engine: Engine, view: View) -> None:
        """No image of the request may need more tokens than one image may have; `fit` only ever needs fewer."""
        preprocess, config = engine.checkpoint.content.preprocess, engine.config
        size = whole_patches(view.size or preprocess.input_size, config.patch_size)
        most = self.settings.max_tokens_per_image
        if config.num_tokens(*size) > most:
            side = int((most - config.num_prefix_tokens) ** 0.5)
            largest = f"{side * config.patch_size[0]}x{side * config.patch_size[1]}"
            detail = f"size {size[0]}x{size[1]} needs {config.num_tokens(*size)} tokens; {most} are allowed"
            raise Problem("too_many_tokens", f"{detail}, the largest square size is {largest}")

    def _check_scaled(self, picture: Size, plan: Plan) -> None:
        """A long, thin picture may not grow to any size on its way to covering the input."""
        height, width = plan.scaled
        if height * width > max(self.settings.max_pixels, picture[0] * picture[1]):
            detail = f"a picture of {picture[1]} x {picture[0]} pixels would be scaled to {width} x {height}"
            raise ImageProblem("too_many_pixels", f"{detail}; try resize=fit or resize=squash")

    def _load(self) -> Engine:
        """On the device's thread: open the checkpoint, move it there, warm it up."""
        settings = self.settings
        if settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)
        checkpoint = open_checkpoint(settings.model, **settings.choices, say=logger.info)
        self._engine = Engine(checkpoint, settings.device, settings.dtype, settings.max_batch_tokens)
        self._engine.warm_up()
        return self._engine

    def _loaded(self, failure: Exception | None) -> None:
        self.failure = failure
        if self.state == "loading":
            self.state = "failed" if failure else "ready"
            self._report(self)
        self.finished_loading.set()


def _overloaded(retry_after_s: int) -> Problem:
    return Problem("overloaded", "the queue is full", {"Retry-After": str(retry_after_s)})


def _failed(error: Exception) -> ImageProblem:
    """What a client hears of an error of the forward pass."""
    if isinstance(error, OutputInvalid):
        return ImageProblem("model_output_invalid", "the model's answer to this image is not a finite number")
    logger.error("the forward pass failed", exc_info=error)
    return ImageProblem(internal().code, internal().detail)
