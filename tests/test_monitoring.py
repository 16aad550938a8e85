"""The dashboard and the alerts, against the families that are there and against a real Prometheus."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from app.telemetry.metrics import Metrics
from tests.server import ROOT, serving

MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "vitrine.json").read_text())
PANELS = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
(GROUP,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
ALERTS = {rule["alert"]: rule["expr"] for rule in GROUP["rules"]}

FAMILY = re.compile(r"\b((?:vitrine|http|process)_[a-z_]+)\b")
SUFFIX = re.compile(r"_(total|bucket|sum|count)$")


def families(query: str) -> set[str]:
    return {SUFFIX.sub("", name) for name in FAMILY.findall(query)}


@pytest.mark.parametrize("query", [query for _, query in PANELS] + list(ALERTS.values()))
def test_every_query_asks_for_what_is_measured(query: str) -> None:
    measured = {family.name for family in Metrics().registry.collect()}
    assert families(query) <= measured | {"vitrine"}  # the job's own name


def test_every_family_of_the_service_is_drawn() -> None:
    drawn = set().union(*(families(query) for _, query in PANELS))
    own = {family.name for family in Metrics().registry.collect() if family.name.startswith(("vitrine", "http"))}
    assert own <= drawn


def test_the_dashboard_is_one_that_grafana_provisions() -> None:
    """The shape that Grafana's own export has: it could not be loaded into a Grafana where this was written."""
    assert DASHBOARD["uid"] == "vitrine"
    assert DASHBOARD["schemaVersion"] >= 36
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    sources = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text())
    (uid,) = {source["uid"] for source in sources["datasources"]}
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"]["uid"] == uid
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")), reason="Prometheus is not on this machine"
)


@needs_prometheus
def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    for command in (["config", "prometheus.yml"], ["rules", "alerts.yml"]):
        subprocess.run(["promtool", "check", *command], cwd=MONITORING, check=True, capture_output=True)


@needs_prometheus
def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    cases = (ROOT / "tests" / "alerts.yml").read_text().replace("RULES", str(MONITORING / "alerts.yml"))
    assert set(re.findall(r"alertname: (\w+)", cases)) == set(ALERTS)
    (tmp_path / "cases.yml").write_text(cases)
    command = ["promtool", "test", "rules", "cases.yml"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@needs_prometheus
def test_every_panel_has_data_when_the_service_has_been_asked(tmp_path: Path, cat: bytes) -> None:
    with serving(tmp_path / "log", max_queue_tokens=64) as server, prometheus(tmp_path, server.port) as url:
        deadline = time.monotonic() + 40
        empty = dict(PANELS)
        while empty and time.monotonic() < deadline:
            ask(server.url, cat)
            empty = {title: query for title, query in PANELS if not evaluate(url, query)}
        assert not empty
        rules = httpx.get(f"{url}/api/v1/rules").json()["data"]["groups"][0]["rules"]
        assert {rule["name"]: (rule["health"], rule["state"]) for rule in rules} == dict.fromkeys(
            ALERTS, ("ok", "inactive")
        )


def ask(url: str, cat: bytes) -> None:
    """Some of everything: both tasks, a request and an image that are refused."""
    with httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(3):
            assert client.post("/classify", content=cat).status_code == 200
            assert client.post("/embed", files=[("image", cat), ("image", b"no picture")]).status_code == 200
            assert client.post("/embed?size=0", content=cat).status_code == 422
    time.sleep(0.5)


def evaluate(url: str, query: str) -> list[Any]:
    """What Prometheus answers now, with Grafana's variables as the dashboard fills them."""
    for name, value in {"$__rate_interval": "5s", "$job": ".*", "$instance": ".*"}.items():
        query = query.replace(name, value)
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    return [series for series in answer["data"]["result"] if series["value"][1] != "NaN"]


@contextmanager
def prometheus(folder: Path, port: int) -> Iterator[str]:
    """A Prometheus that scrapes this port each second, with the configuration that is shipped."""
    content = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    content["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    content["rule_files"] = [str(MONITORING / "alerts.yml")]
    content["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(content))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command = ["prometheus", *options, f"--web.listen-address={address}", "--log.level=warn"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait(f"http://{address}/-/ready", process, folder / "prometheus.log")
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 30
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
