"""What a user names -> the files that are meant, one after the other: files, folders, and globs in quotes.

A folder is walked in the order of its names, and its files are told by their suffix; what was named itself, or matched
by a glob, is taken whatever it is called. In memory are the names of one folder at a time, or all those of one glob.
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
    """Something that was named is no file and no folder, and no glob that matches any."""


@dataclass(frozen=True)
class ListedFile:
    """A file.

    path: as it was named, or below the folder as that was named.
    size: in bytes, when it was found; None for what was gone by then.
    named: by the user, and not only found.
    """

    path: str
    size: int | None
    named: bool = False


class Search:
    """The files below what was named.

    Args:
        named: paths of files and folders, and globs.
        formats: what suffixes are taken in folders.

    Raises NotThere at once.
    """

    def __init__(self, named: Sequence[str], formats: Sequence[ImageFormat]) -> None:
        for name in named:
            if not Path(name).exists() and not _any_match(name):
                raise PathNotFound(f"{name}: there is no such file or folder, and nothing that matches it as a glob")
        self._named = named
        self._suffixes = tuple(suffix for one in formats for suffix in SUFFIXES[one])
        self.skipped = 0
        """Files of searched folders that have no image's suffix or are hidden, so far."""

    def __iter__(self) -> Iterator[ListedFile]:
        """Every file, in an order that is the same each time."""
        for name in self._named:
            if Path(name).is_dir():
                yield from self._walk(name)
            elif Path(name).exists():
                yield ListedFile(name, _size(name), named=True)
            else:
                matches = sorted(glob.iglob(name, recursive=True))  # noqa: PTH207 - Path.glob wants a folder
                yield from (ListedFile(match, _size(match)) for match in matches if Path(match).is_file())

    def _walk(self, folder: str) -> Iterator[ListedFile]:
        """Files, then folders, each by name; links to folders are not followed, so that the walk ends."""
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
            # A folder that may not be read has to be seen in the report: nothing else would tell.
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


def _any_match(name: str) -> bool:
    return glob.has_magic(name) and any(True for _ in glob.iglob(name, recursive=True))  # noqa: PTH207


def _size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except OSError:
        return None
