"""Make a collection of small images, and run the command line over it."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.environment import environment
from tests.server import ROOT

FAST = ("--size", "14")
"""One patch, the fastest size: a run does the same at every size."""


def generate(folder: Path, count: int, bad: Sequence[int] = ()) -> Path:
    """Write `count` different images in folders of a thousand. Those at the indices `bad` are not images."""
    for index in range(count):
        path = folder / f"{index // 1000:03d}" / f"{index:06d}.png"
        if index % 1000 == 0:
            path.parent.mkdir(parents=True)
        if index in bad:
            path.write_bytes(b"no picture")
        else:
            Image.fromarray(np.random.default_rng(index).integers(0, 256, (14, 14, 3), np.uint8)).save(path)
    return folder


def start(command: str, *arguments: object, output: int = subprocess.PIPE, **settings: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "app", command, *map(str, arguments)]
    return subprocess.Popen(
        line, cwd=ROOT, env=environment(**settings), stdout=output, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], timeout_s: float = 600) -> tuple[int, str]:
    """Return the exit code and what was printed, on standard output or standard error."""
    printed, _ = process.communicate(timeout=timeout_s)
    return process.returncode, printed


def vitrine(command: str, *arguments: object, **settings: object) -> tuple[int, str]:
    return finish(start(command, *arguments, output=subprocess.PIPE, **settings))


def kill_after(process: subprocess.Popen[str], part: Path, deadline_s: float = 120) -> None:
    """Kill the process with SIGKILL as soon as this file exists."""
    end = time.monotonic() + deadline_s
    while not part.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    process.communicate()


def rows(table: pa.Table) -> dict[str, list[float]]:
    return dict(zip(table["path"].to_pylist(), table["vector"].to_pylist(), strict=True))


def read(path: Path) -> pa.Table:
    table = pq.read_table(path)
    assert table["path"].to_pylist() == sorted(set(table["path"].to_pylist())), "each file once, in order"
    return table
