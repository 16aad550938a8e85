"""A collection as one straight line: list, load, answer, part by part to the disk, join.

What is interrupted, by whatever, goes on when it is started again: at most the part in hand is computed twice, and no
row is written twice or lost. A run with other weights, other parameters or other files does not mix with it.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from app.bulk.answers import BulkQuery, Failure, answered, facts
from app.bulk.collection import loaded
from app.bulk.listing import Search
from app.bulk.parts import PART, PART_S, Parts, compare
from app.bulk.tables import TABLES, Row
from app.service.service import Service
from app.settings import Settings


@dataclass(frozen=True)
class Export:
    """What is to be done.

    named: files, folders and globs.
    output: the table to write, .parquet or .npy.
    overwrite: replace the output of another run, and the parts that one has left.
    """

    named: Sequence[str]
    output: Path
    ask: BulkQuery
    overwrite: bool = False


@dataclass(frozen=True)
class Summary:
    """What became of a run.

    files: in all.
    before: of them, answered by earlier runs.
    faulty: of them, without an answer; named_and_faulty: those that the user had named.
    skipped: other files of the folders, which have no image's suffix; None where an earlier run has searched.
    width: numbers in a vector; None for classes, and where no file could be used.
    """

    files: int
    before: int
    faulty: int
    named_failures: int
    skipped: int | None
    width: int | None = None


class Interrupted(Exception):
    """Ctrl-C: so many files of how many are answered, and on the disk."""

    def __init__(self, done: int, total: int) -> None:
        super().__init__(f"interrupted: {done} of {total} files are saved; the same command continues with the rest")


class Progress:
    """Is told how a run goes, and does nothing."""

    def begins(self, done: int, total: int) -> None:
        """The files are known; so many of them are done."""

    def ended(self, path: str, fault: Failure | None) -> None:
        """One file is through, or cannot be used."""


async def export(settings: Settings, order: Export, watcher: Progress) -> Summary:
    """Write the table and, where files could not be used, the report beside it.

    Raises NotThere, NoParquet, Busy, OtherRun, Interrupted; and Problem and CheckpointError as the service does.
    """
    table = TABLES[order.output.suffix]()
    search = Search(order.named, settings.image_formats)
    with closing(Parts(order.output, table)) as parts:
        async with loaded(settings) as service:
            told = facts(service, order.ask) | {"paths": _places(order.named)}
            parts.claim(told, order.overwrite)
            told |= parts.list_files(search)
            if not parts.done and order.output.exists() and not order.overwrite:
                parts.remove()  # nothing has been done in it
                compare(table.facts(order.output) or {}, told, order.output)
                return Summary(parts.total, parts.total, 0, 0, search.skipped)
            before = parts.done
            watcher.begins(before, parts.total)
            await _answer(service, order.ask, parts, watcher)
        faulty = named = 0
        for fault in parts.faults():
            faulty, named = faulty + 1, named + fault.named
        width = parts.join(told)
        parts.remove()
    return Summary(parts.total, before, faulty, named, None if before else search.skipped, width)


async def _answer(service: Service, ask: BulkQuery, parts: Parts, watcher: Progress) -> None:
    """Answer all files that are still to be done, and write a part when it is full or has been open for long.

    Raises Interrupted on Ctrl-C, when all that was answered is on the disk.
    """
    rows: list[Row] = []
    faults: list[Failure] = []
    opened = time.monotonic()
    try:
        async for row, fault in answered(service, parts.files(), ask):
            rows.append(row)
            if fault is not None:
                faults.append(fault)
            watcher.ended(row.path, fault)
            if len(rows) == PART or time.monotonic() - opened > PART_S:
                await _write(parts, rows, faults)
                opened = time.monotonic()
    except asyncio.CancelledError:
        if rows:
            parts.write(rows, faults)
        raise Interrupted(parts.done, parts.total) from None
    if rows:
        parts.write(rows, faults)


async def _write(parts: Parts, rows: list[Row], faults: list[Failure]) -> None:
    """Write a part on a thread and empty both lists; a cancelled wait ends when the thread has written."""
    writing = asyncio.create_task(asyncio.to_thread(parts.write, rows, faults))
    try:
        await asyncio.shield(writing)
    finally:
        await writing
        rows.clear()
        faults.clear()


def _places(named: Sequence[str]) -> str:
    """What was named, as far as a line has room, and what tells it from all else."""
    first = named[0] if len(named) == 1 else f"{named[0]} and {len(named) - 1} more"
    places = "\0".join(str(Path.cwd() / name) for name in named)
    return f"{Row(first, None, None).text} ({hashlib.blake2b(os.fsencode(places), digest_size=6).hexdigest()})"
