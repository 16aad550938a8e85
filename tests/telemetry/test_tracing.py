"""Spans by OpenTelemetry's own zero-code instrumentation, where it is installed."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.telemetry import tracing
from tests.environment import environment
from tests.server import ROOT

INSTRUMENT = Path(sys.executable).parent / "opentelemetry-instrument"


def test_without_a_set_up_nothing_is_recorded() -> None:
    tracing.record_steps({"decode": 1.0}, {"decode": 0.5}, {"images": 1})
    assert tracing.trace_id() is None


@pytest.mark.skipif(not INSTRUMENT.exists(), reason="opentelemetry-distro is not installed")
def test_each_request_is_a_span_with_its_steps_below(tmp_path: Path, cat: bytes) -> None:
    settings = environment(port=0) | {
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    log, out = tmp_path / "log", tmp_path / "spans"
    command = [str(INSTRUMENT), sys.executable, "-m", "app", "serve"]
    with log.open("w") as errors, out.open("w") as spans:
        process = subprocess.Popen(command, cwd=ROOT, env=settings, stdout=spans, stderr=errors)
    try:
        url = f"http://127.0.0.1:{_port(log, process)}"
        while httpx.get(f"{url}/readyz").status_code != 200:
            time.sleep(0.1)
        answer = httpx.post(f"{url}/classify", content=cat, headers={"X-Request-ID": "mine"}, timeout=60)
        assert answer.status_code == 200
    finally:
        process.terminate()
        process.wait(30)
    found = _spans(out.read_text())
    (request,) = [span for span in found if span["attributes"].get("vitrine.request_id") == "mine"]
    assert (request["attributes"]["vitrine.images"], request["attributes"]["vitrine.tokens"]) == (1, 65)
    steps = {span["name"]: span for span in found if span["parent_id"] == request["context"]["span_id"]}
    assert set(tracing.STEPS) <= set(steps)
    times = [steps[name][when] for name in tracing.STEPS for when in ("start_time", "end_time")]
    assert request["start_time"] <= times[0]
    assert times[-1] <= request["end_time"]
    assert times == sorted(times)
    (line,) = [line for line in map(json.loads, log.read_text().splitlines()) if line.get("request_id") == "mine"]
    assert f"0x{line['trace_id']}" == request["context"]["trace_id"]


def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + 60
    while not (found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end
        time.sleep(0.05)
    return int(found[1])


def _spans(text: str) -> list[dict[str, Any]]:
    """The console exporter writes one JSON document after another."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        span, end = decoder.raw_decode(text)
        found.append(span)
        text = text[end:]
    return found


def test_the_command_that_the_page_names_is_the_one_that_is_tested() -> None:
    assert "opentelemetry-instrument vitrine serve" in (ROOT / "docs" / "operations.md").read_text()
