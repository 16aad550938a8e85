"""Answer files with the same decoder, batcher and engine that serve HTTP."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from app.bulk.entries import ListedFile, read_file
from app.errors import ImageProblem
from app.schemas import AttentionQuery, ClassifyQuery, EmbedQuery, FeaturesQuery
from app.service import Classes, Engine, ImageAnswer, Resolution, Service, Task
from app.settings import Settings
from app.telemetry.timings import Timings

MAX_READING = 32
"""Files that are read or decoded at the same time. It bounds the memory for them, however many files there are."""

MAX_DECODED = 1024
"""Decoded files that wait for a batch or are in one."""

# A command has the process to itself, so its files may wait in the queue for as long as they need.
NO_QUEUE_LIMITS = {"request_timeout_s": 86_400.0, "max_queue_tokens": 2**62}

Query = ClassifyQuery | EmbedQuery | AttentionQuery | FeaturesQuery
ReadFile = Callable[[str, int], bytes]
"""(path, limit) -> the first `limit` bytes of the file. Raises OSError."""


async def classify_files(
    settings: Settings, files: Iterable[ListedFile], query: ClassifyQuery
) -> AsyncIterator[tuple[str, list[dict[str, Any]] | ImageProblem]]:
    """Yield each file with its best classes or its problem, in order."""
    async with running_service(settings) as service:
        classes = classes_of(service, query)
        async for file, outcome in answer_files(service, files, query):
            yield file.path, outcome if isinstance(outcome, ImageProblem) else classes.named(outcome.answer)


def classes_of(service: Service, query: ClassifyQuery) -> Classes:
    """Return how files are classified. Raises Problem for a model without classes."""
    return service.heads.unnamed(service.engine, Resolution(*query.resolution), query.top_k)


async def start_service(settings: Settings) -> Service:
    """Start a service without a server, and wait until its model is loaded. Raises the error that prevented loading."""
    service = Service(settings.model_copy(update=NO_QUEUE_LIMITS))
    service.start(lambda: None)
    await service.runtime.finished_loading.wait()
    if service.runtime.failure is not None:
        await service.stop()
        raise service.runtime.failure
    return service


@asynccontextmanager
async def running_service(settings: Settings) -> AsyncIterator[Service]:
    """Start a service like `start_service`, and stop it at the end."""
    service = await start_service(settings)
    try:
        yield service
    finally:
        await service.stop()


async def answer_files(
    service: Service, files: Iterable[ListedFile], query: Query, read: ReadFile = read_file
) -> AsyncIterator[tuple[ListedFile, ImageAnswer | ImageProblem]]:
    """Yield each file with its answer or its problem, in order, while a window of files is in progress.

    Raises Problem for an error that concerns all files.
    """
    engine, (resolution, task) = service.engine, _asked(service, query)
    limit, window = service.settings.max_upload_bytes, _window(engine, resolution)
    reading = asyncio.Semaphore(MAX_READING)

    async def answer(file: ListedFile) -> ImageAnswer | ImageProblem:
        if file.problem is not None:
            return ImageProblem("not_an_image", file.problem)
        async with reading:
            try:
                data = await asyncio.to_thread(read, file.path, limit + 1)
            except OSError as error:
                return ImageProblem("not_an_image", error.strerror or "the file cannot be read")
            if len(data) > limit:
                return ImageProblem("body_too_large", f"the file is larger than {limit} bytes (max_upload_bytes)")
            (prepared,) = await service.prepare(engine, [data], resolution, Timings())
            del data  # only the pixels are kept while the image waits for its batch
        if isinstance(prepared, ImageProblem):
            return prepared
        return (await service.answer(engine, [prepared.image], resolution, task, Timings()))[0]

    pending: deque[tuple[ListedFile, asyncio.Task[ImageAnswer | ImageProblem]]] = deque()
    try:
        for file in files:
            pending.append((file, asyncio.create_task(answer(file))))
            if len(pending) == window:
                first, answering = pending.popleft()
                yield first, await answering
        while pending:
            first, answering = pending.popleft()
            yield first, await answering
    finally:
        for _, answering in pending:
            answering.cancel()


def _asked(service: Service, query: Query) -> tuple[Resolution, Task]:
    """Return the resolution and the task of a query. Raises Problem for one that the model cannot answer."""
    engine, resolution = service.engine, Resolution(*query.resolution)
    if isinstance(query, ClassifyQuery):
        classes = classes_of(service, query)
        return classes.resolution, classes.task
    if isinstance(query, EmbedQuery):
        return resolution, Task.vector(engine, query.pool, query.normalize)
    if isinstance(query, FeaturesQuery):
        return resolution, Task.tokens(engine, query.layer_indices, query.norm, bool(query.prefix))
    return resolution, Task.attention(engine, query.layer, query.head_index, query.method == "rollout")


def _window(engine: Engine, resolution: Resolution) -> int:
    """Return how many files may be in progress: a batch for each stream, and one that is ready when one needs it.

    Small images are limited by MAX_DECODED, because each file costs an asyncio task and time on the event loop.
    """
    size = engine.network_size(*resolution)
    return MAX_READING + min(MAX_DECODED, (engine.streams + 1) * engine.max_batch_cost // engine.cost(*size))
