"""Tell what a path leads to: a file that can be read, or why it is none; and read it without waiting."""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

FOLDER, LINK, OTHER = "folder", "link", "other"


@dataclass(frozen=True)
class ListedFile:
    """A file to answer.

    path: as the user named it, or as found below a folder that the user named.
    size: in bytes when it was listed; None if it was already gone.
    named: whether the user named this file itself.
    problem: why it cannot be read, such as a link without a target; None for a file.
    """

    path: str
    size: int | None
    named: bool = False
    problem: str | None = None


def as_text(path: str) -> str:
    """Return a path as valid UTF-8; bytes that are not are escaped with a backslash."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def entry_kind(entry: os.DirEntry[str]) -> str:
    """Tell folders and links from the rest; an entry that cannot be asked is one of the rest."""
    try:
        return LINK if entry.is_symlink() else FOLDER if entry.is_dir(follow_symlinks=False) else OTHER
    except OSError:
        return OTHER


def look(path: str, named: bool = False) -> ListedFile:
    """Return what is at a path; symbolic links are followed. Never raises."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as error:  # ValueError for a name with a zero byte
        return ListedFile(path, None, named, _reason(path, error))
    if stat.S_ISREG(found.st_mode):
        return ListedFile(path, found.st_size, named)
    return ListedFile(path, None, named, f"{_kind(found.st_mode)}, not a file")


def read_file(path: str, limit: int) -> bytes:
    """Return the first `limit` bytes of a local file. Raises OSError, also for a pipe or whatever else is not a file.

    A path may have become a pipe since it was listed. Opening one would wait for somebody to write to it.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"{_kind(mode)}, not a file")
        return file.read(limit)


def _kind(mode: int) -> str:
    return KINDS.get(stat.S_IFMT(mode), "something else")


def _reason(path: str, error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return "no valid path"
    if error.errno == errno.ELOOP:
        return "a symbolic link that leads back to itself"
    if error.errno == errno.ENOENT and Path(path).is_symlink():
        return "a symbolic link to something that does not exist"
    return error.strerror or "cannot be read"
