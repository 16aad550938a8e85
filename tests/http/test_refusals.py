"""Refusals that are given again without a handler, to requests like one that was just refused."""

import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from app.errors import Problem
from app.http.connections.refusals import MAX_KEPT, Refusal, Refusals, head_of, is_short
from app.http.middleware import record_refusal
from app.http.problems import PROBLEM_JSON
from app.telemetry.metrics import Metrics
from tests.faults.fixtures import faulty_in, solid
from tests.faults.wire import Answer, ask, connected, get, post, read
from tests.server import Server

TOKENS = 67
PICTURE = solid((90, 90, 90))
PATIENCE_S = 60
RECEIVE_S = 3.0


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose queue is full all the time: a batch of one image takes half a second, and three more may wait."""
    limits: dict[str, object] = {"max_batch_tokens": TOKENS, "max_queue_tokens": 3 * TOKENS, "cors_origins": "*"}
    limits["receive_timeout_s"] = RECEIVE_S
    ended = threading.Event()

    def keep_asking(server: Server) -> None:
        while not ended.is_set():
            httpx.post(f"{server.url}/classify?top_k=1", content=PICTURE, timeout=60)

    with faulty_in(tmp_path_factory.mktemp("full"))(FORWARD_S=0.5, **limits) as server:
        askers = [threading.Thread(target=keep_asking, args=(server,)) for _ in range(8)]
        for asker in askers:
            asker.start()
        yield server
        ended.set()
        for asker in askers:
            asker.join()


def repeated(server: Server, request: bytes) -> Answer:
    """Send a request until it gets a refusal that no handler made: those have no timings."""
    started = time.monotonic()
    while time.monotonic() < started + PATIENCE_S:
        answer = ask(server, request, patience_s=10)
        if answer.status == 503 and "server-timing" not in answer.headers:
            return answer
    pytest.fail("each request went through a handler")


def test_a_refusal_is_given_again_like_the_handlers(full: Server) -> None:
    request = post("/classify", PICTURE, x_request_id="mine-1", origin="http://a.example")
    answer = repeated(full, request)
    handled = answer
    while "server-timing" not in handled.headers or handled.status != 503:
        handled = ask(full, request, patience_s=10)
        time.sleep(0.06)  # longer than a refusal is kept
    assert answer.json == handled.json
    assert answer.json["request_id"] == answer.headers["x-request-id"] == "mine-1"
    for name in ("content-type", "access-control-allow-origin", "connection"):
        assert answer.headers[name] == handled.headers[name]
    assert int(answer.headers["retry-after"]) >= 1


def test_a_dialects_refusal_keeps_its_format(full: Server) -> None:
    body = json.dumps({"input": "x", "model": "x"}).encode()
    answer = repeated(full, post("/v1/embeddings", body, content_type="application/json"))
    assert answer.json["error"]["code"] == "overloaded"


def test_it_is_counted_and_logged_with_its_route(full: Server, caplog: pytest.LogCaptureFixture) -> None:
    repeated(full, post("/embed?pool=cls", PICTURE))
    text = httpx.get(f"{full.url}/metrics").text
    assert 'http_requests_total{handler="/embed",method="POST",status="503"}' in text
    with caplog.at_level("INFO", "vitrine.access"):
        record_refusal(Metrics(), Problem("overloaded", "a sentence"), "some-id", "POST", "/embed")
    (record,) = [one for one in caplog.records if one.name == "vitrine.access"]
    assert record.__dict__["fields"] == {
        **{"method": "POST", "route": "/embed", "status": 503},
        **{"problem": "overloaded", "request_id": "some-id"},
    }


def test_the_connection_is_used_again(full: Server) -> None:
    request = post("/classify", PICTURE, connection="keep-alive")
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        ask(full, post("/classify", PICTURE), patience_s=10)  # is refused, and so is what comes next
        with connected(full) as sock:
            answers = []
            for _ in range(3):
                sock.sendall(request)
                answers.append(sock.recv(65536))
                if not answers[-1].startswith(b"HTTP/1.1 503") or b"connection: close" in answers[-1].lower():
                    break
            else:
                sock.sendall(get("/healthz"))
                assert read(sock).status == 200
                return
    pytest.fail("no three requests on one connection were refused within the same moment")


def test_what_is_pipelined_behind_a_refusal_is_answered(full: Server) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        ask(full, post("/classify", PICTURE), patience_s=10)
        answer = ask(full, post("/classify", PICTURE, connection="keep-alive") + get("/healthz"))
        head, _, rest = answer.raw.partition(b"\r\n\r\n")
        if b"server-timing" not in head and head.startswith(b"HTTP/1.1 503"):
            assert rest.partition(b"HTTP/1.1 ")[2].startswith(b"200")
            assert answer.raw.endswith(b'{"status":"ok"}')
            return
    pytest.fail("no request was refused again")


@pytest.mark.parametrize(
    "headers",
    [{"content_length": 50_000_000}, {"expect": "100-continue", "content_length": 1000}],
    ids=["long", "expect"],
)
def test_a_body_that_is_not_worth_reading_ends_the_connection(full: Server, headers: dict[str, object]) -> None:
    answer = repeated(full, post("/classify", b"", **{"connection": "keep-alive", **headers}))
    assert answer.headers["connection"] == "close"
    assert answer.closed


def test_a_body_that_stops_ends_the_connection(full: Server) -> None:
    answer = repeated(full, post("/classify", connection="keep-alive", content_length=1000))
    assert answer.closed
    assert RECEIVE_S - 0.5 < answer.seconds < RECEIVE_S + 3


def test_another_client_is_not_refused_along(full: Server) -> None:
    """It has its own share of the queue."""
    repeated(full, post("/classify", PICTURE))
    with socket.create_connection(("127.0.0.1", full.port), 30, source_address=("127.0.0.2", 0)) as sock:
        sock.sendall(post("/classify", PICTURE))
        assert read(sock, patience_s=30).status == 200


# --- what is kept ---


def refusal(holds_s: float = 1.0) -> Refusal:
    problem = Problem("overloaded", "a sentence")
    problem.holds_s = holds_s
    return Refusal(problem, PROBLEM_JSON, "POST", "/classify")


def head(client: str = "10.0.0.1", url: bytes = b"/classify", **headers: str) -> tuple[object, ...]:
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return head_of(client, b"POST", url, given)


def test_a_refusal_is_kept_for_as_long_as_it_holds() -> None:
    refusals = Refusals()
    assert not refusals.hold(0.0)
    refusals.keep(head(), refusal(2.0), 10.0)
    assert refusals.hold(11.9)
    assert refusals.find(head(), 11.9) is not None
    assert refusals.find(head(), 12.0) is None
    assert not refusals.hold(12.0)


@pytest.mark.parametrize(
    "other",
    [
        head("10.0.0.2"),
        head(url=b"/embed"),
        head(authorization="Bearer b"),
        head(x_forwarded_for="10.0.0.3"),
        head(x_forwarded_prefix="/a"),
        head(forwarded="for=10.0.0.3"),
    ],
)
def test_a_refusal_is_for_the_same_client_and_path(other: tuple[object, ...]) -> None:
    refusals = Refusals()
    refusals.keep(head(), refusal(), 0.0)
    assert refusals.find(other, 0.5) is None


def test_what_says_nothing_about_the_client_is_not_compared() -> None:
    assert head(content_length="5", content_type="multipart/form-data; boundary=a", x_request_id="1") == head()


def test_the_refusals_that_are_kept_are_bounded() -> None:
    refusals = Refusals()
    for number in range(2 * MAX_KEPT):
        refusals.keep(head(str(number)), refusal(), 0.0)
    found = [number for number in range(2 * MAX_KEPT) if refusals.find(head(str(number)), 0.5)]
    assert found == list(range(MAX_KEPT, 2 * MAX_KEPT))
    refusals.keep(head(authorization="a" * 10_000), refusal(), 0.0)
    assert refusals.find(head(authorization="a" * 10_000), 0.5) is None


def test_only_a_body_of_a_known_small_size_is_read_for_nothing() -> None:
    assert is_short([])
    assert is_short([(b"content-length", b"1000")])
    assert not is_short([(b"content-length", b"1000000")])
    assert not is_short([(b"content-length", b"1000"), (b"expect", b"100-continue")])
    assert not is_short([(b"transfer-encoding", b"chunked")])
