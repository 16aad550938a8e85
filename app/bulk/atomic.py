"""Write files atomically: a file is complete or does not exist."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end, sync it to disk and rename it to `path`.

    An exception leaves the temporary file behind. `scratch` is a directory for it on the same filesystem; by default it
    is the directory of `path`.
    """
    unfinished = (scratch or path.parent) / f"{path.name}.unfinished"
    yield unfinished
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
