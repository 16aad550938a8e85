"""A collection as one straight line: list, load, answer, part by part to the disk, join.

What is interrupted, by whatever, goes on when it is started again: at most the part in hand is computed twice, and no
row is written twice or lost. A run with other weights, other parameters or other files does not mix with it.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from app.bulk.listing import Search
from app.bulk.parts import PART, Fault, Parts, compare
from app.bulk.tables import TABLES, Facts, Named, Row
from app.collection import answers, loaded
from app.engine import Engine, Ranking
from app.errors import ImageProblem
from app.schemas import ClassifyQuery, EmbedQuery
from app.service import Answered, Service
from app.settings import Settings

Ask = ClassifyQuery | EmbedQuery


@dataclass(frozen=True)
class Order:
    """What is to be done.

    named: files, folders and globs.
    output: the table to write, .parquet or .npy.
    overwrite: do away with another run's output or remains.
    """

    named: Sequence[str]
    output: Path
    ask: Ask
    overwrite: bool = False


@dataclass(frozen=True)
class Told:
    """What became of a run: files in all, of them done by earlier runs, faulty ones, and those that the user had named.

    passed_over: files of folders that are no images by their suffix; None where an earlier run has searched.
    """

    files: int
    before: int
    faulty: int
    named_and_faulty: int
    passed_over: int | None


class Watcher:
    """Is told how a run goes, and does nothing."""

    def begins(self, done: int, total: int) -> None:
        """The files are known; so many of them are done."""

    def ended(self, path: str, problem: ImageProblem | None, named: bool) -> None:
        """One file is through, or has a problem."""


async def export(settings: Settings, order: Order, watcher: Watcher) -> Told:
    """Write the table and, where files could not be used, the report beside it.

    Raises NotThere, NoParquet, Busy, OtherRun; and Problem and CheckpointError as the service does.
    """
    table = TABLES[order.output.suffix]()
    search = Search(order.named, settings.image_formats)
    with closing(Parts(order.output, table)) as parts:
        async with loaded(settings) as service:
            facts = _facts(service.engine, order)
            parts.claim(facts, order.overwrite)
            facts |= parts.list_files(search)
            if not parts.done and order.output.exists() and not order.overwrite:
                parts.remove()  # nothing has been done in it
                compare(table.facts(order.output) or {}, facts, order.output)
                return Told(parts.total, parts.total, 0, 0, search.passed_over)
            before = parts.done
            watcher.begins(before, parts.total)
            await _answer(service, order.ask, parts, watcher)
        faulty = named = 0
        for fault in parts.faults():
            faulty, named = faulty + 1, named + fault.named
        parts.join(facts)
        parts.remove()
    return Told(parts.total, before, faulty, named, None if before else search.passed_over)


async def _answer(service: Service, ask: Ask, parts: Parts, watcher: Watcher) -> None:
    """All that is still to be done, a part at a time."""
    names = service.engine.labels.names
    to_ask, to_note = tee(parts.files())
    rows: list[Row] = []
    faults: list[Fault] = []
    async for path, outcome in answers(service, (found.path for found in to_ask), ask):
        found = next(to_note)
        if isinstance(outcome, ImageProblem):
            faults.append(Fault(path, found.size, outcome.code, outcome.detail, found.named))
            rows.append(Row(path, found.size, None))
        else:
            rows.append(Row(path, found.size, _named(outcome, names)))
        watcher.ended(path, outcome if isinstance(outcome, ImageProblem) else None, found.named)
        if len(rows) == PART:
            await asyncio.to_thread(parts.write, rows, faults)
            rows, faults = [], []
    if rows:
        parts.write(rows, faults)


def _named(outcome: Answered, names: Sequence[str]) -> Named:
    if isinstance(outcome.answer, Ranking):
        return outcome.answer.named(names)
    return cast(NDArray[np.float32], outcome.answer)


def _facts(engine: Engine, order: Order) -> Facts:
    """What decides the answers, and of what they are."""
    task = "classify" if isinstance(order.ask, ClassifyQuery) else "embed"
    places = "\0".join(str(Path.cwd() / name) for name in order.named)
    first = order.named[0] if len(order.named) == 1 else f"{order.named[0]} and {len(order.named) - 1} more"
    return {
        "task": task,
        "query": json.dumps(order.ask.model_dump(exclude={"encoding"}, exclude_none=True), sort_keys=True),
        "model": engine.checkpoint.name,
        "fingerprint": engine.fingerprint,
        "paths": f"{Row(first, None, None).text} ({hashlib.blake2b(os.fsencode(places), digest_size=6).hexdigest()})",
    }
