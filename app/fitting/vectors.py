"""The vectors of pictures: embedded now, in a table from which a later run continues, or read from a table."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from app.bulk.entries import as_text
from app.bulk.run import Export, Progress, Summary, export
from app.bulk.tables import TABLES, Facts, NoParquet
from app.schemas import EmbedQuery
from app.service import Resolution, Service

try:
    import pyarrow.parquet as pq
except ImportError:  # an optional extra; .npy works without it
    pq = None


class BadVectors(Exception):
    """A table of vectors cannot be used; the message says why."""


@dataclass(frozen=True)
class Vectors:
    """Vectors of files.

    paths: of the files, as the table has them.
    vectors: (n, D) float32.
    pool, resolution: what was embedded.
    """

    paths: tuple[str, ...]
    vectors: NDArray[np.float32]
    pool: str | None
    resolution: Resolution


@dataclass(frozen=True)
class Failed:
    """A file without a vector, and why."""

    path: str
    detail: str


@dataclass(frozen=True)
class Embedded:
    """What a run has embedded: the vectors, the files that failed, and what the folders had beside pictures."""

    vectors: Vectors
    failed: tuple[Failed, ...]
    summary: Summary


async def embed(service: Service, job: Export, progress: Progress) -> Embedded:
    """Embed files as `vitrine embed` does, into a table (.npy) from which an interrupted run continues.

    Raises what `export` raises, and BadVectors if no file has a vector.
    """
    return _read(job, await export(service.settings, job, progress, service))


def _read(job: Export, summary: Summary) -> Embedded:
    """Return what is in a table that was just written."""
    table, query = job.output, cast(EmbedQuery, job.query)
    if not table.exists():
        found = f"none of {summary.files} files is a picture that can be used" if summary.files else "has no pictures"
        raise BadVectors(f"{', '.join(job.paths[:3])}: {found}")
    report = table.with_suffix(".failures.jsonl")
    failed = tuple(Failed(row["path"], row["detail"]) for row in _lines(report)) if report.exists() else ()
    listed = [row["path"] for row in _lines(table.with_suffix(".files.jsonl"))]
    rows: NDArray[np.float32] = np.load(table)
    return Embedded(_finite(listed, rows, query), failed, summary)


def _finite(paths: Sequence[str], rows: NDArray[np.float32], query: EmbedQuery) -> Vectors:
    """Return the rows that are vectors; those of files that failed are NaN."""
    good = np.flatnonzero(np.isfinite(rows).all(1))
    kept = tuple(paths[place] for place in good.tolist())
    return Vectors(kept, rows[good], query.pool, Resolution(*query.resolution))


def remove(table: Path) -> None:
    """Delete a table of `embed`, and the files beside it."""
    for suffix in (".files.jsonl", ".run.json", ".failures.jsonl"):
        table.with_suffix(suffix).unlink(missing_ok=True)
    table.unlink(missing_ok=True)


def read_vectors(table: Path, service: Service) -> Vectors:
    """Return the vectors of a table that `vitrine embed` wrote, if they are this service's. Raises BadVectors."""
    if table.suffix not in TABLES:
        raise BadVectors(f"{table}: the suffix must be {' or '.join(TABLES)}")
    if not table.is_file():
        raise BadVectors(f"{table}: no such file")
    facts = _facts(table)
    engine = service.engine
    if facts.get("task") != "embed":
        raise BadVectors(f"{table}: has classes and no vectors")
    if facts.get("fingerprint") != engine.fingerprint:
        theirs = f"{facts.get('model')} ({facts.get('fingerprint')})"
        here = f"{engine.checkpoint.name} ({engine.fingerprint})"
        detail = f"its vectors are of {theirs}, and this model is {here}: other weights, preprocessing or dtype"
        raise BadVectors(f"{table}: {detail}; embed the files again, or name their model")
    query = EmbedQuery.model_validate(json.loads(facts["query"]))
    return _finite(*_rows(table), query)


def _facts(table: Path) -> Facts:
    facts = TABLES[table.suffix]().facts(table)
    if not facts or "query" not in facts:
        raise BadVectors(f"{table}: does not say which model its vectors are of; only tables of `vitrine embed` do")
    return facts


def _rows(table: Path) -> tuple[list[str], NDArray[np.float32]]:
    if table.suffix == ".npy":
        return [as_text(row["path"]) for row in _lines(table.with_suffix(".files.jsonl"))], np.load(table)
    if pq is None:
        raise NoParquet("parquet needs pyarrow: pip install 'vitrine[parquet]'")
    content = pq.read_table(table, columns=["path", "vector"])
    column = content["vector"].combine_chunks()
    rows = column.flatten().to_numpy().reshape(len(content), -1)
    return content["path"].to_pylist(), rows


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    with path.open() as file:
        return [json.loads(line) for line in file]
