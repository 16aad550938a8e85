"""Heads by name: in a directory that several processes share, or in the memory of this one.

A head is a file `NAME.safetensors`. It is written under another name, synced to disk and renamed, so that it is whole
at every moment: after a crash there is the old head or the new one. Writers take turns by a lock on the directory, and
each write has a number, which is part of the head's version. Other processes see a change when they next look.
"""

import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from app.heads.file import head_bytes, read_head
from app.heads.head import Head
from app.schemas import HEAD_NAME
from app.wording import PATTERNS
from models.errors import CheckpointError

if sys.platform != "win32":
    import fcntl

SUFFIX, UNFINISHED, LOCK = ".safetensors", ".unfinished", ".lock"

Condition = Callable[[str | None], bool]
"""Whether a write may replace the head of this version; None: there is no head of that name."""


class Changed(Exception):
    """The condition of a write does not hold: another writer came first. The message says what is there."""


class Full(Exception):
    """A head of a new name would be one too many."""


class TooLarge(Exception):
    """All heads together would need more memory than they may."""


class NotSaved(Exception):
    """The file of a head could not be written; the message has the system's reason."""


@dataclass(frozen=True)
class Kept:
    """What is under a name: a head, or the reason why the file is none; and how the file was when it was read."""

    head: Head | None
    problem: str = ""
    seen: tuple[int, ...] = ()


def always(_: str | None) -> bool:
    """Hold for any version, and for none."""
    return True


class Store:
    """Heads by name. Its methods may wait for a disk and for other writers; threads may call them at the same time.

    Args:
        folder: where the files are; it is made if it does not exist. None keeps the heads in memory.
        max_heads: the largest number of heads.
        max_bytes: the most memory that all heads together may take.
    """

    def __init__(self, folder: Path | None, max_heads: int, max_bytes: int) -> None:
        self.folder = folder
        self.max_heads, self.max_bytes = max_heads, max_bytes
        self._kept: Mapping[str, Kept] = {}
        self._lock = threading.Lock()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(NotSaved), self._alone():  # a directory that can only be read has no leftovers of ours
                for leftover in folder.glob(f".*{UNFINISHED}"):
                    leftover.unlink(missing_ok=True)
            self.refresh()

    @property
    def kept(self) -> Mapping[str, Kept]:
        """What was under each name when this process last looked. It is replaced as a whole, and never changed."""
        return self._kept

    def refresh(self) -> None:
        """Look for heads that other processes have written or deleted."""
        if self.folder is not None:
            with self._lock:
                self._look()

    def put(self, name: str, head: Head, condition: Condition = always) -> Head:
        """Keep a head under a name, and return it with its number. Raises Changed, Full, TooLarge, NotSaved."""
        with self._lock, self._alone():
            self._look()
            before = self._kept.get(name)
            self._check(name, before, condition)
            number = before.head.number + 1 if before and before.head else 1
            head = replace(head, number=number)
            self._check_room(name, head)
            seen = self._write(name, head)
            self._kept = {**self._kept, name: Kept(head, seen=seen)}
        return head

    def delete(self, name: str, condition: Condition = always) -> bool:
        """Delete a head, and return whether there was one. Raises Changed, NotSaved."""
        with self._lock, self._alone():
            self._look()
            before = self._kept.get(name)
            if before is None:
                return False
            self._check(name, before, condition)
            if self.folder is not None:
                try:
                    (self.folder / f"{name}{SUFFIX}").unlink(missing_ok=True)
                    _sync(self.folder)
                except OSError as error:
                    raise NotSaved(error.strerror or "the file cannot be deleted") from error
            self._kept = {other: kept for other, kept in self._kept.items() if other != name}
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from writing; the system ends the lock with the process that holds it."""
        if self.folder is None or sys.platform == "win32":
            yield
            return
        try:
            file = (self.folder / LOCK).open("w")
        except OSError as error:
            raise NotSaved(error.strerror or "the directory cannot be written") from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _look(self) -> None:
        if self.folder is None:
            return
        found: dict[str, Kept] = {}
        with os.scandir(self.folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(SUFFIX) and entry.name[0] != ".")
        for file in names:
            name = file.removesuffix(SUFFIX)
            try:
                there = (self.folder / file).stat()
            except FileNotFoundError:  # deleted since
                continue
            seen = there.st_ino, there.st_mtime_ns, there.st_size
            known = self._kept.get(name)
            found[name] = known if known and known.seen == seen else _read(self.folder / file, there, seen)
        self._kept = found

    def _check(self, name: str, before: Kept | None, condition: Condition) -> None:
        version = before.head.version if before and before.head else None
        if not condition(version):
            there = f"its version is {version}" if version else "there is no such head"
            raise Changed(f"the head {name!r} is not what the request expects: {there}")

    def _check_room(self, name: str, head: Head) -> None:
        others = {other: kept for other, kept in self._kept.items() if other != name}
        if len(others) >= self.max_heads:
            raise Full(f"there are {len(others)} heads, and {self.max_heads} are allowed")
        needed = head.held_bytes + sum(kept.head.held_bytes for kept in others.values() if kept.head)
        if needed > self.max_bytes:
            raise TooLarge(f"all heads together would need {needed} bytes, and {self.max_bytes} are allowed")

    def _write(self, name: str, head: Head) -> tuple[int, ...]:
        if self.folder is None:
            return ()
        unfinished = self.folder / f".{name}.{os.getpid()}{UNFINISHED}"
        try:
            with unfinished.open("wb") as file:
                file.write(head_bytes(head))
                file.flush()
                os.fsync(file.fileno())
                there = os.fstat(file.fileno())
            unfinished.rename(self.folder / f"{name}{SUFFIX}")
            _sync(self.folder)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()
            raise NotSaved(error.strerror or "the file cannot be written") from error
        return there.st_ino, there.st_mtime_ns, there.st_size


def _read(path: Path, there: os.stat_result, seen: tuple[int, ...]) -> Kept:
    name = path.name.removesuffix(SUFFIX)
    if not re.fullmatch(HEAD_NAME, name):
        return Kept(None, f"no request can name it: the name {PATTERNS[HEAD_NAME]}; rename its file", seen)
    if not stat.S_ISREG(there.st_mode):  # to open a pipe may wait for ever
        return Kept(None, "not a file", seen)
    try:
        return Kept(read_head(path), seen=seen)
    except CheckpointError as error:
        return Kept(None, str(error).removeprefix(f"{path}: "), seen)


def _sync(folder: Path) -> None:
    """Have the names in a directory reach the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
