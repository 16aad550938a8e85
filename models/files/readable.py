"""Whether something can be read, asked before it is opened, so that the error says what is wrong.

A file that exists but may not be read is easily taken for one that does not exist, above all in a container, whose user
is another one than the user who wrote the file.
"""

import os
import stat
from pathlib import Path

from models.errors import CheckpointNotFound

KINDS = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_there(path: Path) -> bool:
    """Whether there is a regular file or a directory that may be read; False where there is nothing.

    Raises CheckpointNotFound for what may not be read, and for a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name that no file can have
        return False
    except PermissionError as error:
        raise forbidden(path) from error
    except OSError as error:
        raise CheckpointNotFound(f"{path}: cannot be read ({error.strerror})") from error
    if kind := KINDS.get(stat.S_IFMT(mode)):
        raise CheckpointNotFound(f"{path}: this is {kind}; a file or a directory is needed")
    if not os.access(path, os.R_OK | os.X_OK if stat.S_ISDIR(mode) else os.R_OK, effective_ids=EFFECTIVE):
        raise forbidden(path)
    return True


def is_file(path: Path) -> bool:
    """Whether there is a regular file that may be read; raises like `is_there`."""
    return is_there(path) and path.is_file()


def forbidden(path: Path) -> CheckpointNotFound:
    """The error for what exists and may not be read by this process."""
    user = f"user {os.geteuid()}" if hasattr(os, "geteuid") else "this user"
    return CheckpointNotFound(f"{path}: may not be read by {user} (permission denied)")


EFFECTIVE = os.access in os.supports_effective_ids
