"""A folder with every kind of entry, and what it holds by `os.walk` and `os.stat`, without the code under test."""

import os
import socket
import stat
from collections import Counter
from contextlib import chdir, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.server import ROOT

PICTURE = (ROOT / "examples" / "cat.png").read_bytes()
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".avif", ".heic", ".heif")
HIDDEN, OTHER, LEFT_OUT, LINKS = (
    *("hidden", "without an image suffix"),
    *("of a format that image_formats leaves out", "links to folders"),
)


@dataclass
class Account:
    """What a folder holds: the files, entries named like pictures that are no files, and the rest by the reason."""

    files: set[str] = field(default_factory=set)
    problems: set[str] = field(default_factory=set)
    passed_over: Counter[str] = field(default_factory=Counter)


def make(folder: Path, picture: bytes = PICTURE) -> Path:
    """Write every kind of entry that this user may make, under names of pictures and under others."""
    below = folder / "a" / "deeper.png" / "still"
    below.mkdir(parents=True)
    for name in ("0.png", "z.JPG", "a/1.webp", "a/deeper.png/2.gif", "a/deeper.png/still/3.bmp"):
        (folder / name).write_bytes(picture)
    for name in ("notes.txt", ".hidden.png", "scan.tif", "a/no-suffix", "a/README"):
        (folder / name).write_bytes(picture)
    for name in (".cache", "a/.git", "empty"):
        (folder / name).mkdir()
    (folder / ".cache" / "thumbnail.png").write_bytes(picture)
    for raw in (b"\xff\xfe.png", b"\xff.txt", b"a/\xe9t\xe9.jpg"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + raw)).write_bytes(picture)
    unfollowable = {"self": "self", "one": "other", "other": "one", "broken": "nowhere", "through-a-file": "0.png/x"}
    folders = {"to-parent": "..", "to-here": ".", "to-folder": "empty", "to-root": "/"}
    for suffix in ("", ".png"):
        for name, target in {"to-file": "0.png", "to-device": "/dev/null", **folders}.items():
            (folder / "a" / f"{name}{suffix}").symlink_to(f"../{target}" if target == "0.png" else target)
        for name, target in unfollowable.items():
            for place in (folder, below):
                loops = name in ("self", "one", "other")
                (place / f"{name}{suffix}").symlink_to(f"{target}{suffix}" if loops else target)
        os.mkfifo(folder / f"pipe{suffix}")
        with chdir(folder), socket.socket(socket.AF_UNIX) as listener:  # a socket's path may have 107 bytes
            listener.bind(f"socket{suffix}")
        with suppress(PermissionError):  # of whoever is not root
            os.mknod(folder / "a" / f"device{suffix}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    return folder


def is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - by hand
    except OSError:
        return False


def account(folder: str) -> Account:
    """Return what a folder holds, by hand."""
    found = Account()

    def unread(error: OSError) -> None:
        found.problems.add(error.filename)

    for root, folders, names in os.walk(folder, onerror=unread):
        hidden = [name for name in folders if name.startswith(".")]
        links = [name for name in folders if name not in hidden and Path(root, name).is_symlink()]
        folders[:] = [name for name in folders if name not in {*hidden, *links}]
        found.passed_over.update({HIDDEN: len(hidden), LINKS: len(links)})
        for name in names:
            path = f"{root}/{name}"
            if name.startswith("."):
                found.passed_over[HIDDEN] += 1
            elif name.lower().endswith((".tif", ".tiff")):
                found.passed_over[LEFT_OUT] += 1
            elif not name.lower().endswith(SUFFIXES):
                found.passed_over[OTHER] += 1
            elif is_file(path):
                found.files.add(path)
            else:
                found.problems.add(path)
    found.passed_over = +found.passed_over
    return found
