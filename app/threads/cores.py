"""Find out how many cores this process may use: on a shared machine or in a container, fewer than the machine has.

The smaller of two limits counts: the scheduler's affinity mask (taskset, cpuset), and the CPU quota of the process's
control group and of every group above it (`docker run --cpus`, a Kubernetes limit). PYTHON_CPU_COUNT, or `-X cpu_count`
from Python 3.13 on, replaces the affinity mask, as in Python itself. A quota of 2.5 cores counts as 2: if one thread is
throttled, all threads at the same barrier wait for it.

Sources: docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max), docs.kernel.org/scheduler/sched-bwc.html (cgroup v1).
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

FILESYSTEM_ROOT = Path("/")


def usable_cores(root: Path = FILESYSTEM_ROOT) -> int:
    """Return the number of cores that threads of this process can keep busy, at least 1.

    Args:
        root: where `proc` and `sys` are mounted; tests pass another directory.
    """
    limits = [float(_affinity()), *_quotas(root)]
    return max(1, int(min(limits)))


def _affinity() -> int:
    forced = os.environ.get("PYTHON_CPU_COUNT", "")
    if forced.isdecimal() and int(forced) > 0:
        return int(forced)
    if hasattr(os, "process_cpu_count"):  # Python 3.13; it knows `-X cpu_count` as well
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota of each control group of the process, in cores."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield from _quotas_above(root / "sys/fs/cgroup", group, _quota_v2)
        elif "cpu" in controllers.split(","):
            yield from _quotas_above(root / "sys/fs/cgroup/cpu", group, _quota_v1)


def _quotas_above(mount: Path, group: str, read: Callable[[Path], float | None]) -> Iterator[float]:
    # A container sees its own group as the root of the mount, but /proc may name it by its path on the host. That path
    # does not exist below the mount, so that only the root has a quota to read.
    folder = mount / group.lstrip("/")
    for path in (folder, *folder.parents):
        quota = read(path)
        if quota is not None:
            yield quota
        if path == mount:
            return


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return None if quota < 0 else quota / period
    except (OSError, ValueError, ZeroDivisionError):
        return None
