"""The services that are compared, as processes on free ports, and what they cost the machine."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from benchmarks import load
from tests.environment import AS_IT_COMES, environment
from tests.server import ROOT, serving

TICKS = os.sysconf("SC_CLK_TCK")
PLAIN, LIT = "FastAPI + transformers", "LitServe + transformers"


@dataclass(frozen=True)
class Service:
    """A process that answers POST /classify."""

    name: str
    port: int
    pid: int

    def scores(self, picture: bytes) -> dict[int, float]:
        """Its five best classes of a picture, by their indices."""
        answer = orjson.loads(load.ask(self.port, load.request("/classify", picture)))
        best = (answer["results"][0] if "results" in answer else answer)["predictions"]
        return {prediction["index"]: prediction["score"] for prediction in best}

    def metric(self, name: str) -> float:
        """One of Vitrine's metrics, over all its labels."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics").text
        return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{name}[{{ ]", line))

    @contextmanager
    def halted(self) -> Iterator[None]:
        """It and its children take no time of the processor, as some do even where nobody asks them."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in (self.pid, *_descendants(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def cpu_s(self) -> float:
        """Seconds of the processor that it and its children have taken."""
        return sum(_cpu_s(Path(f"/proc/{pid}/stat")) for pid in (self.pid, *_descendants(self.pid)))

    def threads_cpu_s(self) -> dict[int, float]:
        """The same of each of its own threads; the first one's number is the process'."""
        return {int(task.name): _cpu_s(task / "stat") for task in Path(f"/proc/{self.pid}/task").iterdir()}


def _fields(stat: Path) -> list[str]:
    """The fields of a `stat` from the state on: the name before may have spaces in it (proc_pid_stat(5))."""
    return stat.read_text().rpartition(") ")[2].split()


def _cpu_s(stat: Path) -> float:
    user, system = _fields(stat)[11:13]
    return (int(user) + int(system)) / TICKS


def _descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # one that has just ended
            parents[int(process.name)] = int(_fields(process / "stat")[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [child for one in found for child in _descendants(one)]


@contextmanager
def vitrine(model: Path, folder: Path, **settings: Any) -> Iterator[Service]:
    """Vitrine with this checkpoint."""
    with serving(folder / "vitrine.log", model=model, **AS_IT_COMES | settings) as server:
        yield Service("Vitrine", server.port, server.process.pid)


@contextmanager
def plain(model: Path, folder: Path) -> Iterator[Service]:
    """What one would write first."""
    with _running(PLAIN, ["uvicorn", "benchmarks.plain:app", "--log-level", "error", "--port"], model, folder) as it:
        yield it


@contextmanager
def lit(model: Path, folder: Path) -> Iterator[Service]:
    """LitServe."""
    with _running(LIT, ["benchmarks.lit"], model, folder) as it:
        yield it


@contextmanager
def _running(name: str, module: Sequence[str], model: Path, folder: Path) -> Iterator[Service]:
    """A module that takes its port as the last argument."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *module, str(port)]
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(**AS_IT_COMES) | {"MODEL": str(model)}, stdout=log, stderr=log
        )
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, folder / f"{name}.log")
        yield Service(name, port, process.pid)
    finally:
        children = _descendants(process.pid)
        for pid in (process.pid, *children):
            with suppress(ProcessLookupError):  # a child may have ended with its parent
                os.kill(pid, signal.SIGTERM)
        process.wait(30)


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 120
    while True:
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(log.read_text())
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
