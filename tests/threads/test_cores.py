"""The cores that the process may use: affinity, PYTHON_CPU_COUNT, and the quotas of cgroup v1 and v2."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.threads.cores import usable_cores
from tests.environment import environment
from tests.server import ROOT, serving

MANY = "64"


def machine(root: Path, group: str, files: dict[str, str]) -> Path:
    """A root with /proc/self/cgroup and these files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(group)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 64), ("50000 100000", 1), ("100000 100000", 1), ("250000 100000", 2), ("9900000 100000", 64)],
)
def test_a_quota_of_cgroup_v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", MANY)
    assert usable_cores(machine(tmp_path, "0::/\n", {"cpu.max": f"{quota}\n"})) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 64), ("50000", 1), ("350000", 3)])
def test_a_quota_of_cgroup_v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", MANY)
    files = {"cpu/docker/7/cpu.cfs_quota_us": quota, "cpu/docker/7/cpu.cfs_period_us": "100000"}
    assert usable_cores(machine(tmp_path, "4:cpu,cpuacct:/docker/7\n3:memory:/docker/7\n", files)) == cores


def test_the_least_of_all_groups_above_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", MANY)
    files = {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000", "a/b/c/cpu.max": "400000 100000"}
    assert usable_cores(machine(tmp_path, "0::/a/b/c\n", files)) == 2


def test_a_container_reads_its_own_group_at_the_root_of_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", MANY)
    assert usable_cores(machine(tmp_path, "0::/system.slice/of-the-host\n", {"cpu.max": "300000 100000"})) == 3


@pytest.mark.parametrize("text", ["", "nonsense", "1 2 3", "100000 0"])
def test_a_file_that_cannot_be_understood_limits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", MANY)
    assert usable_cores(machine(tmp_path, "0::/\n", {"cpu.max": text})) == int(MANY)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_affinity_counts() -> None:
    one = min(os.sched_getaffinity(0))
    pin = f"import os; os.sched_setaffinity(0, {{{one}}})"
    script = f"{pin}; from app.threads.cores import usable_cores; print(usable_cores())"
    kept = {name: value for name, value in environment().items() if name != "PYTHON_CPU_COUNT"}
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=kept, capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout == "1\n"


def test_the_start_line_and_the_model_say_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with serving(tmp_path / "log", torch_threads="", decode_threads="") as server:
        assert httpx.get(f"{server.url}/model").json()["threads"] == {"forward": 1, "decode": 1}
        assert "threads: 1 for up to 1 forward passes at once, 1 for decoding" in server.log.read_text()
