"""Write rows to parts and join the parts into one table, as parquet or .npy. Memory holds at most one row group.

parquet has the files with an answer: path, size, and either `vector` (dim float32, a list of fixed size) or
`predictions` (a list of label, index, score). .npy is an array (files, dim) of float32, in which a file without an
answer is a row of NaN.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from app.bulk.entries import as_text

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:  # an optional extra; .npy works without it
    pa = pq = None

ROW_GROUP = 16_384
"""Rows per row group of the finished table: 64 MB for vectors of 1024 numbers."""

PREFIX = "vitrine."
"""Prefix of the metadata's keys."""

Facts = dict[str, str]
"""What determines the answers of a run (model, fingerprint, query, ...), and which files it has."""


Value = NDArray[np.float32] | list[dict[str, Any]]
"""A vector (dim,), or the best classes, each with label, index and score."""


class NoParquet(Exception):
    """pyarrow is not installed."""


@dataclass(frozen=True)
class Row:
    """A file and its answer; None if it failed."""

    path: str
    size: int | None
    answer: Value | None

    @property
    def text(self) -> str:
        """The path as valid UTF-8; bytes that are not are escaped with a backslash."""
        return as_text(self.path)


class Joined(NamedTuple):
    """A finished table: its number of rows, and the length of a vector; None for classes."""

    rows: int
    dim: int | None


class Table(Protocol):
    """A file format for tables.

    keeps_failures: whether a file without an answer has a row too.
    """

    suffix: str
    keeps_failures: bool

    def write_part(self, path: Path, rows: Sequence[Row]) -> None:
        """Write one part. At least one row must have an answer."""
        ...

    def join(self, path: Path, parts: Iterable[tuple[Path, int]], facts: Facts) -> Joined:
        """Join the parts, of which at least one exists, into one table.

        Each part is (path, number of files). The path does not exist if no file of the part has an answer.
        """
        ...

    def facts(self, path: Path) -> Facts | None:
        """Return the facts of the run that wrote a table; None if it has none."""
        ...


class Parquet:
    """Apache Parquet, through pyarrow. Raises NoParquet."""

    suffix = ".parquet"
    keeps_failures = False

    def __init__(self) -> None:
        if pa is None:
            raise NoParquet("parquet needs pyarrow: pip install 'vitrine[parquet]'; .npy does not")

    def write_part(self, path: Path, rows: Sequence[Row]) -> None:
        """Write only the rows with an answer."""
        pq.write_table(arrow(rows), path, compression="zstd", use_dictionary=False)

    def join(self, path: Path, parts: Iterable[tuple[Path, int]], facts: Facts) -> Joined:
        """Write row groups of equal length, and the facts as metadata of the schema."""
        writer, tables, count, rows = None, [], 0, 0
        for part, _ in parts:
            if not part.exists():
                continue
            table = pq.read_table(part)
            if writer is None:
                schema = table.schema.with_metadata(metadata(facts))
                writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False)
            tables.append(table)
            count, rows = count + len(table), rows + len(table)
            if count >= ROW_GROUP:
                writer.write_table(pa.concat_tables(tables).cast(writer.schema), ROW_GROUP)
                tables, count = [], 0
        if writer is None:
            return Joined(0, None)
        if tables:
            writer.write_table(pa.concat_tables(tables).cast(writer.schema), ROW_GROUP)
        writer.close()
        has_vectors = "vector" in writer.schema.names
        return Joined(rows, writer.schema.field("vector").type.list_size if has_vectors else None)

    def facts(self, path: Path) -> Facts | None:
        """Read the facts from the schema's metadata."""
        try:
            stored = pq.read_schema(path).metadata or {}
        except (OSError, pa.ArrowInvalid):
            return None
        names = [key.decode() for key in stored if key.startswith(PREFIX.encode())]
        return {name.removeprefix(PREFIX): stored[name.encode()].decode() for name in names} or None


class Npy:
    """A NumPy array, for `numpy.load`. File names and facts go into files beside it."""

    suffix = ".npy"
    keeps_failures = True

    def write_part(self, path: Path, rows: Sequence[Row]) -> None:
        """Write one row per file, NaN for a file without an answer."""
        dim = next(len(row.answer) for row in rows if row.answer is not None)
        missing = np.full(dim, np.nan, np.float32)
        vectors = np.stack([missing if row.answer is None else np.asarray(row.answer) for row in rows])
        with path.open("wb") as file:
            _write_header(file, vectors.shape)
            file.write(vectors.astype("<f4").tobytes())  # numpy's own writing does not say that a disk is full

    def join(self, path: Path, parts: Iterable[tuple[Path, int]], facts: Facts) -> Joined:  # noqa: ARG002
        """Append the parts to one header. The format has no place for facts."""
        listed = list(parts)
        dim = next(np.load(part, mmap_mode="r").shape[1] for part, _ in listed if part.exists())
        with path.open("wb") as file:
            _write_header(file, (sum(count for _, count in listed), dim))
            rows = 0
            for part, count in listed:
                vectors = np.load(part) if part.exists() else np.full((count, dim), np.nan, np.float32)
                file.write(vectors.astype("<f4").tobytes())
                rows += len(vectors)
        return Joined(rows, int(dim))

    def facts(self, path: Path) -> Facts | None:
        """Read the facts from the .run.json file beside the array."""
        try:
            stored: Facts = json.loads(path.with_suffix(".run.json").read_text())
        except (OSError, ValueError):
            return None
        return stored


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def arrow(rows: Sequence[Row]) -> Any:
    """Return the rows with an answer as a pyarrow.Table."""
    answered = [row for row in rows if row.answer is not None]
    columns = {
        "path": pa.array([row.text for row in answered], pa.string()),
        "size": pa.array([row.size for row in answered], pa.int64()),
    }
    answers = [row.answer for row in answered]
    if answers and isinstance(answers[0], np.ndarray):
        vectors = np.stack(cast(list[NDArray[np.float32]], answers))
        flat = pa.array(vectors.ravel(), pa.float32())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    else:
        prediction = pa.struct([("label", pa.string()), ("index", pa.int32()), ("score", pa.float32())])
        columns["predictions"] = pa.array(answers, pa.list_(prediction))
    return pa.table(columns)


def metadata(facts: Facts) -> dict[str, str]:
    """Return the facts with the prefix of the metadata's keys."""
    return {f"{PREFIX}{name}": value for name, value in facts.items()}


TABLES: dict[str, type[Parquet] | type[Npy]] = {table.suffix: table for table in (Parquet, Npy)}
