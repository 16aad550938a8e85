"""Which class each picture has: by its folder, or by a table with the columns path and label."""

import csv
from collections.abc import Iterable
from pathlib import Path

from app.bulk.entries import as_text
from app.bulk.listing import SUFFIXES
from app.bulk.tables import NoParquet

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:  # an optional extra; tables in CSV work without it
    pa = pq = None

COLUMNS = ("path", "label")


class BadLabels(Exception):
    """The labels cannot be used; the message names the file and the line."""


def class_of(folder: Path, path: str) -> str:
    """Return the class of a picture: the name of the folder directly below `folder` that it lies in."""
    return as_text(Path(path).relative_to(folder).parts[0])


def check_folder(folder: Path) -> None:
    """Raise BadLabels for a folder without a folder for each class, or with a picture that lies in none of them."""
    entries = sorted(folder.iterdir())
    if not any(entry.is_dir() and not entry.name.startswith(".") for entry in entries):
        raise BadLabels(f"{folder}: has no folder for each class; name the classes by folders, or by --labels")
    suffixes = tuple(suffix for names in SUFFIXES.values() for suffix in names)
    loose = [entry.name for entry in entries if entry.is_file() and entry.name.lower().endswith(suffixes)]
    if loose:
        raise BadLabels(f"{folder}: the picture {as_text(loose[0])!r} lies in no class's folder, so it has no class")


def read_labels(table: Path) -> dict[str, str]:
    """Return the label of each path in a table, .csv or .parquet, in the order of the table. Raises BadLabels."""
    if table.suffix == ".csv":
        rows = _csv_rows(table)
    elif table.suffix == ".parquet":
        rows = _parquet_rows(table)
    else:
        raise BadLabels(f"{table}: the suffix must be .csv or .parquet")
    found: dict[str, str] = {}
    for where, path, label in rows:
        if not path or not label:
            raise BadLabels(f"{table}: {where} has no {'path' if not path else 'label'}")
        if path in found:
            raise BadLabels(f"{table}: {where} has the path {path!r}, which an earlier one has too")
        found[path] = label
    if not found:
        raise BadLabels(f"{table}: has no rows")
    return found


def beside(table: Path, path: str) -> str:
    """Return a path of a table: a relative one is relative to the table's folder."""
    return str(table.parent / path)


def _csv_rows(table: Path) -> Iterable[tuple[str, str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_columns(table, reader.fieldnames or ())
            for row in reader:
                yield f"line {reader.line_num}", (row["path"] or "").strip(), (row["label"] or "").strip()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadLabels(f"{table}: not readable as CSV in UTF-8 ({error})") from error


def _parquet_rows(table: Path) -> Iterable[tuple[str, str, str]]:
    if pq is None:
        raise NoParquet("parquet needs pyarrow: pip install 'vitrine[parquet]'; a table in CSV does not")
    try:
        _check_columns(table, pq.read_schema(table).names)
        columns = [pq.read_table(table, columns=[name])[name].to_pylist() for name in COLUMNS]
    except (OSError, pa.ArrowInvalid) as error:
        raise BadLabels(f"{table}: not readable as parquet ({error})") from error
    for number, (path, label) in enumerate(zip(*columns, strict=True)):
        yield f"row {number}", "" if path is None else str(path), "" if label is None else str(label)


def _check_columns(table: Path, names: Iterable[str]) -> None:
    if missing := [name for name in COLUMNS if name not in set(names)]:
        raise BadLabels(f"{table}: has no column {missing[0]!r}; it needs the columns path and label")
