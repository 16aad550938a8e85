"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Where to write what is to be `path`: brought to the disk and renamed at the end, left behind by an error.

    `scratch` is a directory of the same filesystem for it; the file's own unless one is given.
    """
    unfinished = (scratch or path.parent) / f"{path.name}.unfinished"
    yield unfinished
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
