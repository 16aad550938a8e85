"""Write a checkpoint's directory: only into a new or empty one, and with the permissions that others' files have."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def check_empty(folder: Path) -> None:
    """Raise FileExistsError unless the directory is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: already exists and is not an empty directory")


def write_tensors(weights: Mapping[str, Tensor], path: Path, kind: str) -> None:
    """Write a safetensors file with the permissions of the umask. Raises OSError.

    safetensors alone would keep its temporary file's 0600. `kind` is the format in the file's metadata.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(weights), path, metadata={"format": kind})
    path.chmod(mode)
