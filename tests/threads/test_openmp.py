"""OpenMP's threads do not spin for long, and no thread that answers requests is niced."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import ROOT, Address, Server

SHOW = "import os, sys, app; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"


@pytest.mark.parametrize(
    ("operator", "expected"),
    [({}, "2000 False"), ({"GOMP_SPINCOUNT": "7"}, "7 False"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None False")],
    ids=str,
)
def test_waiting_is_decided_before_torch_is_imported_unless_an_operator_has(
    operator: dict[str, str], expected: str
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    command = [sys.executable, "-c", SHOW]
    shown = subprocess.run(command, cwd=ROOT, env=clean | operator, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a niceness for each thread")
def test_no_thread_that_answers_has_a_lower_priority(server: Address) -> None:
    """The one that fits heads takes what the others leave."""
    if not isinstance(server, Server):
        pytest.skip("the service does not run on this machine")
    tasks = list(Path(f"/proc/{server.process.pid}/task").iterdir())
    names = {int(task.name): (task / "comm").read_text().strip() for task in tasks}
    answering = {thread: name for thread, name in names.items() if not name.startswith("heads")}
    assert "device" in answering.values()
    niceness = {os.getpriority(os.PRIO_PROCESS, thread) for thread in answering}
    assert niceness == {os.getpriority(os.PRIO_PROCESS, 0)}
