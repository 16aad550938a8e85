"""List the files that a user means: files, folders, and quoted globs.

A folder is walked in alphabetical order, and its images are recognised by their suffix. A file that the user named
itself, or that a glob matched, is taken whatever its suffix. Memory holds the names of one folder at a time, or all
matches of one glob.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.settings import ImageFormat

SUFFIXES: dict[ImageFormat, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "AVIF": (".avif",),
    "HEIC": (".heic", ".heif"),
    "TIFF": (".tif", ".tiff"),
}


class PathNotFound(Exception):
    """A path is neither a file nor a folder, and as a glob it matches nothing."""


@dataclass(frozen=True)
class ListedFile:
    """A file to answer.

    path: as the user named it, or as found below a folder that the user named.
    size: in bytes when it was listed; None if it was already gone.
    named: whether the user named this file itself.
    """

    path: str
    size: int | None
    named: bool = False


class Search:
    """Iterates over the files below some paths, in the same order each time.

    Args:
        paths: paths of files and folders, and globs.
        formats: formats whose suffixes are taken in folders.

    Raises PathNotFound in the constructor.
    """

    def __init__(self, paths: Sequence[str], formats: Sequence[ImageFormat]) -> None:
        for path in paths:
            if not Path(path).exists() and not _matches_any(path):
                raise PathNotFound(f"{path}: no such file or folder, and as a glob it matches nothing")
        self._paths = paths
        self._suffixes = tuple(suffix for name in formats for suffix in SUFFIXES[name])
        self.skipped = 0
        """Files skipped so far: those in folders that have no image suffix or are hidden."""

    def __iter__(self) -> Iterator[ListedFile]:
        """Yield every file."""
        for path in self._paths:
            if Path(path).is_dir():
                yield from self._walk(path)
            elif Path(path).exists():
                yield ListedFile(path, _size(path), named=True)
            else:
                matches = sorted(glob.iglob(path, recursive=True))  # noqa: PTH207 - Path.glob needs a folder
                yield from (ListedFile(match, _size(match)) for match in matches if Path(match).is_file())

    def _walk(self, folder: str) -> Iterator[ListedFile]:
        """Yield files, then those of subfolders, each in alphabetical order.

        Symbolic links to folders are not followed, because they could form a loop.
        """
        prefix = folder if folder.endswith(os.sep) else f"{folder}{os.sep}"
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith("."):
                            folders.append(entry.name)
                    elif entry.is_file():
                        files.append(entry.name)
        except OSError:
            # An unreadable folder is listed as a file, so that the failure report names it.
            yield ListedFile(folder, None)
        for name in sorted(files):
            if name.startswith(".") or not name.lower().endswith(self._suffixes):
                self.skipped += 1
            else:
                path = f"{prefix}{name}"
                yield ListedFile(path, _size(path))
        del files
        for name in sorted(folders):
            yield from self._walk(f"{prefix}{name}")


def _matches_any(pattern: str) -> bool:
    return glob.has_magic(pattern) and any(True for _ in glob.iglob(pattern, recursive=True))  # noqa: PTH207


def _size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except OSError:
        return None
