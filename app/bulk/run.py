"""Embed or classify a collection: list the files, load the model, answer, write part by part, join the parts.

An interrupted run continues when it is started again: at most one part is computed twice, and no row is written twice
or lost. A run with other weights, parameters or files does not mix with it.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from app.bulk.collection import running_service
from app.bulk.entries import as_text
from app.bulk.listing import Search
from app.bulk.parts import PART_FILES, PART_SECONDS, Parts, check_same_run
from app.bulk.rows import BulkQuery, Failure, answer_rows, run_facts
from app.bulk.tables import TABLES, Row
from app.service import Service
from app.settings import Settings


@dataclass(frozen=True)
class Export:
    """What to write.

    paths: files, folders and globs, as the user named them.
    output: the table to write, .parquet or .npy.
    overwrite: replace the output of a different run, and parts that such a run left behind.
    """

    paths: Sequence[str]
    output: Path
    query: BulkQuery
    overwrite: bool = False


@dataclass(frozen=True)
class Summary:
    """The result of a run.

    files: number of files.
    resumed: how many of them earlier runs had already answered.
    failed: how many of them have no answer.
    named_failures: how many of the failed files the user named themselves, instead of a folder or glob.
    passed_over: how many entries of the folders are not among the files, by the reason.
    dim: length of a vector; None for classes, and if no file has an answer.
    """

    files: int
    resumed: int
    failed: int
    named_failures: int
    passed_over: Mapping[str, int]
    dim: int | None = None


class Interrupted(Exception):
    """The user pressed Ctrl-C. All answers so far are on disk."""

    def __init__(self, done: int, total: int) -> None:
        super().__init__(f"interrupted: {done} of {total} files are saved; run the same command again to continue")


class Progress:
    """Receives the progress of a run. This one ignores it."""

    def start(self, done: int, total: int) -> None:
        """The files are listed; earlier runs have answered `done` of them."""

    def advance(self, path: str, failure: Failure | None) -> None:
        """One file was answered or failed."""


async def export(settings: Settings, job: Export, progress: Progress, running: Service | None = None) -> Summary:
    """Write the table and, if files failed, the failure report beside it.

    `running` is a service that answers in the place of one that is started for this run.

    Raises PathNotFound, NoParquet, OutputLocked, DifferentRun, Interrupted, CannotWrite, Unaccounted; and Problem and
    CheckpointError as the service does.
    """
    table = TABLES[job.output.suffix]()
    search = Search(job.paths, settings.image_formats)
    with closing(Parts(job.output, table)) as parts:
        async with running_service(settings) if running is None else nullcontext(running) as service:
            facts = run_facts(service, job.query) | {"paths": _digest_paths(job.paths)}
            parts.claim(facts, job.overwrite)
            facts |= parts.list_files(search)
            if not parts.done and job.output.exists() and not job.overwrite:
                parts.remove()  # this run has answered nothing yet
                check_same_run(table.facts(job.output) or {}, facts, job.output)
                return Summary(parts.total, parts.total, 0, 0, parts.passed_over)
            resumed = parts.done
            progress.start(resumed, parts.total)
            await _answer(service, job.query, parts, progress)
        failed = named = 0
        for failure in parts.failures():
            failed, named = failed + 1, named + failure.named
        dim = parts.join(facts).dim
        parts.remove()
    return Summary(parts.total, resumed, failed, named, parts.passed_over, dim)


async def _answer(service: Service, query: BulkQuery, parts: Parts, progress: Progress) -> None:
    """Answer the remaining files. Write a part when it is full or has been open for PART_SECONDS.

    Raises Interrupted on Ctrl-C, after all answers so far were written to disk.
    """
    rows: list[Row] = []
    failures: list[Failure] = []
    opened = time.monotonic()
    try:
        async for row, failure in answer_rows(service, parts.files(), query):
            rows.append(row)
            if failure is not None:
                failures.append(failure)
            progress.advance(row.path, failure)
            if len(rows) == PART_FILES or time.monotonic() - opened > PART_SECONDS:
                await _write(parts, rows, failures)
                opened = time.monotonic()
    except asyncio.CancelledError:
        if rows:
            parts.write(rows, failures)
        raise Interrupted(parts.done, parts.total) from None
    if rows:
        parts.write(rows, failures)


async def _write(parts: Parts, rows: list[Row], failures: list[Failure]) -> None:
    """Write a part on a thread, then empty both lists. If cancelled, still wait until the thread has written it."""
    writing = asyncio.create_task(asyncio.to_thread(parts.write, rows, failures))
    try:
        await asyncio.shield(writing)
    finally:
        await writing
        rows.clear()
        failures.clear()


def _digest_paths(paths: Sequence[str]) -> str:
    """Return the paths in short form for a message, with a digest of their absolute forms that identifies them."""
    first = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    absolute = "\0".join(str(Path.cwd() / path) for path in paths)
    return f"{as_text(first)} ({hashlib.blake2b(os.fsencode(absolute), digest_size=6).hexdigest()})"
