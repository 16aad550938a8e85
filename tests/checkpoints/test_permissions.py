"""Errors name a path without read permission and a path that is not a file; written files have the umask's mode.

Root can read everything, so a child process opens the checkpoint after giving up root.
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
from models.files.location import locate
from tests.server import ROOT

NOBODY = 65534
SHIPPED = ROOT / "weights" / "vit-small-tiny-imagenet"

OPEN_AS_NOBODY = f"""
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
    """A copy of the default model that every user can read; pytest's own directories are closed to other users."""
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


def open_as_nobody(source: Path, **options: Any) -> str:
    command = [sys.executable, "-c", OPEN_AS_NOBODY, json.dumps([str(source), options])]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def denied(path: Path) -> str:
    return (
        f"CheckpointNotFound {path}: may not be read by user {USER} (permission denied); change its owner or its mode"
    )


def test_another_user_can_load_a_readable_checkpoint(folder: Path) -> None:
    assert open_as_nobody(folder) == "model"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "golden.json"])
def test_the_error_names_the_file_and_the_user(folder: Path, name: str) -> None:
    (folder / name).chmod(0)
    assert open_as_nobody(folder) == denied(folder / name)


def test_a_model_file_without_read_permission(folder: Path) -> None:
    (folder / "model.safetensors").chmod(0)
    assert open_as_nobody(folder / "model.safetensors") == denied(folder / "model.safetensors")


@pytest.mark.parametrize("mode", [0o000, 0o644, 0o111])
def test_a_directory_that_cannot_be_listed_or_entered(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    assert open_as_nobody(folder) == denied(folder)


def test_a_path_in_a_directory_that_cannot_be_entered(folder: Path) -> None:
    folder.parent.chmod(0o600)
    assert open_as_nobody(folder) == denied(folder)


def test_labels_and_a_head_without_read_permission(folder: Path) -> None:
    for option in ("labels", "head"):
        path = folder.parent / option
        path.write_text("one\n")
        path.chmod(0)
        assert open_as_nobody(folder, **{option: str(path)}) == denied(path)


def test_a_special_file_is_refused_and_named(folder: Path) -> None:
    fifo, address = folder.parent / "fifo", folder.parent / "socket"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        for path, kind in ((fifo, r"named pipe \(FIFO\)"), (address, "a socket"), (Path("/dev/null"), "a device")):
            with pytest.raises(CheckpointNotFound, match=f"{path}: this is .*{kind}"):
                open_checkpoint(str(path))
            with pytest.raises(CheckpointNotFound, match=f"{path}: this is .*{kind}"):
                locate(str(path), None)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(CheckpointNotFound, match=r"model\.safetensors: this is a named pipe"):
        open_checkpoint(str(folder))


def test_a_broken_link(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "gone")
    with pytest.raises(CheckpointNotFound, match="a link whose target does not exist"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_converted_files_have_the_mode_of_the_umask(folder: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        convert(open_checkpoint(str(folder)), folder.parent / "converted")
    finally:
        os.umask(before)
    written = list((folder.parent / "converted").iterdir())
    assert {path.name for path in written} == {"model.safetensors", "config.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {mode}
