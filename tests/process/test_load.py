"""Overload: exact refusals, no work for clients that have disconnected, and a stable rate of successful responses."""

import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import pytest

from tests.faults.fixtures import Faulty, solid
from tests.faults.wire import connected, get, post, read, resident_bytes
from tests.server import Server

TOKENS = 65
"""Tokens of one image at the default model's own size."""


def colour_of(number: int) -> tuple[int, int, int]:
    """Return a colour for each number, none of which breaks the engine."""
    return 20 + number % 200, 30 + number // 200, 77


def ask(server: Server, number: int) -> httpx.Response:
    return httpx.post(f"{server.url}/classify", content=solid(colour_of(number)), timeout=60)


def test_of_a_burst_exactly_those_are_refused_that_do_not_fit(
    faulty: Faulty, forwarded: Callable[[], list[str]]
) -> None:
    limits = {"max_batch_tokens": TOKENS + 20, "max_queue_tokens": 10 * (TOKENS + 2)}
    with faulty(FORWARD_S=3, **limits) as server, ThreadPoolExecutor(32) as pool:
        assert ask(server, 0).status_code == 200  # measures the rate
        running = pool.submit(ask, server, 1)
        time.sleep(1)
        burst = list(pool.map(lambda number: ask_and_leave(server, number), range(2, 17)))
        statuses = Counter(status for status, _ in burst)
        assert statuses == {0: 10, 503: 5}
        assert all(1 <= retry_after <= 60 for status, retry_after in burst if status == 503)
        assert max(retry_after for _, retry_after in burst) > 5  # ten batches of three seconds wait
        assert running.result().status_code == 200
        time.sleep(1)
        assert ask(server, 99).status_code == 200  # the queue empties again


def ask_and_leave(server: Server, number: int) -> tuple[int, int]:
    """Return status and Retry-After of a response within a second, 0 and 0 without one; then disconnect."""
    with connected(server) as sock:
        sock.sendall(post("/classify", solid(colour_of(number))))
        answer = read(sock, patience_s=1)
        return answer.status, int(answer.headers.get("retry-after", 0)) if answer.status else 0


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
def test_clients_that_leave_the_queue_cost_no_forward(
    faulty: Faulty, forwarded: Callable[[], list[str]], reset: bool
) -> None:
    with (
        faulty(FORWARD_S=2.5, max_batch_tokens=TOKENS + 2, max_queue_tokens=100_000) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        running = pool.submit(ask, server, 1)
        time.sleep(0.5)
        leaving = []
        for number in range(100):
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.sendall(post("/classify", solid(colour_of(1000 + number)), connection="keep-alive"))
            leaving.append(sock)
        stays = pool.submit(ask, server, 2)
        time.sleep(0.4)
        for sock in leaving:
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        assert running.result().status_code == 200
        assert stays.result().status_code == 200
        assert ask(server, 3).status_code == 200
        assert forwarded() == [str(colour_of(number)) for number in (1, 2, 3)]


def test_ten_times_the_load_leaves_the_rate_of_answers_as_it_was(faulty: Faulty) -> None:
    """A forward pass of a fixed time sets the capacity. Refusals must be immediate, and health checks fast."""
    limits = {"max_batch_tokens": 4 * (TOKENS + 2), "max_queue_tokens": 12 * (TOKENS + 2)}
    with faulty(FORWARD_S=0.4, **limits) as server:
        rate, _, _ = load(server, clients=8, seconds=4)
        memory = resident_bytes(server)
        overloaded, statuses, refusals = load(server, clients=60, seconds=6)
        assert set(statuses) <= {200, 503}
        assert statuses[503] > statuses[200]
        assert overloaded > 0.5 * rate  # generous: the clients share the machine with the server
        assert sorted(refusals)[len(refusals) // 2] < 2
        assert resident_bytes(server) < memory + 50 * 2**20
        assert ask(server, 5).status_code == 200


def load(server: Server, clients: int, seconds: float) -> tuple[float, Counter[int], list[float]]:
    """Return successful responses per second, the count of each status, and how long refusals took."""
    statuses: Counter[int] = Counter()
    refusals: list[float] = []
    end = time.monotonic() + seconds
    picture = solid(colour_of(7))

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        with closing(connection):
            while time.monotonic() < end:
                began = time.monotonic()
                connection.request("POST", "/classify", picture)
                response = connection.getresponse()
                response.read()
                status = response.status
                statuses[status] += 1
                if status == 503:
                    refusals.append(time.monotonic() - began)
                    time.sleep(0.2)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    slowest_health = 0.0
    while time.monotonic() < end:
        began = time.monotonic()
        with connected(server) as sock:
            sock.sendall(get("/healthz"))
            assert read(sock).status == 200
        slowest_health = max(slowest_health, time.monotonic() - began)
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert slowest_health < 5
    return statuses[200] / seconds, statuses, refusals
