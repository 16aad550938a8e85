"""Expand globs like the standard library's `glob`, but do not follow symbolic links below `**`.

A link to a parent would otherwise be followed until the system ends it after 40 rounds, and two of them 2^40 times.
"""

import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from app.bulk.entries import FOLDER, entry_kind

ANY_DEPTH, SEPARATOR = "**", os.sep

OnFailure = Callable[[str, OSError], None]
"""(folder, why it cannot be read)"""


def expand(pattern: str, on_failure: OnFailure = lambda *_: None) -> Iterator[str]:
    """Yield what a glob matches, in no certain order, and the same path more than once where several `**` meet in it.

    `**` as a part of its own stands for any number of folders that are neither hidden nor links; at the end of the
    pattern, for everything in them.
    """
    head, found, tail = _divided(pattern)
    if not found:
        yield from glob.iglob(pattern)  # noqa: PTH207 - Path.glob needs a folder
        return
    for start in expand(head or SEPARATOR, on_failure) if head is not None else [""]:
        for folder in _folders(start, on_failure):
            yield from expand(f"{glob.escape(folder)}{SEPARATOR}{tail}" if folder else tail, on_failure)


def _divided(pattern: str) -> tuple[str | None, bool, str]:
    """Divide a pattern at its first `**`: what comes before, if anything does; whether there is one; what follows."""
    parts = pattern.split(SEPARATOR)
    if ANY_DEPTH not in parts:
        return None, False, ""
    at = parts.index(ANY_DEPTH)
    head, tail = parts[:at], parts[at + 1 :]
    while tail[:1] == [ANY_DEPTH]:  # two in a row stand for the same as one
        tail = tail[1:]
    return SEPARATOR.join(head) if head else None, True, SEPARATOR.join(tail or ["*"])


def _folders(start: str, on_failure: OnFailure) -> Iterator[str]:
    """Yield a folder and all below it; nothing if it is not a folder. The empty string is the current folder."""
    if not Path(start).is_dir():
        return
    waiting = [start.rstrip(SEPARATOR) or start]
    while waiting:
        folder = waiting.pop()
        yield folder
        prefix = f"{folder.rstrip(SEPARATOR)}{SEPARATOR}" if folder else ""
        try:
            with os.scandir(folder or ".") as entries:
                waiting += [
                    f"{prefix}{entry.name}"
                    for entry in entries
                    if not entry.name.startswith(".") and entry_kind(entry) == FOLDER
                ]
        except OSError as error:
            on_failure(folder, error)
