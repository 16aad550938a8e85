"""Start and end of a process: signals at any moment of the start, and commands that end when their work is done."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from app.settings import load_settings
from tests.environment import environment
from tests.server import ROOT, serving, spawn

SERVE = [sys.executable, "-m", "app", "serve", "--port", "0"]
AS_PROCESS_1 = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
BOOT_S = 0.3
"""Before this time process 1 has no signal handler: Python itself is starting. The image has an init for it."""

DEADLINE_S = 8.0
"""After a lost signal the process never ends; else it ends within half a second on an idle machine."""


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*AS_PROCESS_1, "true"], capture_output=True, check=False).returncode == 0


def child_of(process: subprocess.Popen[str]) -> int:
    """Return the id of the process that `unshare` has started."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    end = time.monotonic() + 30
    while not (children := path.read_text().split()):
        assert time.monotonic() < end
        time.sleep(0.001)
    return int(children[0])


def ends_by(number: signal.Signals, after_s: float, first: bool = False) -> str:
    """Start a server, send it a signal after some seconds, wait for its end and return what it has printed."""
    command = [*AS_PROCESS_1, *SERVE] if first else SERVE
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        target = child_of(process) if first else process.pid
        time.sleep(after_s)
        os.kill(target, number)
        _, printed = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == (128 + number if first else -number), printed
    return printed


def at_random_moments(count: int, least_s: float, span_s: float, first: bool = False) -> None:
    moments = random.Random(0)
    for turn in range(count):
        number = (signal.SIGTERM, signal.SIGINT)[turn % 2]
        printed = ends_by(number, moments.uniform(least_s, span_s), first)
        if str(ROOT / "app") not in printed and printed.endswith("KeyboardInterrupt\n"):
            continue  # while Python itself was starting, before it has run any line of the service
        for word in ("Traceback", "Aborted", "Exception"):
            assert word not in printed, printed


def test_a_signal_ends_the_start_at_any_moment() -> None:
    at_random_moments(8, 0.1, 3.0)


def test_a_signal_ends_process_1_at_any_moment() -> None:
    if not can_unshare():
        pytest.skip("this user may not make a process namespace")
    at_random_moments(8, BOOT_S, 3.0, first=True)


def test_nothing_slow_is_imported_before_signals_are_handled() -> None:
    code = "import sys; before = set(sys.modules); import app.__main__; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - {"enum", "types", "operator", "functools"} == {
        *("app", "app.__main__", "app.threads", "app.threads.openmp", "signal"),
    }


@pytest.mark.soak
def test_signals_of_the_first_five_seconds() -> None:
    at_random_moments(100, 0.0, 5.0)
    if can_unshare():
        at_random_moments(100, BOOT_S, 5.0, first=True)


def test_a_weights_file_that_blocks_does_not_keep_the_process(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(ROOT / "weights" / "vit-small-tiny-imagenet" / "config.json", folder)
    os.mkfifo(folder / "model.safetensors")
    with serving(tmp_path / "log", ready=False, model=folder) as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE_S) in (-signal.SIGTERM, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_healthy_server_ends_without_a_traceback(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path / "log") as server:
        server.process.send_signal(number)
        assert server.process.wait(30) == -number
    for word in ("Traceback", "Aborted", "Exception", "Error"):
        assert word not in server.log.read_text()


def test_what_the_tests_start_takes_signals_even_if_their_own_run_ignores_them() -> None:
    """A script runs the tests with `&`: its shell ignores SIGINT for them."""
    child = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    run = f"""
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from tests.environment import defined
with defined():
    subprocess.run([sys.executable, "-c", {child!r}], check=True)
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""
    done = subprocess.run([sys.executable, "-c", run], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """`nohup` and a shell's `&` start processes with ignored signals."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with serving(tmp_path / "log") as server:
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert server.process.poll() is None
    finally:
        signal.signal(signal.SIGINT, before)


def cpu_free_seconds(command: list[str]) -> float:
    """Return how many seconds a command waits: its wall time without its processor time."""
    before = os.times()
    started = time.monotonic()
    subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, check=True, timeout=120)
    took = time.monotonic() - started
    after = os.times()
    return took - (after.children_user - before.children_user) - (after.children_system - before.children_system)


def test_a_command_ends_when_its_work_is_done() -> None:
    """A command that opens a checkpoint waits no longer than a few times what the import of torch does.

    The log handler once waited for four seconds at the end of each command.
    """
    plain = min(cpu_free_seconds([sys.executable, "-c", "import torch"]) for _ in range(3))
    inspect = [sys.executable, "-m", "app", "inspect", "weights/vit-small-tiny-imagenet"]
    ours = min(cpu_free_seconds(inspect) for _ in range(3))
    assert ours < 3 * max(plain, 0.3), (ours, plain)


def test_a_wrong_path_is_reported_before_the_port_is_bound(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*SERVE, "--model", str(tmp_path / "nowhere")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "nowhere" in ended.stderr
    assert "listening" not in ended.stderr


def test_the_listening_line_names_a_url_to_open(tmp_path: Path) -> None:
    with serving(tmp_path / "log", ready=False, host="0.0.0.0") as server:
        assert re.search(rf"listening on http://localhost:{server.port}\b", server.log.read_text())


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_an_ipv6_address_may_be_in_brackets_and_is_in_what_is_printed(tmp_path: Path) -> None:
    try:
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("there is no IPv6")
    with taken, (tmp_path / "log").open("w") as log:
        port = taken.getsockname()[1]
        process = spawn(log, host="::1", port=port)
        assert process.wait(60) == 1
        assert f"cannot listen on [::1]:{port}: " in (tmp_path / "log").read_text()
    for host in ("[::1]", "::1"):
        with (tmp_path / "log").open("w") as log:
            process = spawn(log, host=host, port=0)
        try:
            end = time.monotonic() + 60
            while not (found := re.search(r"listening on (http://\[::1\]:\d+), ", (tmp_path / "log").read_text())):
                assert time.monotonic() < end, (tmp_path / "log").read_text()
                time.sleep(0.05)
            assert httpx.get(f"{found[1]}/healthz").status_code == 200
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.parametrize(("host", "meant"), [("[::1]", "::1"), ("[::]", "::"), ("::", "::"), ("0.0.0.0", "0.0.0.0")])
def test_a_host_is_read_with_or_without_brackets(host: str, meant: str) -> None:
    assert load_settings({"VITRINE_HOST": host})[0].host == meant
