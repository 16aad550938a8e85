"""Twenty thousand files on one machine and on Ray: complete, equal, in bounded memory, each after a SIGKILL."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

from tests.bounds import assert_equal_in_float32
from tests.bulk.collection import FAST, generate, kill_after, read, start
from tests.deploy.ray.conftest import below, ray_environment
from tests.environment import environment
from tests.server import ROOT

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

FILES = 20_000
BAD = (0, 777, 12_345, 19_999)
ROOM_MB = 64
"""Allowed growth of peak memory for twice as many files, because allocators are not exact."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("pictures"), FILES, BAD)


def peak_mb(line: Sequence[str]) -> float:
    """Return the peak memory of a command, which must succeed."""
    process = subprocess.Popen(line, cwd=ROOT, env=environment(dtype="float32"))
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    process.returncode = 0
    return usage.ru_maxrss / 1024


def test_both_paths_have_the_same_rows(pictures: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.parquet"
    kill_after(start("embed", pictures, "-o", one, *FAST, dtype="float32"), _part(one, 8), 900)
    few = peak_mb(_embed(f"{pictures}/00*/*.png", tmp_path / "few.parquet"))
    rest = peak_mb(_embed(pictures, one))
    again = peak_mb(_embed(pictures, tmp_path / "again.parquet"))
    sys.stderr.write(
        f"peak: {few:.0f} MB of half as many files, {again:.0f} MB of {FILES}, {rest:.0f} MB after a kill\n"
    )
    assert again < few + ROOM_MB

    cluster = tmp_path / "cluster"
    first = _on_ray(pictures, cluster)
    kill_after(first, cluster / "failures" / "00000001.jsonl", 900)
    second = _on_ray(pictures, cluster)
    most = 0
    while second.poll() is None:
        for pid in below(second.pid, b"ray::MapWorker"):
            most = max(most, _high_water_mb(pid))
        try:
            second.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    assert second.returncode == 0
    sys.stderr.write(f"peak of an actor: {most} MB\n")
    assert most < few + 512  # for Ray's own libraries

    actual, expected = read(one), ds.dataset(cluster / "rows", partitioning="hive").to_table().sort_by("path")
    assert len(actual) == FILES - len(BAD)
    assert actual["path"] == expected["path"]
    vectors, others = (np.stack(table["vector"].to_numpy(zero_copy_only=False)) for table in (actual, expected))
    assert_equal_in_float32(vectors, others)
    assert_equal_in_float32(
        vectors, np.stack(read(tmp_path / "again.parquet")["vector"].to_numpy(zero_copy_only=False))
    )
    reports = sum(path.read_text().count("\n") for path in (cluster / "failures").iterdir())
    assert reports == one.with_suffix(".failures.jsonl").read_text().count("\n") == len(BAD)


def _embed(pictures: Path | str, output: Path) -> list[str]:
    return [sys.executable, "-m", "app", "embed", str(pictures), "-o", str(output), *FAST]


def _part(output: Path, number: int) -> Path:
    return output.with_name(f"{output.name}.parts") / f"{number:08d}.jsonl"


def _on_ray(pictures: Path, output: Path) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "deploy.ray.bulk", "embed", str(pictures), "-o", str(output), *FAST]
    settings = ray_environment(dtype="float32")
    return subprocess.Popen(
        line, cwd=ROOT, env=settings, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, text=True
    )


def _high_water_mb(pid: int) -> int:
    try:
        (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    except (OSError, ValueError):
        return 0  # it has ended
    return int(line.split()[1]) // 1024
