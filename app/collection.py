"""Image files on this machine -> their answers, by the same decoder, batcher and engine that serve HTTP."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from app.decoding import View
from app.drawing import attention_png
from app.engine import Ranking
from app.errors import ImageProblem
from app.outcome import Answered, Timings
from app.schemas import AttentionQuery, ClassifyQuery, EmbedQuery
from app.service import Service
from app.settings import Settings
from app.want import Want

IN_FLIGHT = 32
"""Files that are read, decoded or queued at the same time: enough that the engine never waits for one."""

# Nobody else shares this process: its own files may wait for as long as they need.
PATIENT = {"request_timeout_s": 86_400.0, "max_queue_tokens": 2**62}


async def classified(
    settings: Settings, paths: Sequence[Path], query: ClassifyQuery
) -> AsyncIterator[tuple[Path, list[dict[str, Any]] | ImageProblem]]:
    """Each file with its best classes or what is wrong with it, in order."""
    async with _loaded(settings) as service:
        engine, view = service.engine, View(query.height_width, query.resize)
        async for path, outcome in _answers(service, paths, view, Want.classes(engine, query.top_k)):
            if isinstance(outcome, ImageProblem):
                yield path, outcome
            else:
                yield path, cast(Ranking, outcome.answer).named(engine.labels.names)


async def embedded(settings: Settings, paths: Sequence[Path], query: EmbedQuery) -> AsyncIterator[tuple[Path, Any]]:
    """Each file with its vector (F,) or what is wrong with it, in order."""
    async with _loaded(settings) as service:
        view, want = View(query.height_width, query.resize), Want.vector(service.engine, query.pool, query.normalize)
        async for path, outcome in _answers(service, paths, view, want):
            yield path, outcome if isinstance(outcome, ImageProblem) else outcome.answer


async def attended(
    settings: Settings, paths: Sequence[Path], query: AttentionQuery
) -> AsyncIterator[tuple[Path, bytes | ImageProblem]]:
    """Each file with a PNG of what [CLS] attends to in it or what is wrong with it, in order."""
    async with _loaded(settings) as service:
        view = View(query.height_width, query.resize)
        want = Want.attention(service.engine, query.layer, query.head_index, query.method == "rollout")
        async for path, outcome in _answers(service, paths, view, want):
            if isinstance(outcome, ImageProblem):
                yield path, outcome
            else:
                weights, pixels = cast(NDArray[np.float32], outcome.answer), outcome.image.rgb
                yield path, attention_png(weights, pixels, over=query.output != "map")


@asynccontextmanager
async def _loaded(settings: Settings) -> AsyncIterator[Service]:
    """A service without a server, its model loaded. Raises what kept the model from being loaded."""
    service = Service(settings.model_copy(update=PATIENT))
    service.start(lambda: None)
    try:
        await service.runtime.finished_loading.wait()
        if service.runtime.failure is not None:
            raise service.runtime.failure
        yield service
    finally:
        await service.stop()


async def _answers(
    service: Service, paths: Sequence[Path], view: View, want: Want
) -> AsyncIterator[tuple[Path, Answered | ImageProblem]]:
    """Keep a window of files under way, and hand them on in order."""

    async def answer(path: Path) -> Answered | ImageProblem:
        try:
            data = await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            return ImageProblem("not_an_image", error.strerror or "the file cannot be read")
        return (await service.answer(service.engine, [data], view, want, Timings()))[0]

    under_way: deque[tuple[Path, asyncio.Task[Answered | ImageProblem]]] = deque()
    try:
        for path in paths:
            under_way.append((path, asyncio.create_task(answer(path))))
            if len(under_way) == IN_FLIGHT:
                first, task = under_way.popleft()
                yield first, await task
        while under_way:
            first, task = under_way.popleft()
            yield first, await task
    finally:
        for _, task in under_way:
            task.cancel()
