"""The services to compare, as processes on free ports, and the processor time that they use."""

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
    """A running service that answers POST /classify."""

    name: str
    port: int
    pid: int

    def scores(self, picture: bytes) -> dict[int, float]:
        """Return the scores of the top five classes of a picture, by class index."""
        answer = orjson.loads(load.ask(self.port, load.request("/classify", picture)))
        predictions = (answer["results"][0] if "results" in answer else answer)["predictions"]
        return {prediction["index"]: prediction["score"] for prediction in predictions}

    @property
    def dtype(self) -> str:
        """What Vitrine computes in."""
        return str(httpx.get(f"http://127.0.0.1:{self.port}/model").json()["dtype"])

    def metric(self, name: str) -> float:
        """Return the sum of one of Vitrine's metrics over its labels."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics").text
        return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{name}[{{ ]", line))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the process and its children; some use processor time even without requests."""
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
        """Return the processor time of the process and its children, in seconds."""
        return sum(_cpu_s(Path(f"/proc/{pid}/stat")) for pid in (self.pid, *_descendants(self.pid)))

    def threads_cpu_s(self) -> dict[int, float]:
        """Return each thread's processor time in seconds, by thread id; the main thread has the id of the process."""
        return {int(task.name): _cpu_s(task / "stat") for task in Path(f"/proc/{self.pid}/task").iterdir()}


def _fields(stat: Path) -> list[str]:
    """Return the fields of a `stat` file after the name, which can contain spaces (proc_pid_stat(5))."""
    return stat.read_text().rpartition(") ")[2].split()


def _cpu_s(stat: Path) -> float:
    user, system = _fields(stat)[11:13]
    return (int(user) + int(system)) / TICKS


def _descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has just ended
            parents[int(process.name)] = int(_fields(process / "stat")[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [child for one in found for child in _descendants(one)]


@contextmanager
def vitrine(model: Path, folder: Path, **settings: Any) -> Iterator[Service]:
    """Run Vitrine with this checkpoint."""
    with serving(folder / "vitrine.log", model=model, **AS_IT_COMES | settings) as server:
        yield Service("Vitrine", server.port, server.process.pid)


@contextmanager
def plain(model: Path, folder: Path) -> Iterator[Service]:
    """Run the simplest service, of FastAPI and transformers."""
    with _running(
        PLAIN, ["uvicorn", "benchmarks.plain:app", "--log-level", "error", "--port"], model, folder
    ) as service:
        yield service


@contextmanager
def lit(model: Path, folder: Path) -> Iterator[Service]:
    """Run LitServe with transformers."""
    with _running(LIT, ["benchmarks.lit"], model, folder) as service:
        yield service


@contextmanager
def vino(name: str, model: Path, folder: Path, hint: str, precision: str) -> Iterator[Service]:
    """Run FastAPI with OpenVINO, with a model that `benchmarks.vino_model` has written."""
    module = ["uvicorn", "benchmarks.vino:app", "--log-level", "error", "--port"]
    with _running(name, module, model, folder, HINT=hint, PRECISION=precision) as service:
        yield service


def run_once(module: str, *arguments: str) -> None:
    """Run a module to its end, in a process of its own. Raises RuntimeError with what it has printed."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def _environment() -> dict[str, str]:
    """CI: NNCF sends no usage statistics from there."""
    return environment(**AS_IT_COMES) | {"CI": "true"}


@contextmanager
def _running(name: str, module: Sequence[str], model: Path, folder: Path, **variables: str) -> Iterator[Service]:
    """Run a module that takes its port as the last argument."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *module, str(port)]
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_environment() | {"MODEL": str(model)} | variables, stdout=log, stderr=log
        )
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, folder / f"{name}.log")
        yield Service(name, port, process.pid)
    finally:
        children = _descendants(process.pid)
        for pid in (process.pid, *children):
            with suppress(ProcessLookupError):  # a child can end with its parent
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
