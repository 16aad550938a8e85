"""Listed files -> rows, and what is wrong with those that have no answer; the same on one machine and on a cluster."""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import cast

import numpy as np
from numpy.typing import NDArray

from app.bulk.collection import Read, answers, read_file
from app.bulk.listing import ListedFile
from app.bulk.tables import Facts, Row, Value
from app.errors import ImageProblem
from app.inference.jobs import Ranking
from app.schemas import ClassifyQuery, EmbedQuery
from app.service.outcome import ImageAnswer
from app.service.service import Service

BulkQuery = ClassifyQuery | EmbedQuery


@dataclass(frozen=True)
class Failure:
    """A file that could not be used, and why."""

    path: str
    size: int | None
    code: str
    detail: str
    named: bool


async def answered(
    service: Service, files: Iterable[ListedFile], ask: BulkQuery, read: Read = read_file
) -> AsyncIterator[tuple[Row, Failure | None]]:
    """Each file's row, in order. Raises Problem where it concerns all of them."""
    names = service.engine.labels.names
    to_ask, to_note = tee(files)
    async for path, outcome in answers(service, (found.path for found in to_ask), ask, read):
        found = next(to_note)
        if isinstance(outcome, ImageProblem):
            yield Row(path, found.size, None), Failure(path, found.size, outcome.code, outcome.detail, found.named)
        else:
            yield Row(path, found.size, _named(outcome, names)), None


def _named(outcome: ImageAnswer, names: Sequence[str]) -> Value:
    if isinstance(outcome.answer, Ranking):
        return outcome.answer.named(names)
    return cast(NDArray[np.float32], outcome.answer)


def facts(service: Service, ask: BulkQuery) -> Facts:
    """What decides the answers."""
    engine = service.engine
    return {
        "decode": service.settings.decode,
        "task": "classify" if isinstance(ask, ClassifyQuery) else "embed",
        "query": json.dumps(ask.model_dump(exclude={"encoding"}, exclude_none=True), sort_keys=True),
        "model": engine.checkpoint.name,
        "fingerprint": engine.fingerprint,
    }
