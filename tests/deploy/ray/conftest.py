"""Fixtures for tests with Ray, if it is installed (requirements/ray.txt)."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.deploy.ray.cluster import request
from tests.environment import environment
from tests.server import ROOT

REPLICA = b"ray::ServeReplica:vitrine:vitrine"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip every test here, with a reason, if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="Ray is not installed: pip install -r requirements/ray.txt"))


def ray_environment(**settings: object) -> dict[str, str]:
    """Return the environment, without usage statistics and colours."""
    return environment(**settings) | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_COLOR_PREFIX": "0", "PYTHONPATH": str(ROOT)}


def below(ancestor: int, title: bytes) -> list[int]:
    """Return the descendants of a process whose title begins like this."""
    parents: dict[int, int] = {}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if (folder / "cmdline").read_bytes().startswith(title):
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended

    def is_below(pid: int) -> bool:
        while pid not in (0, ancestor):
            pid = parents.get(pid, 0)
        return pid == ancestor

    return sorted(pid for pid in found if is_below(pid))


@dataclass
class Cluster:
    """A local Ray cluster that runs the service."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def deploy(self, replicas: int, **settings: object) -> None:
        """Deploy the service, and wait until it is running."""
        request(self.process, replicas, **settings)

    def replicas(self) -> list[int]:
        """Return the process ids of the replicas."""
        return below(self.process.pid, REPLICA)

    def wait_for_replicas(self, count: int, other_than: int = 0, deadline_s: float = 120) -> list[int]:
        end = time.monotonic() + deadline_s
        while len(found := self.replicas()) != count or other_than in found:
            assert time.monotonic() < end, f"{found}: {self.log.read_text()[-4000:]}"
            time.sleep(0.2)
        return found


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two replicas with one thread each, like the service without Ray in these tests."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.deploy.ray.cluster", str(port)],
            cwd=ROOT,
            env=ray_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            process_group=0,
        )
    running = Cluster(process, port, log)
    try:
        running.deploy(2, torch_threads=1)
        yield running
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def ray_client(cluster: Cluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.url, timeout=60) as session:
        yield session
