"""Start, readiness, drain and stop, with real processes and signals."""

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import MODEL
from tests.environment import environment
from tests.server import ROOT, serving, spawn


def test_the_port_answers_while_the_model_is_loaded(tmp_path: Path, cat: bytes) -> None:
    with serving(tmp_path / "log", ready=False) as server:
        seen = []
        while (response := httpx.get(f"{server.url}/readyz")).status_code != 200:
            seen.append(response.json()["code"])
            assert httpx.get(f"{server.url}/healthz").status_code == 200
            refused = httpx.post(f"{server.url}/classify", content=cat)
            if refused.status_code != 200:
                assert refused.json()["code"] == "loading"
                assert int(refused.headers["retry-after"]) >= 1
        assert set(seen) <= {"loading"}
        assert httpx.post(f"{server.url}/classify", content=cat).status_code == 200


def test_sigterm_answers_what_was_admitted_and_ends(tmp_path: Path, cat: bytes) -> None:
    with serving(tmp_path / "log") as server:
        halfway, stopping = threading.Barrier(5), threading.Event()
        answers: list[int] = []

        def body() -> Iterator[bytes]:
            yield cat[:1000]
            halfway.wait(30)
            assert stopping.wait(30)
            yield cat[1000:]

        def ask() -> None:
            answers.append(httpx.post(f"{server.url}/embed?size=224", content=body(), timeout=60).status_code)

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        halfway.wait(30)
        time.sleep(0.5)  # what was sent has been read
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        stopping.set()
        for client in clients:
            client.join(60)
        assert server.process.wait(30) in (0, -signal.SIGTERM)
        assert answers == [200] * 4


def end(tmp_path: Path, **settings: object) -> tuple[int, str]:
    """The exit code and the output of a server that should not stay."""
    log = tmp_path / "log"
    with log.open("w") as file:
        code = spawn(file, **settings).wait(60)
    return code, log.read_text()


def test_a_port_that_is_taken_ends_the_start_before_the_model_is_read(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, output = end(tmp_path, port=taken.getsockname()[1])
    assert code == 1
    assert "cannot listen" in output
    assert "loading" not in output
    assert "Traceback" not in output


@pytest.mark.parametrize("fault", ["nowhere", "empty", "cut"])
def test_a_model_that_cannot_be_loaded_ends_the_process(tmp_path: Path, fault: str) -> None:
    folder = tmp_path / fault
    if fault != "nowhere":
        folder.mkdir()
    if fault == "cut":
        shutil.copy(MODEL / "config.json", folder)
        (folder / "model.safetensors").write_bytes((MODEL / "model.safetensors").read_bytes()[:1_000_000])
    code, output = end(tmp_path, model=folder, port=0)
    assert code != 0
    assert "could not be loaded" in output
    assert fault in output
    assert "Traceback" not in output


def test_compiling_without_a_compiler_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    code, output = end(tmp_path, compile=True, port=0)
    assert code == 1
    assert "needs a C++ compiler" in output
    assert "Traceback" not in output


def test_a_device_that_is_not_there_ends_the_process(tmp_path: Path) -> None:
    code, output = end(tmp_path, device="cuda:99", port=0)
    assert code != 0
    assert "cuda:99" in output
    assert "Traceback" not in output


def test_bad_settings_are_told_all_together(tmp_path: Path) -> None:
    code, output = end(tmp_path, port="abc", max_pixels=-1, dtype="int4", typo=1)
    assert code == 2
    assert len(output.strip().splitlines()) == 4
    for name, value in {"PORT": "abc", "MAX_PIXELS": "-1", "DTYPE": "int4", "TYPO": "1"}.items():
        assert f"VITRINE_{name}={value!r}" in output


def test_the_app_runs_under_any_asgi_server(tmp_path: Path, cat: bytes) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["uvicorn", "--factory", "app.main:create_app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environment())
    try:
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            except httpx.ConnectError:
                pass
            time.sleep(0.1)
        assert httpx.post(f"http://127.0.0.1:{port}/classify", content=cat).status_code == 200
    finally:
        process.terminate()
        process.wait(30)
