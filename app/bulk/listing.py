"""List the files that a user means: files, folders, and quoted globs; and account for everything else that is met.

A folder is walked in alphabetical order, and its images are recognised by their suffix. A file that the user named
itself, or that a glob matched, is taken whatever its suffix. What is named like an image and cannot be read, such as a
broken link or a pipe, is listed with the reason. Everything else is counted by why it was passed over. Memory holds the
names of one folder at a time, or all matches of one glob.
"""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.bulk.entries import FOLDER, LINK, OTHER, ListedFile, entry_kind, look
from app.bulk.globs import expand
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

HIDDEN, NO_IMAGE, OTHER_FORMAT = "hidden", "without an image suffix", "of a format that image_formats leaves out"
LINKED_FOLDER, MATCHED_FOLDER = "links to folders", "folders that a glob matches"


class PathNotFound(Exception):
    """A path is neither a file nor a folder, and as a glob it matches nothing."""


class Suffixes:
    """Decides by its name whether an entry of a folder is an image.

    Args:
        formats: formats whose suffixes are taken.
    """

    def __init__(self, formats: Sequence[ImageFormat]) -> None:
        self._taken = tuple(suffix for name in formats for suffix in SUFFIXES[name])
        self._known = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)

    def reason(self, name: str) -> str | None:
        """Return why an entry is passed over; None for an image."""
        if name.startswith("."):
            return HIDDEN
        lower = name.lower()
        if lower.endswith(self._taken):
            return None
        return OTHER_FORMAT if lower.endswith(self._known) else NO_IMAGE


class Search:
    """Iterates over the files below some paths, in the same order each time.

    Args:
        paths: paths of files and folders, and globs.
        formats: formats whose suffixes are taken in folders.

    Raises PathNotFound in the constructor.
    """

    def __init__(self, paths: Sequence[str], formats: Sequence[ImageFormat]) -> None:
        for path in paths:
            _check(path)
        self._paths = paths
        self._suffixes = Suffixes(formats)
        self.met = 0
        """Entries met so far: named files, matches of globs, and entries of folders but the folders walked."""
        self.passed_over: Counter[str] = Counter()
        """How many of them were not listed, by the reason. A hidden folder counts as one."""

    def __iter__(self) -> Iterator[ListedFile]:
        """Yield every file; the counts start at zero again."""
        self.met, self.passed_over = 0, Counter()
        for path in self._paths:
            if Path(path).is_dir():
                yield from self._walk(path)
            elif os.path.lexists(path):
                self.met += 1
                yield look(path, named=True)
            else:
                yield from self._match(path)

    def _match(self, pattern: str) -> Iterator[ListedFile]:
        """Yield the matches of a glob but folders, and the folders that could not be searched."""
        unread: dict[str, OSError] = {}
        matches = sorted(set(expand(pattern, unread.__setitem__)))
        for folder, error in sorted(unread.items()):
            yield self._unread(folder, error)
        for match in matches:
            self.met += 1
            if Path(match).is_dir():
                self.passed_over[MATCHED_FOLDER] += 1
            else:
                yield look(match)

    def _walk(self, root: str) -> Iterator[ListedFile]:
        """Yield the files of a folder, then those of its subfolders, each in alphabetical order.

        Symbolic links to folders are not followed, because they could form a loop.
        """
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            prefix = folder if folder.endswith(os.sep) else f"{folder}{os.sep}"
            names: dict[str, list[str]] = {FOLDER: [], LINK: [], OTHER: []}
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        names[entry_kind(entry)].append(entry.name)
            except OSError as error:
                yield self._unread(folder, error)  # what was met before is listed too
            links = set(names[LINK])
            for name in sorted(names[OTHER] + names[LINK]):
                reason = self._suffixes.reason(name)
                if reason != HIDDEN and name in links and Path(f"{prefix}{name}").is_dir():
                    reason = LINKED_FOLDER
                self.met += 1
                if reason is None:
                    yield look(f"{prefix}{name}")
                else:
                    self.passed_over[reason] += 1
            for name in sorted(names[FOLDER], reverse=True):
                if name.startswith("."):
                    self.met += 1
                    self.passed_over[HIDDEN] += 1
                else:
                    waiting.append(f"{prefix}{name}")

    def _unread(self, folder: str, error: OSError) -> ListedFile:
        """Return a folder as if it were a file, so that the failure report names it."""
        self.met += 1
        return ListedFile(folder, None, problem=f"the folder cannot be read: {error.strerror}")


def _check(path: str) -> None:
    """Raise PathNotFound for a path that cannot be used at all."""
    if os.path.lexists(path):
        if not Path(path).is_dir() and (problem := look(path).problem) is not None:
            raise PathNotFound(f"{path}: {problem}")
        return
    if not glob.has_magic(path) or not any(True for _ in expand(path)):
        raise PathNotFound(f"{path}: no such file or folder, and as a glob it matches nothing")
