"""Checkpoints on the Hugging Face hub: only the files that are needed, through huggingface_hub.

Its settings are honoured: `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`.
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
from models.files.opening import CONFIGS, choose, read_json, shard_names

Report = Callable[[str], None]


def fetch(repository: str, revision: str | None, report: Report) -> Path:
    """The folder of the cache that holds the repository's weights and configs.

    Raises CheckpointNotFound where the hub does not have it, or cannot be asked and the cache does not have it either.
    """
    if constants.is_offline_mode():
        return _cached(repository, revision, "the hub's offline mode is on (HF_HUB_OFFLINE)")
    try:
        return _download(repository, revision, report)
    except CheckpointError:
        raise
    except HfHubHTTPError as error:
        _refused(error, repository, revision)
    except Exception:  # noqa: BLE001 - huggingface_hub hands on what its HTTP library of the day raises
        report(f"the hub at {constants.ENDPOINT} cannot be reached: looking for {repository} in the cache")
        return _cached(repository, revision, f"the hub at {constants.ENDPOINT} cannot be reached")


def _download(repository: str, revision: str | None, report: Report) -> Path:
    info = HfApi().model_info(repository, revision=revision)
    names = [entry.rfilename for entry in info.siblings or [] if "/" not in entry.rfilename]
    weights = choose(Path(repository), names).name
    # Asked for by the same name as the repository was, so that the cache knows it by this name where there is no hub.
    folders = {hf_hub_download(repository, name, revision=revision) for name in CONFIGS if name in names}
    report(f"fetching {weights} of {repository} at {(info.sha or revision or 'main')[:12]}")
    fetched = Path(hf_hub_download(repository, weights, revision=revision))
    for shard in shard_names(read_json(fetched), fetched) if weights.endswith(".index.json") else []:
        report(f"fetching {shard} of {repository}")
        folders.add(hf_hub_download(repository, shard, revision=revision))
    if any(Path(other).parent != fetched.parent for other in folders):
        raise CheckpointNotFound(f"{repository} changed while it was being fetched; try again, or name a revision")
    return fetched.parent


def _cached(repository: str, revision: str | None, why: str) -> Path:
    """The folder of what was fetched before: nothing is asked of the hub."""
    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        at = f" at revision {revision!r}" if revision else ""
        raise CheckpointNotFound(
            f"{repository}{at} is not in the cache ({constants.HF_HUB_CACHE}), and {why}; "
            "fetch it once with the hub at hand, or name a directory"
        ) from error


def _refused(error: HfHubHTTPError, repository: str, revision: str | None) -> NoReturn:
    """Raise CheckpointNotFound with what the hub said, in one line."""
    if isinstance(error, GatedRepoError):
        why = "it is gated; accept its terms on the hub and set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        why = "there is no such repository on the hub, or a private one that needs HF_TOKEN; nor such a directory"
    elif isinstance(error, RevisionNotFoundError):
        why = f"it has no revision {revision!r} on the hub"
    else:
        why = f"the hub at {constants.ENDPOINT} answered with status {error.response.status_code}"
    raise CheckpointNotFound(f"{repository}: {why}") from error
