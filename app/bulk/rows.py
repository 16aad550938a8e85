"""Turn listed files into rows of a table, and into failures; used on one machine and on a Ray cluster."""

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from app.bulk.collection import ReadFile, answer_files, classes_of
from app.bulk.entries import ListedFile, read_file
from app.bulk.tables import Facts, Row, Value
from app.errors import ImageProblem
from app.schemas import ClassifyQuery, EmbedQuery
from app.service import Classes, ImageAnswer, Service

BulkQuery = ClassifyQuery | EmbedQuery


@dataclass(frozen=True)
class Failure:
    """A file without an answer: one line of the failure report.

    size: in bytes; None if the file could not be read.
    code, detail: as in the problem documents of the HTTP API.
    named: whether the user named this file itself.
    """

    path: str
    size: int | None
    code: str
    detail: str
    named: bool


async def answer_rows(
    service: Service, files: Iterable[ListedFile], query: BulkQuery, read: ReadFile = read_file
) -> AsyncIterator[tuple[Row, Failure | None]]:
    """Yield the row of each file, in order, and its failure if it has one. Raises Problem for an error of all files."""
    classes = classes_of(service, query) if isinstance(query, ClassifyQuery) else None
    async for file, outcome in answer_files(service, files, query, read):
        if isinstance(outcome, ImageProblem):
            failure = Failure(file.path, file.size, outcome.code, outcome.detail, file.named)
            yield Row(file.path, file.size, None), failure
        else:
            yield Row(file.path, file.size, _value(outcome, classes)), None


def _value(outcome: ImageAnswer, classes: Classes | None) -> Value:
    if classes is not None:
        return classes.named(outcome.answer)
    return cast(NDArray[np.float32], outcome.answer)


def run_facts(service: Service, query: BulkQuery) -> Facts:
    """Return what determines the answers of a run: runs with different facts must not share an output."""
    engine = service.engine
    head = {} if service.heads.served is None else {"head": service.heads.served.version}
    return head | {
        "decode": service.settings.decode,
        "task": "classify" if isinstance(query, ClassifyQuery) else "embed",
        "query": json.dumps(query.model_dump(exclude={"encoding", "explain"}, exclude_none=True), sort_keys=True),
        "model": engine.checkpoint.name,
        "fingerprint": engine.fingerprint,
    }
