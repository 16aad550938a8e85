"""The saved progress of a run, in a directory beside its output, from which a later run continues.

    vectors.parquet.parts/
      lock                    locked during a run; the system releases the lock when the process ends
      passed_over.json        how many entries of folders are not in the list, by the reason
      files.jsonl             all files, listed once: they define the rows and their order
      run.json                what determines the answers; a run with other facts is rejected
      00000000.parquet        the answers of the first part, at most PART_FILES files
      00000000.jsonl          the number of files in that part, and its failures; its existence completes the part

All files are written under a temporary name, synced to disk and renamed: each is complete or does not exist.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

from app.bulk.atomic import atomic_write
from app.bulk.entries import ListedFile
from app.bulk.listing import Search
from app.bulk.rows import Failure
from app.bulk.tables import Facts, Joined, Row, Table

if sys.platform != "win32":
    import fcntl

PART_FILES, PART_SECONDS = 1024, 30.0
"""A part is written after this many files or seconds, whichever comes first: the most work that a kill can lose."""


class OutputLocked(Exception):
    """Another process is writing the same output."""


class Unaccounted(Exception):
    """The numbers of files that were met, listed, answered and written do not add up: a fault of this program."""


class DifferentRun(Exception):
    """The output or its saved progress belongs to a run with other facts."""


class Parts:
    """The saved progress of one run.

    Args:
        output: the table to write.
        table: its format.

    Raises OutputLocked.
    """

    def __init__(self, output: Path, table: Table) -> None:
        self.folder = output.with_name(f"{output.name}.parts")
        self.folder.mkdir(exist_ok=True)
        self.output, self._table = output, table
        self._lock = (self.folder / "lock").open("w")
        if sys.platform != "win32":
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._lock.close()
                raise OutputLocked(f"another process is writing {output}") from error
        self.total = 0
        self.passed_over: dict[str, int] = {}
        """How many entries of the folders were not listed, by the reason; known once the files are listed."""
        complete = takewhile(Path.exists, (self._path(index, ".jsonl") for index in count()))
        self._lengths = [_read_length(path) for path in complete]

    def claim(self, facts: Facts, overwrite: bool) -> None:
        """Use the directory for the run with these facts.

        Raises DifferentRun if it has parts of another run, or deletes them with `overwrite`.
        """
        path = self.folder / "run.json"
        if path.exists():
            try:
                check_same_run(json.loads(path.read_text()), facts, self.folder)
            except DifferentRun:
                if self._lengths and not overwrite:
                    raise
                self._empty()
        _write_json(path, facts)

    def list_files(self, search: Search) -> Facts:
        """List the files, unless an earlier run has: a resumed run uses the same list.

        Returns the facts that identify the list: its length and a digest. Raises Unaccounted.
        """
        path, counts = self.folder / "files.jsonl", self.folder / "passed_over.json"
        listed = path.exists()
        if not listed:
            with atomic_write(path) as unfinished:
                with unfinished.open("w") as file:
                    file.writelines(_line(one) for one in search)
                _write_json(counts, search.passed_over)
        self.passed_over = json.loads(counts.read_text())
        digest = hashlib.blake2b(digest_size=12)
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                self.total += 1
        if not listed and search.met != self.total + sum(self.passed_over.values()):
            known = f"{self.total} are listed and {sum(self.passed_over.values())} passed over"
            raise Unaccounted(f"{search.met} files and entries of folders were met, but {known}; please report this")
        return {"files": f"{self.total} ({digest.hexdigest()})"}

    def files(self) -> Iterator[ListedFile]:
        """Yield the files that remain, in order."""
        with (self.folder / "files.jsonl").open() as file:
            for line in islice(file, self.done, None):
                yield ListedFile(**json.loads(line))

    @property
    def done(self) -> int:
        """Number of files whose answers are on disk."""
        return sum(self._lengths)

    def write(self, rows: Sequence[Row], failures: Sequence[Failure]) -> None:
        """Write the next part: first its answers, then its failures, whose file completes the part."""
        index = len(self._lengths)
        if any(row.answer is not None for row in rows):
            with atomic_write(self._path(index, self._table.suffix)) as path:
                self._table.write_part(path, rows)
        _write_lines(self._path(index, ".jsonl"), [_Length(len(rows)), *failures])
        self._lengths.append(len(rows))

    def failures(self) -> Iterator[Failure]:
        """Yield the files that failed, in order."""
        for index in range(len(self._lengths)):
            with self._path(index, ".jsonl").open() as file:
                for line in islice(file, 1, None):
                    yield Failure(**json.loads(line))

    def join(self, facts: Facts) -> Joined:
        """Write the failure report and then the table: once the table exists, everything is complete.

        Raises Unaccounted unless every listed file is a row of the table or a failure.
        """
        report = self.output.with_suffix(".failures.jsonl")
        _write_lines(report, self.failures())
        if not report.stat().st_size:
            report.unlink()
        parts = [(self._path(index, self._table.suffix), length) for index, length in enumerate(self._lengths)]
        if not any(path.exists() for path, _ in parts):
            self._check(0, keeps_failures=False)
            return Joined(0, None)
        if self._table.suffix == ".npy":
            with atomic_write(self.output.with_suffix(".files.jsonl"), self.folder) as path:
                shutil.copyfile(self.folder / "files.jsonl", path)
            _write_json(self.output.with_suffix(".run.json"), facts)
        with atomic_write(self.output, self.folder) as path:
            joined = self._table.join(path, parts, facts)
            self._check(joined.rows, self._table.keeps_failures)
        return joined

    def _check(self, rows: int, keeps_failures: bool) -> None:
        """Raise Unaccounted unless all listed files are answered or failed, and the table has the rows for them."""
        failed = sum(1 for _ in self.failures())
        expected = self.total if keeps_failures else self.total - failed
        if (self.done, rows) != (self.total, expected):
            known = f"{self.done} were answered, {failed} of them failed, and the table has {rows} rows"
            raise Unaccounted(f"{self.total} files are listed, but {known}; please report this")

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def remove(self) -> None:
        """Delete the directory, after the run or without one."""
        # Renamed first: a later run would continue from a directory that is half deleted.
        renamed = self.folder.with_name(f"{self.folder.name}.over")
        shutil.rmtree(renamed, ignore_errors=True)
        shutil.rmtree(self.folder.rename(renamed))
        self.close()

    def _empty(self) -> None:
        # The facts last: while they exist, no other run takes the remaining parts for its own.
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == "run.json"):
            if path.name != "lock":
                path.unlink()
        self._lengths = []

    def _path(self, index: int, suffix: str) -> Path:
        return self.folder / f"{index:08d}{suffix}"


@dataclass(frozen=True)
class _Length:
    """The first line of a part's .jsonl file."""

    files: int


def _read_length(report: Path) -> int:
    with report.open() as file:
        return _Length(**json.loads(file.readline())).files


def check_same_run(existing: Facts, current: Facts, path: Path) -> None:
    """Raise DifferentRun, which names the first difference, unless the facts are equal."""
    for name in sorted({*existing, *current}):
        if existing.get(name) != current.get(name):
            difference = f"its {name} is {existing.get(name)}, this run's is {current.get(name)}"
            raise DifferentRun(f"{path} already exists from a different run: {difference}")


def _line(file: ListedFile) -> str:
    """Return a line of the list. Only a file with a problem has one there: old lists are equal to new ones."""
    facts = asdict(file)
    if file.problem is None:
        del facts["problem"]
    return f"{json.dumps(facts)}\n"


def _write_lines(path: Path, items: Iterable[Any]) -> None:
    """Write one line of JSON per dataclass. JSON in ASCII, because a file name may not be valid UTF-8."""
    with atomic_write(path) as unfinished, unfinished.open("w") as file:
        file.writelines(f"{json.dumps(asdict(item))}\n" for item in items)


def _write_json(path: Path, facts: Mapping[str, object]) -> None:
    with atomic_write(path) as unfinished, unfinished.open("w") as file:
        json.dump(facts, file, indent=1)
