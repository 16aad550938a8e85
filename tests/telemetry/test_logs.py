"""Log lines: one for each request, structured, and never in anybody's way."""

import json
import logging
import os
import resource
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx

from app.telemetry import logs
from tests.environment import environment
from tests.server import ROOT, serving


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_each_request_is_one_line_of_json(tmp_path: Path, cat: bytes) -> None:
    with serving(tmp_path / "log") as server:
        files = [("image", ("secret-name.png", cat)), ("image", ("other.png", b"no picture"))]
        httpx.post(f"{server.url}/classify", files=files, headers={"X-Request-ID": "mine", "User-Agent": "spy"})
        httpx.post(f"{server.url}/embed?size=0", content=cat, headers={"X-Request-ID": "not\tharmless"})
        httpx.get(f"{server.url}/secret-path")
    first, second, third = (
        line for line in lines(server.log) if line["message"] == "request" and line["route"] != "/readyz"
    )
    assert first["request_id"] == "mine"
    assert (first["method"], first["route"], first["status"]) == ("POST", "/classify", 200)
    assert (first["images"], first["failed"], first["tokens"]) == (2, 1, 65)
    steps = [first[f"{step}_ms"] for step in ("receive", "decode", "queue", "forward")]
    assert all(step >= 0 for step in steps)
    assert sum(steps) <= first["total_ms"] + 1
    assert (second["status"], second["problem"]) == (422, "invalid_parameter")
    assert (third["status"], third["route"]) == (404, None)
    for word in ("secret", "spy", "harmless", "no picture"):
        assert word not in server.log.read_text()


def test_text_is_for_reading() -> None:
    record = logging.LogRecord("vitrine.access", logging.INFO, "", 0, "request", (), None)
    record.fields = {"method": "POST", "route": "/classify", "status": 200}
    assert logs.TextLines().format(record).endswith(" INFO request method=POST route=/classify status=200")


def test_an_error_is_one_line_with_the_end_of_its_trace() -> None:
    formatter = logs.JsonLines()
    try:
        raise ValueError("x" * 2 * logs.TRACE_CHARACTERS + " the end")
    except ValueError:
        record = logging.LogRecord("vitrine", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    line = formatter.format(record)
    assert "\n" not in line
    assert json.loads(line)["error"].endswith("the end")
    assert len(line) < logs.TRACE_CHARACTERS + 200


def test_a_reader_who_does_not_read_costs_lines_and_nothing_else() -> None:
    reader, writer = os.pipe()
    handler = logs.QueuedHandler(writer)
    handler.setFormatter(logs.JsonLines())
    logger = logging.Logger("stuck")
    logger.addHandler(handler)
    asked = logs.QUEUED_LINES + 5000
    started = time.monotonic()
    for number in range(asked):
        logger.info("line %d", number)
    assert time.monotonic() - started < 10
    assert 0 < handler.dropped <= 5000
    # Once somebody reads again, everything that was kept comes, and how much was not.
    read = b""
    with os.fdopen(reader, "rb") as pipe:
        while b"were dropped" not in read:
            read += os.read(pipe.fileno(), 65536)
        kept = asked - handler.dropped
        while read.count(b"\n") < kept + 1:
            read += os.read(pipe.fileno(), 65536)
    messages = [json.loads(line)["message"] for line in read.splitlines()]
    assert f"{handler.dropped} log lines were dropped" in messages
    assert sum(message.startswith("line ") for message in messages) == kept
    handler.close()
    os.close(writer)


def test_a_full_pipe_stops_neither_answers_nor_the_end(cat: bytes) -> None:
    """Nobody reads the log from the moment that the server listens: it answers on, and ends when it is told to."""
    command = [sys.executable, "-m", "app", "serve", "--port", "0", "--log-level", "debug"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        first = process.stderr.readline().decode()
        url = f"http://127.0.0.1:{first.split('127.0.0.1:')[1].split(',')[0]}"
        with httpx.Client(base_url=url, timeout=30) as client:
            name = "n" * 64
            for _ in range(600):  # more than the pipe's 64 KiB
                client.get("/healthz", headers={"X-Request-ID": name})
            while client.get("/readyz").status_code != 200:
                time.sleep(0.1)
            assert client.post("/classify", content=cat).status_code == 200
        process.terminate()
        assert process.wait(30) in (0, -15)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_process_without_file_descriptors_says_so_once_a_minute(tmp_path: Path) -> None:
    def warnings() -> list[str]:
        found = [line["message"] for line in lines(server.log)]
        return [message for message in found if message.startswith("no file descriptors are left")]

    with serving(tmp_path / "log") as server, ExitStack() as connections:
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (64, hard))
        for _ in range(100):
            connections.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
        end = time.monotonic() + 30
        while not warnings():
            assert time.monotonic() < end
            time.sleep(0.1)
        time.sleep(3)
        assert len(warnings()) == 1
        connections.close()
        end = time.monotonic() + 30
        while True:  # the event loop drops new connections until it has closed these
            with suppress(httpx.TransportError):
                assert httpx.get(f"{server.url}/healthz").status_code == 200
                break
            assert time.monotonic() < end
