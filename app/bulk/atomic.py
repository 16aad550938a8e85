"""Write files atomically: a file is complete or does not exist."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class CannotWrite(Exception):
    """A file of the output could not be written, for example because the disk is full."""


@contextmanager
def atomic_write(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end, sync it to disk and rename it to `path`.

    Any exception but an OSError leaves the temporary file behind. `scratch` is a directory for it on the same
    filesystem; by default it is the directory of `path`. Raises CannotWrite, with the path and the reason.
    """
    unfinished = (scratch or path.parent) / f"{path.name}.unfinished"
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CannotWrite(f"cannot write {path}: {reason}") from error
