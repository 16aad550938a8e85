"""Pages of allowed origins can read every response, also those to a fault and to what is no HTTP."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.faults.wire import ask
from tests.server import Server, serving

ORIGIN, OTHER = "https://app.example", "https://other.example"


@pytest.fixture(scope="module")
def shared_with(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("origins") / "log"
    with serving(log, cors_origins=f"{ORIGIN}, {OTHER}", receive_timeout_s=1) as server:
        yield server


def head(line: str, *headers: str) -> bytes:
    return "".join(f"{text}\r\n" for text in (line, "host: x", *headers)).encode()


BROKEN = {
    "431": (431, head("GET / HTTP/1.1", f"origin: {ORIGIN}", "x-big: " + "a" * 70_000)),
    "400": (
        400,
        head("POST /classify HTTP/1.1", f"origin: {ORIGIN}", "content-length: 1", "content-length: 2") + b"\r\n",
    ),
    "408": (408, head("POST /classify HTTP/1.1", f"origin: {ORIGIN}", "accept: */*")),
}


@pytest.mark.parametrize(("status", "request_"), BROKEN.values(), ids=BROKEN.keys())
def test_the_connections_own_refusals_can_be_read(shared_with: Server, status: int, request_: bytes) -> None:
    answer = ask(shared_with, request_)
    assert answer.status == status
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    assert answer.headers["vary"] == "Origin"
    foreign = ask(shared_with, request_.replace(ORIGIN.encode(), b"https://evil.example"))
    assert foreign.status == status
    assert "access-control-allow-origin" not in foreign.headers


def test_all_origins_can_read_a_refusal_whose_headers_were_not_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("all") / "log", cors_origins="*") as server:
        assert ask(server, b"nonsense\r\n\r\n").headers["access-control-allow-origin"] == "*"


def test_without_settings_a_refusal_has_no_such_header(strict: Server) -> None:
    answer = ask(strict, BROKEN["400"][1])
    assert answer.status == 400
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_an_unexpected_error_can_be_read() -> None:
    async def fail() -> None:
        raise RuntimeError("a secret")

    async def ask_for_it(origin: str) -> httpx.Response:
        app = create_app(Settings.model_validate({"cors_origins": ORIGIN}))
        app.add_api_route("/fails", fail)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get("/fails", headers={"Origin": origin})

    response = asyncio.run(ask_for_it(ORIGIN))
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Request-ID" in response.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in asyncio.run(ask_for_it("https://evil.example")).headers


def test_every_kind_of_answer_can_be_read(shared_with: Server) -> None:
    with httpx.Client(base_url=shared_with.url, headers={"Origin": OTHER}) as client:
        for response in (
            client.get("/healthz"),
            client.head("/healthz"),
            client.get("/nothing"),
            client.post("/classify", content=b"x"),
            client.delete("/classify"),
        ):
            assert response.headers["access-control-allow-origin"] == OTHER
        asked = {"Access-Control-Request-Method": "HEAD"}
        assert client.options("/healthz", headers=asked).status_code == 200
