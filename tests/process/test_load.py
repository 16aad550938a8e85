"""Overload: exact refusals, no work for clients that have disconnected, and a stable rate of successful responses."""

import http.client
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import pytest

from app.inference.queue.queue import TURN
from tests.faults import wire
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
    limits = {"max_batch_tokens": TOKENS + 20, "max_queue_tokens": 10 * (TOKENS + 2), "request_timeout_s": 60}
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
        faulty(FORWARD_S=2.5, max_batch_tokens=TOKENS + 2, max_queue_tokens=100_000, request_timeout_s=600) as server,
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


def test_a_slow_network_refuses_what_it_cannot_answer_in_time(
    faulty: Faulty, forwarded: Callable[[], list[str]]
) -> None:
    """A timeout of three batches, and sixteen batches of clients: nobody waits in vain."""
    limits = {"max_batch_tokens": 4 * (TOKENS + 2), "request_timeout_s": 10}
    with faulty(FORWARD_S=3, **limits) as server:
        _, statuses, refusals = load(server, clients=64, seconds=15)
        assert set(statuses) <= {200, 503}
        assert statuses[503] > statuses[200]
        # Of 4 images each, but for the first batch, which waits for nobody, and the last one, when the clients leave.
        full = counted(server, "vitrine_batch_images_count") - 2
        assert counted(server, "vitrine_batch_images_sum") >= 3 * full > 0
        assert sorted(refusals)[len(refusals) // 2] < 1
        assert in_vain(server) <= 0.03 * len(forwarded()) * TOKENS


def test_a_slow_network_refuses_from_the_first_batch_on(faulty: Faulty) -> None:
    """No batch was measured, so what counts is the one that ran before the first request."""
    with (
        faulty(FORWARD_S=3, max_batch_tokens=TOKENS + 20, request_timeout_s=10) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda number: ask(server, number), range(8)))
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) == {200, 503}
        assert statuses[200] <= 3
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert refused.json()["detail"] == "too much is waiting: the answer would come later than a request may take"
        assert int(refused.headers["retry-after"]) >= 1
        assert in_vain(server) == 0


def test_a_client_who_leaves_during_the_forward_pass_is_counted_as_computed_in_vain(faulty: Faulty) -> None:
    with faulty(FORWARD_S=1.5) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/classify", content=solid(colour_of(1)), timeout=0.5)
        end = time.monotonic() + 10
        while in_vain(server) != TOKENS:
            assert time.monotonic() < end
            time.sleep(0.1)


@pytest.mark.parametrize("fair", [True, False], ids=["fair", "unfair"])
def test_beside_a_greedy_client_a_polite_one_is_answered(
    faulty: Faulty, forwarded: Callable[[], list[str]], fair: bool
) -> None:
    """Each has an API key. The greedy one keeps forty requests going, of which a batch takes two."""
    keys = {"api_keys": "greedy,polite", "fair": fair}
    limits = {"max_batch_tokens": 2 * (TOKENS + 2), "max_queue_tokens": 16 * (TOKENS + 2), "request_timeout_s": 60}
    with faulty(FORWARD_S=0.4, **limits, **keys) as server:
        stop = threading.Event()

        def greedy() -> None:
            while not stop.is_set():
                if ask_as("greedy", server, 0) != 200:
                    time.sleep(0.2)

        threads = [threading.Thread(target=greedy) for _ in range(40)]
        for thread in threads:
            thread.start()
        while len(forwarded()) < 4:
            time.sleep(0.1)
        served = 0
        for number in range(1, 7):
            before = len(forwarded())
            if ask_as("polite", server, number) == 200:
                ahead = forwarded().index(str(colour_of(number))) - before
                # What is left of the greedy one's turn, and a batch that begins while the request is on its way.
                served += ahead <= math.ceil(TURN / TOKENS) + 2
        stop.set()
        for thread in threads:
            thread.join()
    assert served == 6 if fair else served < 6


def ask_as(key: str, server: Server, number: int) -> int:
    """Return the status of a request with an API key.

    Over a socket of its own: httpx takes 0.2 seconds of processor time for each client, of which forty delay each
    other, and the polite one's request, by seconds.
    """
    request = post("/classify", solid(colour_of(number)), authorization=f"Bearer {key}")
    return wire.ask(server, request, patience_s=60).status


def in_vain(server: Server) -> float:
    """Return the tokens that were computed for nobody."""
    return counted(server, "vitrine_tokens_in_vain_total")


def counted(server: Server, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name} ")]
    return float(line.split()[1])


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
