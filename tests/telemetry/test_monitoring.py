"""The dashboard and the alerts, against the families that are there and against a real Prometheus."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.telemetry.metrics import Metrics
from tests.routes import ASKING
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


Series = tuple[str, frozenset[tuple[str, str]]]
SELECTOR = re.compile(r"(\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
SCRAPED_AS = {("job", "vitrine"), ("instance", "a")}
OF_THE_NETWORK = re.compile(r"vitrine_(queue_duration|forward_duration|batch)")
"""What is measured of the network, which /preprocess does not ask."""


@dataclass(frozen=True)
class Traffic:
    """What Prometheus reads of a service of which one route alone has been asked: counters' growth, gauges' values."""

    counters: dict[Series, float]
    gauges: dict[Series, float]

    @property
    def series(self) -> dict[Series, float]:
        return self.counters | self.gauges

    def with_errors(self, share: float) -> "Traffic":
        """The same, where this share of the requests for images was answered with status 500."""
        errors = {
            (name, labels - {("status", "200")} | {("status", "500")}): value * share / (1 - share)
            for (name, labels), value in self.counters.items()
            if name == "http_requests_total" and ("status", "200") in labels and ("method", "POST") in labels
        }
        return Traffic(self.counters | errors, self.gauges)


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Traffic]:
    """By route, from a real server."""
    files = [(ROOT / "examples" / name).read_bytes() for name in ("cat.png", "espresso.jpg")]
    found: dict[str, Traffic] = {}
    with (
        serving(tmp_path_factory.mktemp("traffic") / "log") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        for route, _, count, asking in ASKING:
            before = scrape(client)
            assert asking(client, files[:count]).status_code == 200
            after = scrape(client)
            grown = {series: value - before.counters.get(series, 0) for series, value in after.counters.items()}
            found.setdefault(route, Traffic(grown, after.gauges))
    return found


def scrape(client: httpx.Client) -> Traffic:
    read = Traffic({}, {})
    for family in text_string_to_metric_families(client.get("/metrics").text):
        into = read.gauges if family.type == "gauge" else read.counters
        into.update({(s.name, frozenset({*s.labels.items(), *SCRAPED_AS})): s.value for s in family.samples})
    return read


def filled(query: str) -> str:
    """The query with Grafana's variables as the dashboard fills them."""
    for name, value in {"$__rate_interval": "5m", "$job": ".*", "$instance": ".*"}.items():
        query = query.replace(name, value)
    return query


def selected(name: str, matchers: str, series: dict[Series, float]) -> list[Series]:
    """The series that a selector means."""
    tests: dict[str, Callable[[str, str], object]] = {
        "=": lambda value, wanted: value == wanted,
        "!=": lambda value, wanted: value != wanted,
        "=~": lambda value, wanted: re.fullmatch(wanted, value),
        "!~": lambda value, wanted: not re.fullmatch(wanted, value),
    }
    return [
        one
        for one in series
        if one[0] == name
        and all(tests[how](dict(one[1]).get(label, ""), wanted) for label, how, wanted in MATCHER.findall(matchers))
    ]


@pytest.mark.parametrize("query", [query for _, query in PANELS] + list(ALERTS.values()))
def test_every_query_sees_the_traffic_of_each_route_alone(traffic: dict[str, Traffic], query: str) -> None:
    for route, of_route in traffic.items():
        asked = of_route.with_errors(0.1)
        for name, matchers in SELECTOR.findall(filled(query)):
            if name == "up":  # Prometheus' own
                continue
            found = selected(name, matchers, asked.series)
            assert found, f"{route}: nothing is {name}{{{matchers}}}"
            if name.startswith("http_request") and name != "http_requests_inprogress":
                handlers = {dict(labels)["handler"] for _, labels in found if asked.series[_, labels] > 0}
                assert route in {handler.replace(":path", "") for handler in handlers}, f"{route}: {handlers}"


def test_a_share_of_requests_is_of_the_same_requests() -> None:
    """What stands above and below the line of an alert's ratio differs in the status alone."""
    above, below = SELECTOR.findall(ALERTS["VitrineErrors"])
    of_both = [{matcher for matcher in MATCHER.findall(one[1]) if matcher[0] != "status"} for one in (above, below)]
    assert of_both[0] == of_both[1]


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
    cases = (Path(__file__).parent / "alerts.yml").read_text().replace("RULES", str(MONITORING / "alerts.yml"))
    assert set(re.findall(r"alertname: (\w+)", cases)) == set(ALERTS)
    (tmp_path / "cases.yml").write_text(cases)
    command = ["promtool", "test", "rules", "cases.yml"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def rule_test(name: str, of_route: Traffic, checks: dict[str, Any]) -> dict[str, Any]:
    """A case for `promtool test rules`: these series, scraped each minute for half an hour."""
    series = [
        {"series": f"{name}{{{labelled(labels)}}}", "values": f"0+{value}x30"}
        for (name, labels), value in of_route.counters.items()
    ]
    series += [
        {"series": f"{name}{{{labelled(labels)}}}", "values": f"{value}x30"}
        for (name, labels), value in of_route.gauges.items()
    ]
    return {"name": name, "interval": "1m", "input_series": series, **checks}


def labelled(labels: frozenset[tuple[str, str]]) -> str:
    return ", ".join(f"{label}={json.dumps(value)}" for label, value in sorted(labels))


def promtool(folder: Path, tests: list[dict[str, Any]]) -> None:
    content = {"rule_files": [str(MONITORING / "alerts.yml")], "evaluation_interval": "1m", "tests": tests}
    (folder / "cases.yml").write_text(yaml.safe_dump(content))
    command = ["promtool", "test", "rules", "cases.yml"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-4000:]


@needs_prometheus
def test_the_errors_of_each_route_alone_are_a_share_of_its_own_requests(
    traffic: dict[str, Traffic], tmp_path: Path
) -> None:
    fires = {
        "exp_labels": {"severity": "critical", "instance": "a"},
        "exp_annotations": {"summary": "a answers 10% of its image requests with status 500 or 504"},
    }
    tests = []
    for route, of_route in traffic.items():
        for share, alerts in ((0.1, [fires]), (0.005, [])):
            expected = {"eval_time": "15m", "alertname": "VitrineErrors", "exp_alerts": alerts}
            tests.append(rule_test(f"{route} {share}", of_route.with_errors(share), {"alert_rule_test": [expected]}))
    promtool(tmp_path, tests)


@needs_prometheus
def test_no_alert_fires_on_the_good_traffic_of_any_route(traffic: dict[str, Traffic], tmp_path: Path) -> None:
    silent = [{"eval_time": "15m", "alertname": name} for name in ALERTS if name != "VitrineDown"]
    promtool(tmp_path, [rule_test(route, one, {"alert_rule_test": silent}) for route, one in traffic.items()])


@needs_prometheus
def test_every_panel_has_data_of_each_route_alone(traffic: dict[str, Traffic], tmp_path: Path) -> None:
    tests = []
    for route, of_route in traffic.items():
        checks = []
        for _, query in PANELS:
            empty = route == "/preprocess" and OF_THE_NETWORK.search(query) and "_duration_seconds_sum" not in query
            numbers = f"sgn(count(({filled(query)}) >= 0))"  # which drops what is not a number
            one = [] if empty else [{"labels": "{}", "value": 1}]
            checks.append({"expr": numbers, "eval_time": "15m", "exp_samples": one})
        tests.append(rule_test(route, of_route, {"promql_expr_test": checks}))
    promtool(tmp_path, tests)


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
        assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(ALERTS, "ok")
        # On a slow machine the small queue of this test can be nearly full for a moment, so `pending` is right, too.
        assert "firing" not in {rule["state"] for rule in rules}


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
