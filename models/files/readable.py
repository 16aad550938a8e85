"""Check that a path can be read before opening it, so that the error says what is wrong.

Otherwise a file without read permission is easily reported as missing. This is common in containers, where the user
differs from the user who wrote the file.
"""

import os
import stat
from pathlib import Path

from models.errors import CheckpointBroken, CheckpointNotFound

SPECIAL_FILES = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

STAND_INS = {
    b"version https://git-lfs.github.com/spec/": "a Git LFS pointer, not the file itself; run `git lfs pull` beside it",
    b"/annex/objects/": "a git-annex pointer, not the file itself; run `git annex get` on it",
    b"<!doctype html": "a web page, not the file itself; download the file by its own link",
    b"<html": "a web page, not the file itself; download the file by its own link",
}
"""First bytes, in lower case, of what is often found in the place of a file -> what it is, and what to do."""

EFFECTIVE_IDS = os.access in os.supports_effective_ids
"""Whether `os.access` can check the permissions of the effective user instead of the real one."""


def exists(path: Path) -> bool:
    """Return whether the path is a file or a directory that this process can read; False if nothing is there.

    Raises CheckpointNotFound if it has no read permission, for a link without a target, a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        if link := next((part for part in (path, *path.parents) if part.is_symlink() and not part.exists()), None):
            raise CheckpointNotFound(f"{link}: a link whose target does not exist ({link.readlink()})") from error
        return False
    except (NotADirectoryError, ValueError):  # ValueError: a name that no file can have
        return False
    except PermissionError as error:
        raise permission_denied(path) from error
    except OSError as error:
        raise CheckpointNotFound(f"{path}: cannot be read ({error.strerror})") from error
    if special := SPECIAL_FILES.get(stat.S_IFMT(mode)):
        raise CheckpointNotFound(f"{path}: this is {special}, not a file or a directory")
    if not os.access(path, os.R_OK | os.X_OK if stat.S_ISDIR(mode) else os.R_OK, effective_ids=EFFECTIVE_IDS):
        raise permission_denied(path)
    return True


def is_file(path: Path) -> bool:
    """Return whether the path is a file that this process can read. Raises like `exists`."""
    return exists(path) and path.is_file()


def refuse_stand_in(path: Path) -> None:
    """Raise CheckpointBroken for a file that only stands in the place of the file of this name."""
    with path.open("rb") as file:
        start = file.read(max(map(len, STAND_INS))).lstrip().lower()
    for beginning, what in STAND_INS.items():
        if start.startswith(beginning):
            raise CheckpointBroken(f"{path}: {what}")


def permission_denied(path: Path) -> CheckpointNotFound:
    """Return the error for a path that exists but that this process has no permission to read."""
    return CheckpointNotFound(f"{path}: {denial()}")


def denial() -> str:
    """Return the sentence about a file that this process has no permission to read, with the id of its user."""
    user = f"user {os.geteuid()}" if hasattr(os, "geteuid") else "this user"
    return f"may not be read by {user} (permission denied); change its owner or its mode"
