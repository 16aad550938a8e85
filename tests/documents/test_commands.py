"""Every command of README.md and docs/ succeeds and prints no warning on standard error.

They run page by page, in order, in a folder with the contents of the repository's root and two folders of pictures.
The programs in `ELSEWHERE` need a container engine, a cluster, a bucket or the network: the tests check only the
grammar of these commands and that the files they name exist. `make` runs with --dry-run.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.commands import PAGES, Command, commands, name_of, python_blocks
from tests.environment import environment
from tests.server import ROOT, Server

COMMANDS = list(commands())
ELSEWHERE = ("docker", "kubectl", "serve", "python", "pip", "opentelemetry-instrument")

PRELUDE = f"""
curl() {{ command curl --silent --show-error --fail "$@"; }}
vitrine() {{ '{sys.executable}' -m app "$@"; }}
make() {{ command make --dry-run "$@"; }}
"""
"""curl without its progress bar, the `vitrine` of this tree, and a make that runs nothing: some targets never end."""

FILES = re.compile(r"(?<![\w/:.@-])((?:[\w-]+/)*[\w-]+\.(?:ya?ml|txt|py))\b")
WRITTEN = re.compile(r" -o (\w+\.(\w+))")
OUTPUTS = (".npy", ".png", ".parquet", ".jsonl", ".run.json", ".parts")
SIGNATURES = {"npy": b"\x93NUM", "png": b"\x89PNG", "parquet": b"PAR1"}


@pytest.fixture(scope="module")
def checkouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each page, with the contents of the repository's root."""
    made = {}
    for page in PAGES:
        made[name_of(page)] = folder = tmp_path_factory.mktemp(page.stem) / "vitrine"
        folder.mkdir()
        for entry in ROOT.iterdir():
            # Not what a reader's own commands have left there, and not the folder that commands write into.
            if not entry.name.startswith(".") and not entry.name.endswith(OUTPUTS) and entry.name != "checkpoints":
                (folder / entry.name).symlink_to(entry)
        (folder / "checkpoints").mkdir()
        for name in ("photos/2024", "more/2023"):
            (folder / name).mkdir(parents=True)
            for picture in (ROOT / "examples").glob("*.jpg"):
                (folder / name / picture.name).symlink_to(picture)
    return made


@pytest.fixture(scope="module", autouse=True)
def _no_heads_left(server: Server) -> Iterator[None]:
    """Other tests share the server with the pages, whose commands write heads."""
    yield
    for head in httpx.get(f"{server.url}/heads").json()["heads"]:
        httpx.delete(f"{server.url}/heads/{head['name']}").raise_for_status()


def run(server: Server, folder: Path, command: list[str]) -> str:
    """Return what the command prints; assert that it succeeds and writes only its report to standard error."""
    ended = subprocess.run(
        command, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def at(server: Server, text: str) -> str:
    """Return the text with this server's address in place of the default one."""
    return text.replace("localhost:8000", f"127.0.0.1:{server.port}")


def test_the_pages_have_commands() -> None:
    assert {command.page for command in COMMANDS} >= {
        *("README.md", "docs/operations.md", "docs/scaling.md", "docs/clients.md"),
    }
    assert {command.program for command in COMMANDS} == {*ELSEWHERE, "curl", "vitrine", "make"}


@pytest.mark.parametrize(
    "command", [one for one in COMMANDS if one.program not in ELSEWHERE], ids=lambda one: f"{one.page}: {one.text[:60]}"
)
def test_a_command_does_what_it_says(server: Server, checkouts: dict[str, Path], command: Command) -> None:
    folder = checkouts[command.page]
    text = at(server, command.text).replace(".venv/bin/", "")
    printed = run(server, folder, ["bash", "-c", PRELUDE + text])
    if written := WRITTEN.search(command.text):
        assert (folder / written[1]).read_bytes().startswith(SIGNATURES[written[2]])
    elif command.program == "curl":
        assert json.loads(printed)
    else:
        assert printed


@pytest.mark.parametrize(
    "command", [one for one in COMMANDS if one.program in ELSEWHERE], ids=lambda one: f"{one.page}: {one.text[:60]}"
)
def test_a_command_for_elsewhere_names_files_that_exist(command: Command) -> None:
    """`split` has already checked that the shell considers it a complete command."""
    for name in FILES.findall(command.text):
        assert (ROOT / name).is_file(), f"{command.page} names {name}"
    if module := re.search(r"python -m ([\w.]+)", command.text):
        assert (ROOT / f"{module[1].replace('.', os.sep)}.py").is_file()


@pytest.mark.parametrize(
    "block",
    [one for one in python_blocks() if one.page != "docs/clients.md"],
    ids=lambda one: f"{one.page}: {one.text[:40]}",
)
def test_a_block_of_python_runs(server: Server, checkouts: dict[str, Path], block: Command) -> None:
    """Those of clients.md run in test_clients.py, which also checks what they print."""
    if "s3://" in block.text:  # a bucket that is not here
        compile(block.text, block.page, "exec")
        return
    run(server, checkouts[block.page], [sys.executable, "-c", at(server, block.text)])
