"""Where a checkpoint lies: a path on this machine, or a repository of the hub, which no path that exists ever asks."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.errors import CheckpointNotFound
from models.files.readable import is_there

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SCHEME = "hf://"

Report = Callable[[str], None]


@dataclass(frozen=True)
class Location:
    """Where a checkpoint lies on this machine, and what it is called."""

    path: Path
    name: str


def find(source: str, revision: str | None, report: Report | None = None) -> Location:
    """A path as it is, or a repository of the hub after its files were fetched.

    Raises CheckpointNotFound where there is neither, where the path may not be read or is a pipe, a socket or a device,
    or where the hub cannot be asked.
    """
    place = locate_here(source, revision)
    if place is not None:
        return place
    from models.files.hub import fetch  # noqa: PLC0415 - half a second of imports that no path has to wait for

    repository = source.removeprefix(SCHEME)
    folder = fetch(repository, revision, report or (lambda _: None))
    return Location(folder, repository.rsplit("/", 1)[1])


def locate_here(source: str, revision: str | None) -> Location | None:
    """A path of this machine, or None for the name of a repository of the hub, which is not asked.

    Raises CheckpointNotFound where the source is neither.
    """
    path = Path(source).expanduser()
    if not source.startswith(SCHEME) and is_there(path):
        if revision is not None:
            raise CheckpointNotFound(f"{source} lies on this machine: it has no revision {revision!r}")
        path = path.resolve()
        return Location(path, path.name if path.is_dir() else path.stem)
    repository = source.removeprefix(SCHEME)
    if not HUB_ID.fullmatch(repository):
        raise CheckpointNotFound(
            f"{source}: there is no such directory or file, and it is not a name on the hub (owner/name)"
        )
    return None
