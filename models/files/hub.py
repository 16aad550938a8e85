"""Download a checkpoint from the Hugging Face hub, only the files that are needed, with huggingface_hub.

Its environment variables apply: `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from models.errors import CheckpointError, CheckpointNotFound
from models.files.opening import CONFIGS, choose_weights, read_json, shard_names

Log = Callable[[str], None]
"""Receives a sentence about the progress of a download."""


def download(repository: str, revision: str | None, log: Log) -> Path:
    """Download a repository's weights and configs into the cache and return their folder.

    Without access to the hub, use what is in the cache.

    Raises CheckpointNotFound if the hub refuses, or cannot be reached and the repository is not in the cache.
    """
    if constants.is_offline_mode():
        return _cached(repository, revision, "offline mode is on (HF_HUB_OFFLINE)")
    try:
        return _download(repository, revision, log)
    except CheckpointError:
        raise
    except HfHubHTTPError as error:
        _raise_refusal(error, repository, revision)
    except Exception:  # noqa: BLE001 - huggingface_hub passes on whatever its HTTP library raises
        log(f"the hub at {constants.ENDPOINT} cannot be reached; looking for {repository} in the cache")
        return _cached(repository, revision, f"the hub at {constants.ENDPOINT} cannot be reached")


def _download(repository: str, revision: str | None, log: Log) -> Path:
    info = HfApi().model_info(repository, revision=revision)
    names = [entry.rfilename for entry in info.siblings or [] if "/" not in entry.rfilename]
    weights = choose_weights(Path(repository), names).name
    # By the revision as it was given, not by its commit, so that the cache finds it by the same name when offline.
    folders = {hf_hub_download(repository, name, revision=revision) for name in CONFIGS if name in names}
    log(f"downloading {weights} of {repository} at {(info.sha or revision or 'main')[:12]}")
    downloaded = Path(hf_hub_download(repository, weights, revision=revision))
    for shard in shard_names(read_json(downloaded), downloaded) if weights.endswith(".index.json") else []:
        log(f"downloading {shard} of {repository}")
        folders.add(hf_hub_download(repository, shard, revision=revision))
    if any(Path(other).parent != downloaded.parent for other in folders):
        raise CheckpointNotFound(f"{repository}: it changed during the download; try again, or set a revision")
    return downloaded.parent


def _cached(repository: str, revision: str | None, reason: str) -> Path:
    """Return the repository's folder in the cache, without contacting the hub; `reason` says why."""
    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        at = f" revision {revision!r}" if revision else ""
        raise CheckpointNotFound(
            f"{repository}:{at} is not in the cache ({constants.HF_HUB_CACHE}), and {reason}; "
            "download it once with access to the hub, or give a local path"
        ) from error


def _raise_refusal(error: HfHubHTTPError, repository: str, revision: str | None) -> NoReturn:
    """Raise CheckpointNotFound with the reason of the hub's error response, in one line."""
    if isinstance(error, GatedRepoError):
        reason = "the repository is gated; accept its terms on the hub and set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        reason = "no such repository on the hub, nor a local directory; if the repository is private, set HF_TOKEN"
    elif isinstance(error, RevisionNotFoundError):
        reason = f"the repository has no revision {revision!r}"
    else:
        reason = f"the hub at {constants.ENDPOINT} answered with status {error.response.status_code}"
    raise CheckpointNotFound(f"{repository}: {reason}") from error
