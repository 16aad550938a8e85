"""What has been done of a run, in a directory beside its output, so that a later run goes on from there.

    vectors.parquet.parts/
      lock                    held while a run is under way; the system lets go of it when the process ends
      files.jsonl             every file, listed once: all rows and their order
      run.json                what decides the answers; another run is not mixed in
      00000000.parquet        the answers of the first files, at most PART
      00000000.jsonl          how many files those are, and what is wrong with them; when it is there, the part is whole

Everything is written under another name, brought to the disk and renamed: a file is there whole or not at all.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

from app.bulk.answers import Failure
from app.bulk.atomic import atomic_write
from app.bulk.listing import ListedFile, Search
from app.bulk.tables import Facts, Row, Table

if sys.platform != "win32":
    import fcntl

PART, PART_S = 1024, 30.0
"""Files whose answers are written together, and seconds after which fewer are: the most that a kill costs."""


class OutputLocked(Exception):
    """Another process is at this very run."""


class DifferentRun(Exception):
    """What lies there is of another run."""


class Parts:
    """The directory of one run.

    Args:
        output: the table that is to be written.
        table: its kind.

    Raises Busy.
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
        written = takewhile(Path.exists, (self._path(index, ".jsonl") for index in count()))
        self._lengths = [_length(path) for path in written]

    def claim(self, facts: Facts, overwrite: bool) -> None:
        """Take the directory for the run of these facts. Raises OtherRun for another's parts, or empties it of them."""
        path = self.folder / "run.json"
        if path.exists():
            try:
                compare(json.loads(path.read_text()), facts, self.folder)
            except DifferentRun:
                if self._lengths and not overwrite:
                    raise
                self._empty()
        _write_json(path, facts)

    def list_files(self, search: Search) -> Facts:
        """List the files once and for all, unless that was done: later runs take the same. What tells them apart."""
        path = self.folder / "files.jsonl"
        if not path.exists():
            _write_lines(path, search)
        digest = hashlib.blake2b(digest_size=12)
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                self.total += 1
        return {"files": f"{self.total} ({digest.hexdigest()})"}

    def files(self) -> Iterator[ListedFile]:
        """The files that are still to be done, in order."""
        with (self.folder / "files.jsonl").open() as file:
            for line in islice(file, self.done, None):
                yield ListedFile(**json.loads(line))

    @property
    def done(self) -> int:
        """Files whose answers are on the disk."""
        return sum(self._lengths)

    def write(self, rows: Sequence[Row], faults: Sequence[Failure]) -> None:
        """Add the next part: first its answers, then, by which it is whole, what is wrong with the rest."""
        index = len(self._lengths)
        if any(row.answer is not None for row in rows):
            with atomic_write(self._path(index, self._table.suffix)) as path:
                self._table.write_part(path, rows)
        _write_lines(self._path(index, ".jsonl"), [_Length(len(rows)), *faults])
        self._lengths.append(len(rows))

    def faults(self) -> Iterator[Failure]:
        """What was wrong with files, in their order."""
        for index in range(len(self._lengths)):
            with self._path(index, ".jsonl").open() as file:
                for line in islice(file, 1, None):
                    yield Failure(**json.loads(line))

    def join(self, facts: Facts) -> int | None:
        """Write the report and the table of all parts; when the table's name appears, all is there.

        Returns the length of a vector; None for classes, and where there is no answer to write.
        """
        report = self.output.with_suffix(".failures.jsonl")
        _write_lines(report, self.faults())
        if not report.stat().st_size:
            report.unlink()
        parts = [(self._path(index, self._table.suffix), length) for index, length in enumerate(self._lengths)]
        if not any(path.exists() for path, _ in parts):
            return None
        if self._table.suffix == ".npy":
            shutil.copyfile(self.folder / "files.jsonl", self.output.with_suffix(".files.jsonl"))
            _write_json(self.output.with_suffix(".run.json"), facts)
        with atomic_write(self.output, self.folder) as path:
            return self._table.join(path, parts, facts)

    def close(self) -> None:
        """Let another process have it."""
        self._lock.close()

    def remove(self) -> None:
        """The run is over, or not wanted."""
        # Renamed before: half a directory would be gone on with.
        gone = self.folder.with_name(f"{self.folder.name}.over")
        shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree(self.folder.rename(gone))
        self.close()

    def _empty(self) -> None:
        # The facts last: as long as they are there, nobody takes what is left for its own.
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == "run.json"):
            if path.name != "lock":
                path.unlink()
        self._lengths = []

    def _path(self, index: int, suffix: str) -> Path:
        return self.folder / f"{index:08d}{suffix}"


@dataclass(frozen=True)
class _Length:
    """The first line of a part's report."""

    files: int


def _length(report: Path) -> int:
    with report.open() as file:
        return _Length(**json.loads(file.readline())).files


def compare(theirs: Facts, ours: Facts, where: Path) -> None:
    """Raise OtherRun, naming what differs, unless nothing does."""
    for name in sorted({*theirs, *ours}):
        if theirs.get(name) != ours.get(name):
            told = f"its {name} is {theirs.get(name)}, and now {ours.get(name)}"
            raise DifferentRun(f"{where} is there already, of another run: {told}")


def _write_lines(path: Path, items: Iterable[Any]) -> None:
    """A line of JSON for each dataclass; ASCII, because a file's name need not be text."""
    with atomic_write(path) as unfinished, unfinished.open("w") as file:
        file.writelines(f"{json.dumps(asdict(item))}\n" for item in items)


def _write_json(path: Path, facts: Facts) -> None:
    with atomic_write(path) as unfinished, unfinished.open("w") as file:
        json.dump(facts, file, indent=1)
