"""Checkpoints on the Hugging Face hub: only the files that are needed, through huggingface_hub.

Its settings are honoured: `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`. A path that exists
never asks the hub.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import httpx
from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from models.errors import CheckpointNotFound
from models.opening import CONFIGS, PREFERRED, choose, read_json, shard_names

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SCHEME = "hf://"


@dataclass(frozen=True)
class Place:
    """Where a checkpoint lies on this machine, and what it is called."""

    path: Path
    name: str


def find(source: str, revision: str | None, say: Callable[[str], None] | None = None) -> Place:
    """A path as it is, or a repository of the hub after its files were fetched.

    Raises CheckpointNotFound where there is neither, or where the hub cannot be asked.
    """
    path = Path(source).expanduser()
    if not source.startswith(SCHEME) and path.exists():
        if revision is not None:
            raise CheckpointNotFound(f"{source} lies on this machine: it has no revision {revision!r}")
        path = path.resolve()
        return Place(path, path.name if path.is_dir() else path.stem)
    repository = source.removeprefix(SCHEME)
    if not HUB_ID.fullmatch(repository):
        raise CheckpointNotFound(
            f"{source}: there is no such directory or file, and it is not a name on the hub (owner/name)"
        )
    return Place(_fetch(repository, revision, say or (lambda _: None)), repository.rsplit("/", 1)[1])


def _fetch(repository: str, revision: str | None, say: Callable[[str], None]) -> Path:
    """The folder of the cache that holds the repository's weights and configs."""
    try:
        if constants.is_offline_mode():
            return _cached(repository, revision)
        info = HfApi().model_info(repository, revision=revision)
        names = [entry.rfilename for entry in info.siblings or [] if "/" not in entry.rfilename]
        weights = choose(Path(repository), names).name
        say(f"fetching {weights} of {repository} at {(info.sha or 'main')[:12]}")
        for name in [name for name in CONFIGS if name in names]:
            hf_hub_download(repository, name, revision=info.sha)
        fetched = Path(hf_hub_download(repository, weights, revision=info.sha))
        for shard in shard_names(read_json(fetched), fetched) if weights.endswith(".index.json") else []:
            say(f"fetching {shard} of {repository}")
            hf_hub_download(repository, shard, revision=info.sha)
        return fetched.parent
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        _explain(error, repository, revision)


def _cached(repository: str, revision: str | None) -> Path:
    """The same, of what was fetched before: nothing is asked of the hub."""
    for name in PREFERRED:
        found = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    snapshot = try_to_load_from_cache(repository, "config.json", revision=revision)
    if isinstance(snapshot, str):
        return Path(snapshot).parent
    at = f" at revision {revision!r}" if revision else ""
    raise CheckpointNotFound(
        f"{repository}{at} is not in the cache ({constants.HF_HUB_CACHE}), and the hub's offline mode is on "
        "(HF_HUB_OFFLINE); fetch it once with the mode off, or name a directory"
    )


def _explain(error: Exception, repository: str, revision: str | None) -> NoReturn:
    """Raise CheckpointNotFound with what went wrong in one line."""
    if isinstance(error, GatedRepoError):
        why = "it is gated: accept its terms on the hub and set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        why = "there is no such repository, or it is private and HF_TOKEN is not set; nor is there such a directory"
    elif isinstance(error, RevisionNotFoundError):
        why = f"it has no revision {revision!r}"
    elif isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        why = "a file of it is missing on the hub"
    elif isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError):
        why = f"the hub at {constants.ENDPOINT} answered with status {error.response.status_code}"
    else:
        why = f"the hub at {constants.ENDPOINT} cannot be reached; check the network, or name a directory"
    raise CheckpointNotFound(f"{repository}: {why}") from error
