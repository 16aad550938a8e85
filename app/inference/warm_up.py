"""Try an engine before it serves: compile it, check its first answers, measure its time and memory, try what is faster.

In: an engine that has not run. Out: the same engine, with what was measured; or an error that ends the start.
"""

import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import cast

import numpy as np

from app.inference.device.backend import DeviceUnavailable
from app.inference.device.copies import OverlappedCopies
from app.inference.engine import Engine
from app.inference.jobs import Answer, Job, OutputInvalid, Ranking
from app.inference.overlap import try_overlap
from models.checkpoints.golden import Golden, picture
from models.network.vit import Readout

logger = logging.getLogger("vitrine.device")

MEMORY_PROBE_IMAGES = 8
"""Images of the batch whose memory is measured."""

TIMINGS, TIMINGS_S = 3, 0.5
"""The batch that is timed runs so many times, but none is begun after so many seconds."""


def warm_up(engine: Engine) -> None:
    """Run images of the checkpoint's own size; measure their time, and how large a batch fits into a GPU's memory.

    Raises OutputInvalid if the weights give no finite answer, or another one than the checkpoint's golden.json, and
    DeviceUnavailable where the network cannot be compiled.
    """
    if engine.compiled:
        _compile(engine)
    probe = engine.probe()
    answer = engine.run([probe])[0]
    if isinstance(answer, OutputInvalid):
        advice = "" if engine.dtype == "float32" else "; try dtype float32"
        raise OutputInvalid(f"{engine.checkpoint.name} does not answer with finite numbers in {engine.dtype}{advice}")
    if isinstance(answer, Exception):
        raise answer
    recorded = engine.record()  # takes memory that a batch cannot have
    _limit_batches(engine, probe)
    engine.network.recorded = recorded
    if engine.backend.may_overlap and try_overlap(engine, lambda: OverlappedCopies(engine.device)):
        _limit_batches(engine, probe)
    if engine.checkpoint.golden is not None:
        _compare(engine, engine.checkpoint.golden)
    else:
        _timed(engine, [probe])


def _limit_batches(engine: Engine, probe: Job) -> None:
    """Limit a batch to what fits into a GPU's memory without graphs, beside as many others as run at once."""
    recorded, engine.network.recorded = engine.network.recorded, None
    batches = [[probe] * MEMORY_PROBE_IMAGES] * engine.streams

    def run() -> None:
        with ThreadPoolExecutor(len(batches)) as threads:
            list(threads.map(engine.forward, batches))

    fits = engine.backend.largest_batch(run, MEMORY_PROBE_IMAGES * engine.cost(*probe.pixels.shape[1:]))
    if fits is not None:
        engine.max_batch_cost = min(engine.max_batch_cost, fits)
        logger.info("batches of up to %d tokens", engine.max_batch_cost)
    engine.network.recorded = recorded


def _compile(engine: Engine) -> None:
    """Compile, and run the shapes that requests use: one image and several, all tokens and [CLS] alone."""
    try:
        from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415 - a second that others need not wait for
    except ImportError as error:  # the image leaves out what torch only compiles with
        detail = "compile: the network cannot be compiled here; it needs a C++ compiler and all of torch's packages"
        raise DeviceUnavailable(f"{detail} ({error})") from error
    engine.network.compile_blocks()
    probe = engine.probe()
    try:
        for jobs in ([probe], [probe] * 2, [probe] * 3):
            engine.forward(jobs)
            engine.forward([replace(job, readout=Readout.MEAN) for job in jobs])
    except TorchDynamoException as error:
        needs = "it needs a C++ compiler, and no space in torch's own path"
        detail = f"compile: the network cannot be compiled here; {needs}"
        raise DeviceUnavailable(f"{detail} (torch: {type(error).__name__})") from error


def _compare(engine: Engine, golden: Golden) -> None:
    pixels = picture(*engine.checkpoint.content.preprocess.input_size)
    cls, best = _timed(engine, [Job(pixels, Readout.CLS), Job(pixels, Readout.LOGITS, top_k=1)])
    finite = isinstance(cls, np.ndarray) and isinstance(best, Ranking)
    if finite and golden.matches(cast(np.ndarray, cls), cast(Ranking, best).indices[0], int8=engine.dtype == "int8"):
        return
    what = f"{engine.checkpoint.name} on {engine.device} in {engine.dtype} does not answer as its golden.json says"
    raise OutputInvalid(f"{what}: other weights, or a device that computes wrongly")


def _timed(engine: Engine, jobs: Sequence[Job]) -> list[Answer | Exception]:
    """Run a batch a few times, as long as that is quick, and keep the least time: a stall only adds to it."""
    cost = sum(engine.cost(*job.pixels.shape[1:]) for job in jobs)
    begun = time.monotonic()
    for _ in range(TIMINGS):
        started = time.monotonic()
        answers = engine.run(jobs)
        ended = time.monotonic()
        engine.measured = cost, min(ended - started, engine.measured[1] if engine.measured else math.inf)
        if ended - begun > TIMINGS_S:
            break
    return answers
