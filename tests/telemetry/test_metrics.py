"""GET /metrics counts what happened, and nothing else."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.main import create_app
from app.settings import load_settings
from tests.routes import ASKING, Asking
from tests.server import Server, serving

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that nobody else asks. Its metrics are there while the model is being loaded."""
    folder = tmp_path_factory.mktemp("metrics")
    with serving(folder / "log", ready=False, max_tokens_per_image=100) as server:
        assert read(server)["vitrine_ready", frozenset()] in (0, 1)
        server.wait_ready()
        assert read(server)["vitrine_ready", frozenset()] == 1
        assert read(server)["vitrine_queue_limit_tokens", frozenset()] == 16 * 2048
        yield server


def read(server: Server) -> Samples:
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def grown(before: Samples, after: Samples) -> dict[str, float]:
    """By how much each of our own counters has grown, its labels in braces."""
    return {
        name + ("{" + ",".join(sorted(value for _, value in labels)) + "}" if labels else ""): value
        - before.get(key, 0)
        for key, value in after.items()
        for name, labels in [key]
        if name.startswith(("vitrine", "http")) and "/metrics" not in dict(labels).values()
        if value != before.get(key, 0) and not name.endswith(("_bucket", "_seconds_sum"))
    }


def test_each_request_and_image_is_counted_once(counted: Server, cat: bytes) -> None:
    before = read(counted)
    with httpx.Client(base_url=counted.url, timeout=60) as client:
        assert client.post("/classify", content=cat).status_code == 200
        assert client.post("/embed", files=[("image", cat), ("image", b"no picture")]).status_code == 200
        assert client.post("/embed", content=b"no picture").status_code == 415
        assert client.post("/embed?size=500", content=cat).status_code == 422
        assert client.get("/nowhere").status_code == 404
        assert client.request("FETCH", "/classify").status_code == 400  # refused before any route is looked for
        assert client.get("/classify").status_code == 405
    change = grown(before, read(counted))
    assert change == {
        "http_requests_total{/classify,200,POST}": 1,
        "http_requests_total{/embed,200,POST}": 1,
        "http_requests_total{/embed,415,POST}": 1,
        "http_requests_total{/embed,422,POST}": 1,
        "http_requests_total{404,none,other}": 1,
        "http_requests_total{400,none,other}": 1,
        "http_requests_total{/classify,405,GET}": 1,
        "http_request_duration_seconds_count{/classify,POST}": 1,
        "http_request_duration_seconds_count{/embed,POST}": 3,
        "http_request_duration_seconds_count{none,other}": 2,
        "http_request_duration_seconds_count{/classify,GET}": 1,
        "vitrine_images_total{classify}": 1,
        "vitrine_images_total{embed}": 1,
        "vitrine_tokens_total": 130,
        "vitrine_image_failures_total{not_an_image}": 2,
        "vitrine_request_failures_total{not_an_image}": 1,
        "vitrine_request_failures_total{too_many_tokens}": 1,
        "vitrine_request_failures_total{not_found}": 1,
        "vitrine_request_failures_total{malformed_request}": 1,
        "vitrine_request_failures_total{method_not_allowed}": 1,
        "vitrine_preprocess_duration_seconds_count": 2,
        "vitrine_queue_duration_seconds_count": 2,
        "vitrine_forward_duration_seconds_count": 2,
        "vitrine_batch_images_count": 2,
        "vitrine_batch_images_sum": 2,
        "vitrine_batch_tokens_count": 2,
        "vitrine_batch_tokens_sum": 130,
    }


def logged(server: Server, request_id: str) -> dict[str, Any]:
    """The request's line in the log, which is written a little later than it is answered."""
    end = time.monotonic() + 30
    while request_id not in (text := server.log.read_text()):
        assert time.monotonic() < end, text
        time.sleep(0.02)
    (line,) = (json.loads(line) for line in text.splitlines() if request_id in line)
    return dict(line)


@pytest.fixture(scope="module", params=[0, 64], ids=["without a cache", "with a cache"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("served") / "log", log_format="json", cache_mb=request.param) as server:
        yield server


def test_every_route_that_takes_images_is_tried(served: Server) -> None:
    paths = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    without = {
        "/v2/repository/index",
        "/heads/{name}/examples",
    }  # takes no image; needs a head: tests/heads/test_service.py
    assert {path for path, methods in paths.items() if "post" in methods} - without == {route for route, *_ in ASKING}


@pytest.mark.parametrize(("route", "task", "count", "asking"), ASKING)
def test_an_image_is_counted_once_on_every_route(
    served: Server, cat: bytes, espresso: bytes, route: str, task: str, count: int, asking: Asking
) -> None:
    before = read(served)
    with httpx.Client(base_url=served.url, timeout=60) as client:
        answer = asking(client, [cat, espresso][:count])
    assert answer.status_code == 200, answer.text
    change = grown(before, read(served))
    images = {name: value for name, value in change.items() if name.startswith("vitrine_images_total")}
    assert images == {f"vitrine_images_total{{{task}}}": count}
    assert change["vitrine_tokens_total"] == 65 * count
    assert sum(value for name, value in change.items() if "cache_requests" in name) in (0, count)
    line = logged(served, answer.headers["X-Request-ID"])
    assert (line["images"], line["failed"], line["tokens"]) == (count, 0, 65 * count)


@pytest.mark.parametrize(("route", "task", "count", "asking"), ASKING)
def test_an_image_that_is_refused_is_counted_once_on_every_route(
    served: Server, route: str, task: str, count: int, asking: Asking
) -> None:
    before = read(served)
    with httpx.Client(base_url=served.url, timeout=60) as client:
        answer = asking(client, [b"no picture", b"none either"][:count])
    assert answer.status_code == 415, answer.text
    change = grown(before, read(served))
    assert change["vitrine_image_failures_total{not_an_image}"] == count
    assert change["vitrine_request_failures_total{not_an_image}"] == 1
    assert not [name for name in change if name.startswith("vitrine_images_total")]


def test_nothing_that_a_client_writes_makes_a_series(counted: Server) -> None:
    before = len(read(counted))
    for number in range(20):
        httpx.request(f"X{number}", f"{counted.url}/classify")
        httpx.get(f"{counted.url}/{number}", headers={"X-Request-ID": str(number)})
    assert len(read(counted)) <= before + 20  # one series of the histogram, whatever the number of requests


def test_a_client_who_left_is_one(counted: Server, cat: bytes) -> None:
    before = read(counted)
    # Enough for several batches: a small request may be answered before it is known that nobody waits.
    request = httpx.Request("POST", f"{counted.url}/embed", files=[("image", cat)] * 64)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection(("127.0.0.1", counted.port)) as connection:
        connection.sendall(f"POST /embed HTTP/1.1\r\n{head}\r\n".encode() + request.read())
    for _ in range(100):
        change = grown(before, read(counted))
        if change.get("http_requests_total{/embed,499,POST}") == 1:
            return
    pytest.fail(str(change))


def test_the_model_is_told(counted: Server) -> None:
    model = httpx.get(f"{counted.url}/model").json()
    ((name, labels),) = [key for key in read(counted) if key[0] == "vitrine_model_info"]
    assert name
    facts = dict(labels)
    assert {facts["model"], facts["fingerprint"], facts["dtype"], facts["device"]} == {
        *(model[member] for member in ("name", "fingerprint", "dtype", "device"))
    }


def test_two_applications_of_one_process_count_apart() -> None:
    one, other = (create_app(load_settings({}, port=port)[0]).state.service.metrics for port in (1, 2))
    threads = [threading.Thread(target=one.images.answered, args=("embed", 65)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert b'vitrine_images_total{task="embed"} 8.0' in one.text()
    assert b"vitrine_images_total{" not in other.text()
