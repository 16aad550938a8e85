"""Docker and Compose, by their command lines, and a file tree to build from."""

import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.docker.context import context
from tests.server import ROOT

PROJECT = "vitrine-check"
IMAGE = "vitrine:check"
SAID_TO_THE_ENGINE = ("Dockerfile", ".dockerignore", "docker-compose.yml")
"""What tells how to build and run; what the image is made of is .dockerignore's to say."""


def docker(*arguments: str, check: bool = True) -> str:
    """What `docker ARGUMENTS` prints, both streams."""
    ended = subprocess.run(
        ["docker", *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if check and ended.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)} ended with {ended.returncode}:\n{ended.stdout[-4000:]}")
    return ended.stdout


def copy_of_the_tree(folder: Path) -> Path:
    """What the image is built from, so that a change of it changes nothing here."""
    tree = folder / "tree"
    for path in (*context(ROOT), *map(Path, SAID_TO_THE_ENGINE)):
        (tree / path.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tree / path)
    (tree / "checkpoints").mkdir()  # docker-compose.yml mounts it
    return tree


@dataclass
class Compose:
    """One project, brought up from a copy of the tree under a name and a port of its own.

    `settings` are VITRINE_* variables of the service; those of whoever runs this are not handed on.
    """

    tree: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: Path) -> "Compose":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return cls(tree, free.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def container(self) -> str:
        return self("ps", "-q", "vitrine").strip().splitlines()[-1]

    def __call__(self, *arguments: str) -> str:
        """What `docker compose ARGUMENTS` prints."""
        files = ["-f", "docker-compose.yml"]
        if network := os.environ.get("BUILD_NETWORK"):  # `host` where containers reach no network while building
            (self.tree / "build.yml").write_text(f"services: {{vitrine: {{build: {{network: {network}}}}}}}\n")
            files += ["-f", "build.yml"]
        own = {"PUBLISH": f"127.0.0.1:{self.port}", "IMAGE": IMAGE}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("VITRINE_")}
        ended = subprocess.run(
            [*compose_command(), "-p", PROJECT, *files, *arguments],
            cwd=self.tree,
            env=kept | own | self.settings,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if ended.returncode:
            raise RuntimeError(f"compose {' '.join(arguments)} ended with {ended.returncode}:\n{ended.stdout[-4000:]}")
        return ended.stdout


def compose_command() -> list[str]:
    """Compose v2 where there is one, else docker-compose."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]


def stopped_within(container: str, since: datetime) -> float:
    """The seconds from then to the container's end, by the engine's clock; waits for it."""
    docker("wait", container)
    return (datetime.fromisoformat(inspect(container)["State"]["FinishedAt"]) - since).total_seconds()


def inspect(container: str) -> dict[str, Any]:
    """Everything that the engine knows of a container or an image."""
    facts: dict[str, Any] = json.loads(docker("inspect", container))[0]
    return facts


def wait_healthy(container: str, deadline_s: float = 120) -> float:
    """Wait for the image's own health check to say so; the seconds that it took."""
    started = time.monotonic()
    while (state := inspect(container)["State"])["Health"]["Status"] != "healthy":
        if state["Status"] != "running" or time.monotonic() - started > deadline_s:
            raise RuntimeError(f"{state}\n{docker('logs', container)[-4000:]}")
        time.sleep(0.2)
    return time.monotonic() - started


def wait_ready(url: str, deadline_s: float = 120) -> None:
    """Wait until the published port answers."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > end:
            raise RuntimeError(f"{url} is not ready after {deadline_s} s")
        time.sleep(0.2)


def log_lines(container: str) -> list[dict[str, Any]]:
    """The container's log; every line of it has to be JSON."""
    return [json.loads(line) for line in docker("logs", container).splitlines()]
