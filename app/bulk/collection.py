"""Files -> their answers, by the same decoder, batcher and engine that serve HTTP."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from app.errors import ImageProblem
from app.inference.engine import Engine
from app.inference.jobs import Ranking
from app.inference.task import Task
from app.pictures.drawing import attention_png
from app.pictures.prepared import Resolution
from app.schemas import AttentionQuery, ClassifyQuery, EmbedQuery
from app.service.outcome import ImageAnswer
from app.service.service import Service
from app.settings import Settings
from app.telemetry.timings import Timings

READING = 32
"""Files that are being read or decoded at the same time: what they take together is bounded, whatever their number."""

MOST_UNDER_WAY = 1024
"""Files that are decoded and wait for their batch, or are in one."""

# Nobody else shares this process: its own files may wait for as long as they need.
PATIENT = {"request_timeout_s": 86_400.0, "max_queue_tokens": 2**62}

Query = ClassifyQuery | EmbedQuery | AttentionQuery
Read = Callable[[str, int], bytes]
"""(path, so many bytes at most) -> the file's bytes, of a longer one the beginning. Raises OSError."""


def read_file(path: str, most: int) -> bytes:
    """A file of this machine."""
    with Path(path).open("rb") as file:
        return file.read(most)


async def classified(
    settings: Settings, paths: Iterable[str], query: ClassifyQuery
) -> AsyncIterator[tuple[str, list[dict[str, Any]] | ImageProblem]]:
    """Each file with its best classes or what is wrong with it, in order."""
    async with loaded(settings) as service:
        async for path, outcome in answers(service, paths, query):
            if isinstance(outcome, ImageProblem):
                yield path, outcome
            else:
                yield path, cast(Ranking, outcome.answer).named(service.engine.labels.names)


async def attended(
    settings: Settings, paths: Iterable[str], query: AttentionQuery
) -> AsyncIterator[tuple[str, bytes | ImageProblem]]:
    """Each file with a PNG of what [CLS] attends to in it or what is wrong with it, in order."""
    async with loaded(settings) as service:
        async for path, outcome in answers(service, paths, query):
            if isinstance(outcome, ImageProblem):
                yield path, outcome
            else:
                weights, pixels = cast(NDArray[np.float32], outcome.answer), outcome.image.rgb
                yield path, attention_png(weights, pixels, over=query.output != "map")


async def started(settings: Settings) -> Service:
    """A service without a server, its model loaded. Raises what kept the model from being loaded."""
    service = Service(settings.model_copy(update=PATIENT))
    service.start(lambda: None)
    await service.runtime.finished_loading.wait()
    if service.runtime.failure is not None:
        await service.stop()
        raise service.runtime.failure
    return service


@asynccontextmanager
async def loaded(settings: Settings) -> AsyncIterator[Service]:
    """The same, for as long as it is needed."""
    service = await started(settings)
    try:
        yield service
    finally:
        await service.stop()


async def answers(
    service: Service, paths: Iterable[str], query: Query, read: Read = read_file
) -> AsyncIterator[tuple[str, ImageAnswer | ImageProblem]]:
    """Keep a window of files under way, and hand them on in order. Raises Problem where it concerns all of them."""
    engine, resolution = service.engine, Resolution(query.height_width, query.resize)
    task, most = _task(engine, query), service.settings.max_upload_bytes
    reading = asyncio.Semaphore(READING)

    async def answer(path: str) -> ImageAnswer | ImageProblem:
        async with reading:
            try:
                data = await asyncio.to_thread(read, path, most + 1)
            except OSError as error:
                return ImageProblem("not_an_image", error.strerror or "the file cannot be read")
            if len(data) > most:
                return ImageProblem("body_too_large", f"the file is larger than {most} bytes (max_upload_bytes)")
            (seen,) = await service.prepare(engine, [data], resolution, Timings())
            del data  # what waits for its batch is pixels alone
        if isinstance(seen, ImageProblem):
            return seen
        return (await service.answer(engine, [seen.image], resolution, task, Timings()))[0]

    window = _window(engine, resolution)
    under_way: deque[tuple[str, asyncio.Task[ImageAnswer | ImageProblem]]] = deque()
    try:
        for path in paths:
            under_way.append((path, asyncio.create_task(answer(path))))
            if len(under_way) == window:
                first, pending = under_way.popleft()
                yield first, await pending
        while under_way:
            first, pending = under_way.popleft()
            yield first, await pending
    finally:
        for _, pending in under_way:
            pending.cancel()


def _task(engine: Engine, query: Query) -> Task:
    if isinstance(query, ClassifyQuery):
        return Task.classes(engine, query.top_k)
    if isinstance(query, EmbedQuery):
        return Task.vector(engine, query.pool, query.normalize)
    return Task.attention(engine, query.layer, query.head_index, query.method == "rollout")


def _window(engine: Engine, resolution: Resolution) -> int:
    """Files under way: two batches, so that the next one is there when the engine is done with the last.

    As many as MOST_UNDER_WAY of however small ones: each costs a task, and the loop its time.
    """
    size = engine.network_size(resolution.size)
    return READING + min(MOST_UNDER_WAY, 2 * engine.max_batch_cost // engine.cost(*size))
