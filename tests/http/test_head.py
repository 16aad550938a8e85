"""HEAD is answered like GET, without the body: on every path that has GET."""

from typing import Any

import httpx
import pytest

from tests.faults.wire import ask, get
from tests.server import Server

PAGES = ["/", "/static/main.js", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"]
CHANGING = {"date", "server-timing", "x-request-id", "content-length"}


def get_paths(client: httpx.Client) -> list[str]:
    paths: dict[str, Any] = client.get("/openapi.json").json()["paths"]
    name = client.get("/model").json()["name"]
    # A head of that name is another thing than the model; none is fitted here.
    with_get = [path for path, item in paths.items() if "get" in item and path != "/heads/{name}"]
    return [path.replace("{name}", name).replace("{version}", "1") for path in with_get]


def head(path: str) -> bytes:
    return get(path).replace(b"GET", b"HEAD")


def test_every_get_path_answers_head(client: httpx.Client) -> None:
    paths = [*get_paths(client), *PAGES]
    assert {"/healthz", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready", "/metrics"} <= set(paths)
    for path in paths:
        full, bare = client.get(path), client.head(path)
        assert bare.status_code == full.status_code == 200, path
        assert bare.content == b""
        assert {k: v for k, v in bare.headers.items() if k not in CHANGING} == {
            k: v for k, v in full.headers.items() if k not in CHANGING
        }
        if path in PAGES or "health" in path:
            assert bare.headers["content-length"] == full.headers["content-length"]


def test_no_byte_of_a_body_follows_the_head(strict: Server) -> None:
    for path, status in (("/healthz", 200), ("/nothing", 404), ("/classify", 405), ("/v2/models/another", 404)):
        answer = ask(strict, head(path))
        assert answer.status == status
        assert answer.raw.endswith(b"\r\n\r\n")
        assert answer.raw.count(b"\r\n\r\n") == 1


def test_the_connection_goes_on_after_head(strict: Server) -> None:
    """The next response begins where the head of the first ends."""
    raw = ask(strict, head("/openapi.json").replace(b"connection: close\r\n", b""), get("/healthz")).raw
    assert [part[:3] for part in raw.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200"]
    assert raw.endswith(b'{"status":"ok"}')


@pytest.mark.parametrize(("path", "allowed"), [("/healthz", "GET, HEAD"), ("/classify", "POST")])
def test_allow_names_head(client: httpx.Client, path: str, allowed: str) -> None:
    refused = client.delete(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
    assert client.head("/classify").status_code == 405


def test_head_is_logged_and_counted_as_what_it_is(client: httpx.Client) -> None:
    client.head("/healthz")
    assert 'http_requests_total{handler="/healthz",method="HEAD",status="200"}' in client.get("/metrics").text
