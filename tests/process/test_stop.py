"""The end of a process: no accepted request is lost, and nothing keeps the process from ending."""

import http.client
import signal
import socket
import threading
import time
from collections import Counter

import httpx
import pytest

from tests.faults.fixtures import Faulty, solid
from tests.faults.wire import connected, post, read
from tests.server import Server

PICTURE = solid((10, 20, 30))


class Client(threading.Thread):
    """A client that sends requests until the server refuses connections; a request without a response is lost."""

    def __init__(self, server: Server, keep_alive: bool, outcomes: Counter[str]) -> None:
        super().__init__()
        self.port, self.keep_alive, self.outcomes = server.port, keep_alive, outcomes

    def run(self) -> None:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                connection.connect()
            except OSError:
                return
            if not self.ask(connection):
                connection.close()

    def ask(self, connection: http.client.HTTPConnection) -> bool:
        answered = 0
        try:
            while True:
                connection.request("POST", "/classify", PICTURE)
                response = connection.getresponse()
                response.read()
                self.outcomes[str(response.status)] += 1
                answered += 1
                if response.will_close or not self.keep_alive:
                    return False
        except (OSError, http.client.HTTPException) as error:
            # A server may close an idle connection while a request is being sent (RFC 9112, 9.3.1). Every client
            # retries that request. One on a new connection is lost.
            self.outcomes["closed while idle" if answered else f"lost: {error!r}"] += 1
            return False


@pytest.mark.parametrize("delay_s", [0, 1])
def test_sigterm_under_load_loses_nothing(faulty: Faulty, delay_s: int) -> None:
    stop_under_load(faulty, 1, delay_s)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_twenty_sigterms_lose_nothing(faulty: Faulty) -> None:
    stop_under_load(faulty, 20, 0)


def stop_under_load(faulty: Faulty, times: int, delay_s: int) -> None:
    outcomes: Counter[str] = Counter()
    for _ in range(times):
        with faulty(FORWARD_S=0.05, drain_delay_s=delay_s) as server:
            clients = [Client(server, keep_alive, outcomes) for keep_alive in [True, False] * 8]
            for client in clients:
                client.start()
            time.sleep(1.5)
            server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert server.process.wait(15) in (0, -signal.SIGTERM)
            assert time.monotonic() - began < delay_s + 8
            for client in clients:
                client.join(60)
    lost = {outcome: count for outcome, count in outcomes.items() if outcome.startswith("lost")}
    assert sum(lost.values()) <= 1, outcomes
    assert outcomes["200"] > 10
    assert set(outcomes) - set(lost) <= {"200", "503", "closed while idle"}, outcomes


def test_connections_that_wait_to_be_accepted_are_served(faulty: Faulty) -> None:
    """The operating system has made them, and the stopped process has not seen them yet."""
    with faulty() as server:
        server.process.send_signal(signal.SIGSTOP)
        waiting = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        for sock in waiting:
            sock.sendall(post("/classify", PICTURE))
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGCONT)
        assert [read(sock).status for sock in waiting] == [200] * 20
        for sock in waiting:
            sock.close()
        assert server.process.wait(15) in (0, -signal.SIGTERM)


def test_readiness_ends_at_once_and_requests_are_served_for_the_delay(faulty: Faulty) -> None:
    with faulty(drain_delay_s=3) as server:
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        unready = httpx.get(f"{server.url}/readyz")
        assert (unready.status_code, unready.json()["code"]) == (503, "draining")
        served = httpx.post(f"{server.url}/classify", content=PICTURE)
        assert served.status_code == 200
        assert served.headers["connection"] == "close"
        assert server.process.wait(15) in (0, -signal.SIGTERM)


def test_a_stalled_upload_does_not_keep_the_process(faulty: Faulty) -> None:
    with faulty(drain_timeout_s=2) as server, connected(server) as sock:
        sock.sendall(post("/classify", PICTURE[:50], content_length=10_000))
        time.sleep(0.3)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        answer = read(sock)
        assert (answer.status, answer.json["code"]) == (503, "draining")
        assert server.process.wait(15) in (0, -signal.SIGTERM)
        assert time.monotonic() - began < 8


def test_sigterm_while_the_model_is_loaded_ends_the_process(faulty: Faulty) -> None:
    with faulty(ready=False, LOAD_S=60) as server:
        assert httpx.get(f"{server.url}/readyz").json()["code"] == "loading"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) in (0, -signal.SIGTERM)


def test_a_second_signal_ends_the_process_at_once(faulty: Faulty) -> None:
    with faulty(drain_delay_s=60) as server:
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(2) == 128 + signal.SIGTERM


def test_sighup_and_sigpipe_do_not_end_the_service(faulty: Faulty) -> None:
    with faulty() as server:
        server.process.send_signal(signal.SIGHUP)
        server.process.send_signal(signal.SIGPIPE)
        time.sleep(0.3)
        assert httpx.get(f"{server.url}/readyz").status_code == 200
