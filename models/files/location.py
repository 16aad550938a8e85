"""From the name of a checkpoint to a path on this machine: a local path, or a repository on the Hugging Face hub.

A name that exists as a local path is never looked up on the hub. Other ways to write a name are read where they say the
same: `file://`, timm's and open_clip's `hf-hub:`, and the address of a repository's page.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit

from models.errors import CheckpointNotFound
from models.files.readable import exists

PREFERRED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""Files of weights in a directory, in order of preference: safetensors, which cannot contain code, before pickles."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_SCHEMES = ("hf://", "hf-hub:", "hf_hub:")
PAGE = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?:models/)?(.*?)/?")
"""The address of a page on the hub."""

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

    repository = _repository(source)
    folder = download(repository, revision, log or (lambda _: None))
    return Location(folder, repository.rsplit("/", 1)[1])


def locate_local(source: str, revision: str | None) -> Location | None:
    """Return the location of a local path, or None for the name of a repository on the hub, without contacting the hub.

    Raises CheckpointNotFound if the source is neither.
    """
    if not source.strip():
        raise CheckpointNotFound("the model is empty; give a directory, a file, or owner/name on the hub")
    path = local_path(source)
    if path is not None and exists(path):
        if revision is not None:
            raise CheckpointNotFound(f"{source}: a local path has no revision {revision!r}; remove the revision")
        return _location(path)
    if source.startswith("file:") or not names_repository(source):
        _raise_unknown(source)
    return None


def _location(path: Path) -> Location:
    """Return the location of an existing path. A file of a usual name gets that of its directory."""
    if path.is_dir():
        return Location(path.resolve(), path.resolve().name)
    # Not the target of a link: the configs are beside the link, and the target may have a name without a suffix.
    path = path.parent.resolve() / path.name
    return Location(path, path.parent.name if path.name in PREFERRED else path.stem)


def local_path(source: str) -> Path | None:
    """Return the path that a source can be, or None for the name of a repository that says so itself."""
    if source.startswith("file:"):
        parts = urlsplit(source)
        return Path(unquote(parts.path)) if parts.netloc in ("", "localhost") else None
    return None if source.startswith(HUB_SCHEMES) else Path(source).expanduser()


def names_repository(source: str) -> bool:
    """Return whether a source can be the name of a repository on the hub."""
    return HUB_ID.fullmatch(_repository(source)) is not None


def _repository(source: str) -> str:
    """Return the name of the repository that a source can be."""
    for scheme in HUB_SCHEMES:
        source = source.removeprefix(scheme)
    page = PAGE.fullmatch(source)
    return page[1] if page else source


def _raise_unknown(source: str) -> NoReturn:
    """Raise CheckpointNotFound with what to type instead."""
    repository, _, rest = _repository(source).partition("@")
    parts = repository.split("/")
    name = "/".join(parts[:2])
    hub = source.startswith(HUB_SCHEMES) or PAGE.fullmatch(source) is not None
    if hub and HUB_ID.fullmatch(name) and (rest or len(parts) > 3):
        revision = rest or parts[3]
        raise CheckpointNotFound(f"{source}: give the repository, {name}, and set revision to {revision}")
    if hub:
        raise CheckpointNotFound(f"{source}: not the name of a repository; give it as owner/name")
    if source.startswith("file:"):
        raise CheckpointNotFound(f"{source}: no such file or directory on this machine; give its path")
    if "://" in source:
        raise CheckpointNotFound(
            f"{source}: an address is not fetched; download the file and give its path, or give owner/name on the hub"
        )
    raise CheckpointNotFound(
        f"{source}: no such file or directory, and not the name of a repository on the hub (owner/name)"
    )
