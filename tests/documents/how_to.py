"""Run a how-to as a reader does: its blocks one after the other, in one folder, against the servers that it starts."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.commands import split
from tests.documents.test_commands import PRELUDE
from tests.environment import environment
from tests.server import LISTENING, ROOT

HOW_TO = ROOT / "docs" / "how-to"
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
ELSEWHERE = re.compile(r"^(\w+=\S* )*(docker|pip) ")
SERVE = re.compile(r"\bvitrine serve\b(?: --port (\d+))?")
USUAL_PORT = 8000
OUTPUT = re.compile(r"^\s*# (.*)$", re.MULTILINE)
"""A comment on a line of its own is what the block prints."""


@dataclass(frozen=True)
class Block:
    """A block of a page."""

    language: str
    text: str


def page(name: str) -> str:
    """Return the text of a how-to."""
    return (HOW_TO / f"{name}.md").read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """Return the blocks of a page, in order; those in lists without their indentation."""
    return [Block(language, textwrap.dedent(content)) for _, language, content in BLOCK.findall(text)]


@contextmanager
def process(folder: Path, log: Path, command: str, **settings: object) -> Iterator[subprocess.Popen[str]]:
    """Run a command that does not end by itself; end it, and what it has started."""
    with log.open("w") as file:
        started = subprocess.Popen(
            ["bash", "-c", f"{PRELUDE}\n{command}"],
            cwd=folder,
            env=surroundings(**settings),
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
    try:
        yield started
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait(30)


def surroundings(**settings: object) -> dict[str, str]:
    """Return the environment of a reader's shell: this tree is importable, whatever the folder is."""
    return environment(**settings) | {"PYTHONPATH": str(ROOT)}


class Reader:
    """Somebody who follows a page in a folder.

    Args:
        folder: where the commands run; gets the repository's examples, and a folder of photos.
        preludes: code that runs before a Python block, by the block's number: what the page takes for granted.
        joined: whether each Python block goes on from those before it.
    """

    def __init__(self, folder: Path, preludes: Mapping[int, str] | None = None, *, joined: bool = False) -> None:
        self.folder = folder
        self.ports: dict[int, int] = {}
        """The port of each server, by the port that the page names."""
        self._preludes, self._joined = preludes or {}, joined
        self._python: list[str] = []
        self._servers: dict[int, ExitStack] = {}
        (folder / "examples").symlink_to(ROOT / "examples")
        (folder / "photos").mkdir()
        for picture in (ROOT / "examples").glob("*.*g"):
            (folder / "photos" / picture.name).symlink_to(picture)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.close()

    def follow(self, text: str) -> None:
        """Run all blocks of a page."""
        for block in blocks(text):
            if block.language == "python":
                self.run_python(block.text)
            elif block.language == "sh":
                for command in split(block.text):
                    self.run_command(command)

    def run_python(self, text: str) -> str:
        """Run a block, and return what it prints: the comments that stand on lines of their own, where it has any."""
        number = len(self._python)
        self._python.append(text)
        code = "\n".join(self._python) if self._joined else text
        printed = self._run([sys.executable, "-c", self.here(self._preludes.get(number, "") + code)])
        expected = OUTPUT.findall(code)
        assert [line for line in printed.splitlines() if line in expected] == expected, printed
        return printed

    def run_command(self, command: str) -> None:
        """Run a command of the shell, or start the server that it starts."""
        if ELSEWHERE.match(command):
            return
        if found := SERVE.search(command):
            self.serve(command.replace(found[0], "vitrine serve --port 0"), int(found[1] or USUAL_PORT))
        else:
            assert self._run(["bash", "-c", PRELUDE + self.here(command)]) or " -o " in command, command

    def here(self, text: str) -> str:
        """Replace the ports of the page by those of the servers that run."""
        for usual, port in self.ports.items():
            text = text.replace(f"localhost:{usual}", f"127.0.0.1:{port}")
        return text

    def serve(self, command: str, usual: int) -> None:
        """Start a server; one that was started on the same port before is stopped."""
        if usual in self._servers:
            self._servers.pop(usual).close()
        log = self.folder / f"log-{usual}"
        server = self._servers[usual] = ExitStack()
        started = server.enter_context(process(self.folder, log, f'exec_vitrine() {{ vitrine "$@"; }}\n{command}'))
        end = time.monotonic() + 120
        while not (found := LISTENING.search(log.read_text())) or not answers(int(found[1])):
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        self.ports[usual] = int(found[1])

    def _run(self, command: list[str]) -> str:
        ended = subprocess.run(
            command,
            cwd=self.folder,
            env=surroundings(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert ended.returncode == 0, f"{command[-1]}\n{ended.stderr}"
        return ended.stdout + ended.stderr


def answers(port: int) -> bool:
    """Return whether the service on this port is ready."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").is_success
    except httpx.TransportError:
        return False
