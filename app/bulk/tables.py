"""Rows -> parts of a table -> one table, as parquet or as .npy; nothing larger than a row group is held in memory.

A part is what one file of the work directory holds. parquet: the files that could be used, with path, size and either
`vector` (F float32, a list of fixed size) or `predictions` (a list of label, index, score). .npy: (files, F) float32,
in which a file that could not be used is a row of NaN.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:  # an optional extra: .npy is to be had without it
    pa = pq = None

ROW_GROUP = 16_384
"""Rows of the finished table that are read together: 64 MB of vectors of 1024 numbers."""

PREFIX = "vitrine."
"""Of the metadata's keys."""

Facts = dict[str, str]
"""What decided the answers: model, fingerprint, query; and which files were asked for."""


Value = NDArray[np.float32] | list[dict[str, Any]]
"""A vector (F,), or the best classes, each with label, index and score."""


class NoParquet(Exception):
    """pyarrow is not installed."""


@dataclass(frozen=True)
class Row:
    """A file and its answer, None where there is none."""

    path: str
    size: int | None
    answer: Value | None

    @property
    def text(self) -> str:
        """The path as UTF-8: of a name that is none, the odd bytes are written out."""
        return self.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Table(Protocol):
    """A kind of file."""

    suffix: str

    def write_part(self, path: Path, rows: Sequence[Row]) -> None:
        """Write these rows, of which at least one has an answer."""
        ...

    def join(self, path: Path, parts: Iterable[tuple[Path, int]], facts: Facts) -> int | None:
        """Write one table of parts, each (its path, its files); a part without any answer has no file.

        Returns the length of a vector, if it is a table of vectors.
        """
        ...

    def facts(self, path: Path) -> Facts | None:
        """What a finished table says of itself; None where it does not."""
        ...


class Parquet:
    """Apache Parquet, through pyarrow. Raises NoParquet."""

    suffix = ".parquet"

    def __init__(self) -> None:
        if pa is None:
            raise NoParquet("parquet needs pyarrow: pip install 'vitrine[parquet]'; .npy does not")

    def write_part(self, path: Path, rows: Sequence[Row]) -> None:
        """Only the rows that have an answer."""
        pq.write_table(arrow(rows), path, compression="zstd", use_dictionary=False)

    def join(self, path: Path, parts: Iterable[tuple[Path, int]], facts: Facts) -> int | None:
        """Row groups of equal length, and the facts in the schema's metadata."""
        writer, gathered, count = None, [], 0
        for part, _ in parts:
            if not part.exists():
                continue
            table = pq.read_table(part)
            if writer is None:
                schema = table.schema.with_metadata(metadata(facts))
                writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False)
            gathered.append(table)
            count += len(table)
            if count >= ROW_GROUP:
                writer.write_table(pa.concat_tables(gathered).cast(writer.schema), ROW_GROUP)
                gathered, count = [], 0
        if writer is None:
            return None
        if gathered:
            writer.write_table(pa.concat_tables(gathered).cast(writer.schema), ROW_GROUP)
        writer.close()
        return writer.schema.field("vector").type.list_size if "vector" in writer.schema.names else None

    def facts(self, path: Path) -> Facts | None:
        """From the schema's metadata."""
        try:
            found = pq.read_schema(path).metadata or {}
        except (OSError, pa.ArrowInvalid):
            return None
        names = [key.decode() for key in found if key.startswith(PREFIX.encode())]
        return {name.removeprefix(PREFIX): found[name.encode()].decode() for name in names} or None


class Npy:
    """What `numpy.load` reads; beside it lies what it has no place for."""

    suffix = ".npy"

    def write_part(self, path: Path, rows: Sequence[Row]) -> None:
        """A row for each file, NaN where there is no answer."""
        dim = next(len(row.answer) for row in rows if row.answer is not None)
        missing = np.full(dim, np.nan, np.float32)
        vectors = np.stack([missing if row.answer is None else np.asarray(row.answer) for row in rows])
        with path.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)

    def join(self, path: Path, parts: Iterable[tuple[Path, int]], facts: Facts) -> int | None:  # noqa: ARG002
        """One after the other behind one header, which has no place for facts."""
        listed = list(parts)
        dim = next(np.load(part, mmap_mode="r").shape[1] for part, _ in listed if part.exists())
        with path.open("wb") as file:
            shape = (sum(count for _, count in listed), dim)
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for part, count in listed:
                vectors = np.load(part) if part.exists() else np.full((count, dim), np.nan, np.float32)
                file.write(vectors.astype("<f4").tobytes())
        return int(dim)

    def facts(self, path: Path) -> Facts | None:
        """From the file beside it."""
        try:
            found: Facts = json.loads(path.with_suffix(".run.json").read_text())
        except (OSError, ValueError):
            return None
        return found


def arrow(rows: Sequence[Row]) -> Any:
    """The rows that have an answer as a pyarrow.Table."""
    good = [row for row in rows if row.answer is not None]
    columns = {
        "path": pa.array([row.text for row in good], pa.string()),
        "size": pa.array([row.size for row in good], pa.int64()),
    }
    answers = [row.answer for row in good]
    if answers and isinstance(answers[0], np.ndarray):
        vectors = np.stack(cast(list[NDArray[np.float32]], answers))
        flat = pa.array(vectors.ravel(), pa.float32())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    else:
        one = pa.struct([("label", pa.string()), ("index", pa.int32()), ("score", pa.float32())])
        columns["predictions"] = pa.array(answers, pa.list_(one))
    return pa.table(columns)


def metadata(facts: Facts) -> dict[str, str]:
    """The facts as the keys of a schema's metadata."""
    return {f"{PREFIX}{name}": value for name, value in facts.items()}


TABLES: dict[str, type[Parquet] | type[Npy]] = {kind.suffix: kind for kind in (Parquet, Npy)}
