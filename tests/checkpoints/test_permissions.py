"""What may not be read, and what is no file, is called that; what is written may be read as the umask says.

Root reads everything, so a child process asks, which gives up root after its imports.
"""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.checkpoints.checkpoint import open_checkpoint
from models.checkpoints.convert import convert
from models.errors import CheckpointNotFound
from models.files.place import find
from tests.server import ROOT

NOBODY = 65534
SHIPPED = ROOT / "weights" / "vit-small-tiny-imagenet"

ASK = f"""
import json, os, sys
from models.checkpoints.checkpoint import open_checkpoint
from models.errors import CheckpointError
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
source, options = json.loads(sys.argv[1])
try:
    print(open_checkpoint(source, **options).name)
except CheckpointError as error:
    print(type(error).__name__, error)
"""
USER = NOBODY if os.geteuid() == 0 else os.geteuid()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A copy of the shipped checkpoint that every user may read; pytest's own directories are closed to others."""
    parent = Path(tempfile.mkdtemp())
    parent.chmod(0o755)
    shutil.copytree(SHIPPED, parent / "model", copy_function=shutil.copyfile)
    for path in (parent / "model").iterdir():
        path.chmod(0o644)
    (parent / "model").chmod(0o755)
    yield parent / "model"
    for path in (parent, parent / "model"):
        path.chmod(0o700)
    shutil.rmtree(parent)


def asked(source: Path, **options: Any) -> str:
    command = [sys.executable, "-c", ASK, json.dumps([str(source), options])]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def refused(path: Path) -> str:
    return f"CheckpointNotFound {path}: may not be read by user {USER} (permission denied)"


def test_another_user_reads_what_everybody_may(folder: Path) -> None:
    assert asked(folder) == "model"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "golden.json"])
def test_a_file_that_may_not_be_read_is_named_with_the_user(folder: Path, name: str) -> None:
    (folder / name).chmod(0)
    assert asked(folder) == refused(folder / name)


def test_a_file_that_is_the_model_itself(folder: Path) -> None:
    (folder / "model.safetensors").chmod(0)
    assert asked(folder / "model.safetensors") == refused(folder / "model.safetensors")


@pytest.mark.parametrize("mode", [0o000, 0o644, 0o111])
def test_a_directory_that_may_not_be_listed_or_entered(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    assert asked(folder) == refused(folder)


def test_what_lies_in_a_directory_that_may_not_be_entered(folder: Path) -> None:
    folder.parent.chmod(0o600)
    assert asked(folder) == refused(folder)


def test_a_file_of_labels_or_of_a_head(folder: Path) -> None:
    for option in ("labels", "head"):
        path = folder.parent / option
        path.write_text("one\n")
        path.chmod(0)
        assert asked(folder, **{option: str(path)}) == refused(path)


def test_what_is_no_file_is_called_what_it_is(folder: Path) -> None:
    fifo, address = folder.parent / "fifo", folder.parent / "socket"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        for path, kind in ((fifo, r"named pipe \(FIFO\)"), (address, "a socket"), (Path("/dev/null"), "a device")):
            with pytest.raises(CheckpointNotFound, match=f"{path}: this is .*{kind}"):
                open_checkpoint(str(path))
            with pytest.raises(CheckpointNotFound, match=f"{path}: this is .*{kind}"):
                find(str(path), None)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(CheckpointNotFound, match=r"model\.safetensors: this is a named pipe"):
        open_checkpoint(str(folder))


def test_a_link_to_nothing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "gone")
    with pytest.raises(CheckpointNotFound, match="a link to one that does not exist"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_what_is_converted_has_the_mode_that_the_umask_gives(folder: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        convert(open_checkpoint(str(folder)), folder.parent / "converted")
    finally:
        os.umask(before)
    written = list((folder.parent / "converted").iterdir())
    assert {path.name for path in written} == {"model.safetensors", "config.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {mode}
