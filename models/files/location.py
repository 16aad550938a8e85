"""From the name of a checkpoint to a path on this machine: a local path, or a repository on the Hugging Face hub.

A name that exists as a local path is never looked up on the hub.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.errors import CheckpointNotFound
from models.files.readable import exists

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SCHEME = "hf://"

Log = Callable[[str], None]
"""Receives a sentence about the progress of a download."""


@dataclass(frozen=True)
class Location:
    """The path of a checkpoint on this machine, and the name that the model gets."""

    path: Path
    name: str


def locate(source: str, revision: str | None, log: Log | None = None) -> Location:
    """Return the location of a local path, or of a repository on the hub after downloading its files.

    Raises CheckpointNotFound if there is neither, if the path cannot be read or is a pipe, a socket or a device, and if
    the repository cannot be downloaded and is not in the cache.
    """
    location = locate_local(source, revision)
    if location is not None:
        return location
    from models.files.hub import download  # noqa: PLC0415 - half a second of imports that a local path does not need

    repository = source.removeprefix(SCHEME)
    folder = download(repository, revision, log or (lambda _: None))
    return Location(folder, repository.rsplit("/", 1)[1])


def locate_local(source: str, revision: str | None) -> Location | None:
    """Return the location of a local path, or None for the name of a repository on the hub, without contacting the hub.

    Raises CheckpointNotFound if the source is neither.
    """
    path = Path(source).expanduser()
    if not source.startswith(SCHEME) and exists(path):
        if revision is not None:
            raise CheckpointNotFound(f"{source}: a local path has no revision {revision!r}; remove the revision")
        path = path.resolve()
        return Location(path, path.name if path.is_dir() else path.stem)
    repository = source.removeprefix(SCHEME)
    if not HUB_ID.fullmatch(repository):
        raise CheckpointNotFound(
            f"{source}: no such file or directory, and not the name of a repository on the hub (owner/name)"
        )
    return None
