"""A real `vitrine serve` process on a real port."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from tests.environment import environment

ROOT = Path(__file__).parent.parent
LISTENING = re.compile(r"listening on http://[^:]+:(\d+)")


@dataclass
class Address:
    """Where a service answers."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Server(Address):
    """The process, and where it answers."""

    process: subprocess.Popen[str]
    log: Path

    def wait_ready(self, deadline_s: float = 60) -> None:
        end = time.monotonic() + deadline_s
        # One for all: to make one costs what half a start-up's core can do.
        with httpx.Client(timeout=deadline_s) as client:
            while client.get(f"{self.url}/readyz").status_code != 200:
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.05)


def spawn(log: IO[str], **settings: object) -> subprocess.Popen[str]:
    """`module` among the settings is what is run in the place of `vitrine`."""
    command = [sys.executable, "-m", str(settings.pop("module", "app")), "serve"]
    return subprocess.Popen(command, cwd=ROOT, env=environment(**settings), stderr=log, stdout=log, text=True)


@contextmanager
def serving(log: Path, *, ready: bool = True, **settings: object) -> Iterator[Server]:
    """Serve with these settings on a free port; SIGTERM at the end."""
    with log.open("w") as file:
        process = spawn(file, port=0, **settings)
    try:
        server = Server(_port(process, log), process, log)
        if ready:
            server.wait_ready()
        yield server
    finally:
        process.terminate()
        process.wait(30)


def _port(process: subprocess.Popen[str], log: Path) -> int:
    end = time.monotonic() + 30
    while not (found := LISTENING.search(log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)
    return int(found[1])
