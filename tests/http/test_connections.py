"""Hostile connections: slow, silent, with large heads, malformed, pipelined, half closed."""

import http.client
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.settings import Settings
from tests.faults.wire import Answer, ask, connected, get, post, read, resident_bytes, send
from tests.server import Server, serving

# The `strict` server gives a client 2 seconds.
DEADLINE_S = 2.0
SOON_S = DEADLINE_S + 3


def drip(sock: socket.socket, start: bytes, drop: bytes) -> Answer:
    """Send `start`, then `drop` ten times a second for as long as the server accepts it."""
    began, answer = time.monotonic(), b""
    sock.sendall(start)
    sock.settimeout(0.1)
    while time.monotonic() < began + 20:
        try:
            data = sock.recv(65536)
            if not data:
                return Answer(answer, True, time.monotonic() - began)
            answer += data
        except TimeoutError:
            send(sock, [drop])
        except OSError:
            return Answer(answer, True, time.monotonic() - began)
    return Answer(answer, False, time.monotonic() - began)


def test_a_connection_that_sends_nothing_is_closed(strict: Server) -> None:
    answer = ask(strict)
    assert answer.closed
    assert answer.raw == b""
    assert DEADLINE_S - 0.5 < answer.seconds < SOON_S


def test_slow_headers_are_refused_at_the_deadline(strict: Server) -> None:
    with connected(strict) as sock:
        answer = drip(sock, b"POST /classify HTTP/1.1\r\nhost: x\r\nx-slow: ", b"a")
    assert answer.closed
    assert (answer.status, answer.json["code"]) == (408, "too_slow")
    assert DEADLINE_S - 0.5 < answer.seconds < SOON_S


def test_requests_that_no_handler_saw_are_counted_and_logged(strict: Server) -> None:
    def counted(code: str) -> float:
        lines = httpx.get(f"{strict.url}/metrics").text.splitlines()
        name = f'vitrine_request_failures_total{{reason="{code}"}} '
        return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    for code, sent in {
        "malformed_request": b"nonsense\r\n\r\n",
        "headers_too_large": b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000,
        "too_slow": b"GET / HTTP/1.1\r\nhost: x",
    }.items():
        before = counted(code)
        answer = ask(strict, sent)
        assert answer.json["code"] == code
        assert counted(code) == before + 1
        time.sleep(1.1)  # the log is written by another thread
        (line,) = [line for line in strict.log.read_text().splitlines() if answer.json["request_id"] in line]
        assert f'"problem":"{code}"' in line


def test_a_slow_body_is_refused_at_the_deadline(strict: Server) -> None:
    with connected(strict) as sock:
        answer = drip(sock, post("/classify", content_length=100_000, connection="keep-alive"), b"a")
    assert answer.closed
    assert (answer.status, answer.json["code"]) == (408, "too_slow")
    assert answer.headers["connection"] == "close"
    assert DEADLINE_S - 0.5 < answer.seconds < SOON_S + 3


def test_the_deadline_runs_from_the_first_byte_and_not_from_the_body(strict: Server) -> None:
    with connected(strict) as sock:
        sock.sendall(b"POST /classify HTTP/1.1\r\nhost: x\r\n")
        time.sleep(DEADLINE_S * 0.7)
        answer = drip(sock, b"content-length: 100000\r\n\r\n", b"a")
    assert answer.status == 408
    assert answer.seconds < DEADLINE_S * 0.3 + 2.5


def test_an_idle_connection_is_closed_and_a_busy_one_is_kept(strict: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=20)
    connection.connect()
    sock = connection.sock
    for _ in range(3):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        assert connection.sock is sock
        time.sleep(0.3)
    assert read(sock).closed
    connection.close()


def test_a_connection_is_kept_for_as_long_as_the_setting_says(tmp_path: Path) -> None:
    """Also past the time in which a request must arrive."""
    with serving(tmp_path / "log", receive_timeout_s=1, keep_alive_s=6.5) as server, connected(server) as sock:
        for idle_s in (0, 5.5):
            time.sleep(idle_s)
            sock.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        idle = read(sock, patience_s=20)
    assert idle.closed
    assert idle.raw == b""
    assert 6 < idle.seconds < 6.5 + 5


def test_by_default_a_connection_outlives_a_balancers() -> None:
    """nginx and AWS's balancers keep connections for 60 s."""
    assert Settings.model_validate({}).keep_alive_s > 60


def test_slow_connections_do_not_affect_others(strict: Server, espresso: bytes) -> None:
    slow = []
    try:
        for _ in range(300):
            sock = socket.create_connection(("127.0.0.1", strict.port), timeout=10)
            sock.sendall(b"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc")
            slow.append(sock)
        for _ in range(5):
            assert httpx.post(f"{strict.url}/classify", content=espresso, timeout=20).status_code == 200
    finally:
        for sock in slow:
            sock.close()


HEADS = {
    "20 MB of one header": b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-big: " + b"a" * 20_000_000 + b"\r\n\r\n",
    "100,000 headers": b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"x-a: b\r\n" * 100_000 + b"\r\n",
    "60 MB of a header that never ends": b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-big: " + b"a" * 60_000_000,
    "1 MB of a path": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "65 kB in one piece": b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-big: " + b"a" * 65_600 + b"\r\n\r\n",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_a_head_beyond_64_kib_is_refused(strict: Server, head: bytes) -> None:
    before = resident_bytes(strict)
    answer = ask(strict, head)
    assert answer.closed
    assert answer.seconds < 5
    assert answer.status in (400, 431)
    assert answer.json["code"] in ("headers_too_large", "malformed_request")
    assert resident_bytes(strict) < before + 8 * 2**20


def test_a_head_of_60_kib_is_read(strict: Server) -> None:
    assert ask(strict, get("/healthz").replace(b"host", b"x-big: " + b"a" * 60_000 + b"\r\nhost")).status == 200


MALFORMED = {
    "a length below zero": post("/classify", content_length=-5),
    "two lengths": post("/classify", b"abc").replace(b"host: x", b"content-length: 4"),
    "a length and chunks": post("/classify", b"0\r\n\r\n", transfer_encoding="chunked"),
    "chunks and a length": post("/classify", b"0\r\n\r\n", transfer_encoding="chunked").replace(b"host: x\r\n", b""),
    "a chunk without a size": post("/classify", b"zz\r\nabc\r\n", content_length=None, transfer_encoding="chunked"),
    "TLS": bytes.fromhex("160301020001000001fc0303") + bytes(200),
    "noise": bytes(range(128, 256)) * 4,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a path that is not a URL": b"GET \xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
}


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED.keys())
def test_invalid_http_is_refused_and_the_connection_closed(strict: Server, request_: bytes) -> None:
    answer = ask(strict, request_)
    assert answer.closed
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json["request_id"]


HOSTS = {
    "missing": (b"", 400, "no Host header"),
    "twice": (b"host: x\r\nhost: x\r\n", 400, "more than one Host header"),
    "a path": (b"host: x/y\r\n", 400, "must be a name or an address"),
    "a user": (b"host: user@x\r\n", 400, "must be a name or an address"),
    "a list": (b"host: x y\r\n", 400, "must be a name or an address"),
    "empty": (b"host:\r\n", 200, ""),
    "another": (b"host: evil.example\r\n", 200, ""),
    "IPv6": (b"host: [::1]:8000\r\n", 200, ""),
}


@pytest.mark.parametrize(("host", "status", "words"), HOSTS.values(), ids=HOSTS.keys())
def test_a_request_has_one_host(strict: Server, host: bytes, status: int, words: str) -> None:
    answer = ask(strict, get("/healthz").replace(b"host: x\r\n", host))
    assert answer.status == status
    if status == 400:
        assert answer.json["code"] == "malformed_request"
        assert words in answer.json["detail"]
        assert answer.closed


def test_http_1_0_needs_no_host(strict: Server) -> None:
    assert ask(strict, b"GET /healthz HTTP/1.0\r\n\r\n").status == 200


CODINGS = ["gzip, chunked", "chunked, chunked", "gzip", "identity", "identity, chunked", "xchunked"]


@pytest.mark.parametrize("coding", CODINGS)
def test_a_transfer_encoding_other_than_chunked_alone_is_not_implemented(strict: Server, coding: str) -> None:
    answer = ask(strict, post("/classify", b"0\r\n\r\n", content_length=None, transfer_encoding=coding))
    assert (answer.status, answer.json["code"]) == (501, "unsupported_transfer_encoding")
    assert coding in answer.json["detail"]
    assert answer.closed


def test_chunked_alone_is_read_in_any_case(strict: Server) -> None:
    for coding in ("chunked", "Chunked", " CHUNKED "):
        request = post("/classify", b"1\r\nx\r\n0\r\n\r\n", content_length=None, transfer_encoding=coding)
        assert ask(strict, request).status == 415
    twice = post("/classify", content_length=None, transfer_encoding="chunked").replace(
        b"host", b"Transfer-Encoding: chunked\r\nhost"
    )
    assert ask(strict, twice, b"0\r\n\r\n").status == 501


def test_a_refused_head_leaves_nothing_to_the_next_connection(strict: Server) -> None:
    """The request behind a smuggled body is not answered."""
    first = post("/classify", b"0\r\n\r\n", transfer_encoding="chunked", connection="keep-alive")
    answer = ask(strict, first, get("/healthz"))
    assert answer.status == 400
    assert b'"status":"ok"' not in answer.raw
    assert "both a Content-Length and a Transfer-Encoding" in answer.json["detail"]


def test_an_upgrade_is_ignored(strict: Server) -> None:
    upgrade = get("/healthz").replace(b"connection: close", b"connection: upgrade\r\nupgrade: websocket")
    with connected(strict) as sock:
        sock.sendall(upgrade)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order(strict: Server) -> None:
    paths = ["/healthz", "/nothing", "/readyz"] * 30
    requests = b"".join(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode() for path in paths)
    raw = ask(strict, requests, get("/healthz")).raw
    statuses = [int(part[:3]) for part in raw.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 404, 200] * 30 + [200]


def test_a_client_that_only_stops_sending_is_served(strict: Server, espresso: bytes) -> None:
    with connected(strict) as sock:
        sock.sendall(post("/classify", espresso, connection="keep-alive"))
        sock.shutdown(socket.SHUT_WR)
        answer = read(sock)
    assert answer.status == 200
    assert answer.closed


def test_a_client_that_does_not_read_its_response_is_cut_off(strict: Server) -> None:
    """Request megabytes of responses and read none."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", strict.port))
        sock.settimeout(10)
        request = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
        began = time.monotonic()
        sent = send(sock, (request * 50 for _ in range(100_000)))
    assert sent < 100_000 * 50 * len(request)
    assert time.monotonic() - began < 20


def test_clients_that_disconnect_early_are_no_errors(strict: Server, espresso: bytes) -> None:
    def leave(number: int) -> None:
        with connected(strict) as sock:
            request = post("/classify", espresso)
            sock.sendall(request[: len(request) * (number % 10) // 9])
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not a close

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave, range(60)))
    assert httpx.post(f"{strict.url}/classify", content=espresso, timeout=20).status_code == 200


def test_thousands_of_pipelined_requests_do_not_delay_others(strict: Server) -> None:
    with connected(strict) as sock:
        sock.settimeout(20)
        sender = ThreadPoolExecutor(1).submit(send, sock, [b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n" * 20_000])
        for _ in range(5):
            began = time.monotonic()
            assert ask(strict, get("/healthz")).status == 200
            assert time.monotonic() - began < 5
    sender.result()
