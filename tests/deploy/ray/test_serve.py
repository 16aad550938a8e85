"""The deployment on a real local Ray cluster: equal answers, a killed replica, draining, client disconnects."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.bounds import assert_equal_in_float32
from tests.deploy.ray.conftest import Cluster
from tests.heads.labelled import cut
from tests.heads.service import classify, put
from tests.server import ROOT, serving

PICTURES = sorted((ROOT / "examples").glob("*.*g"))
CLIENTS = 8


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The service without Ray, with one thread as well."""
    with (
        serving(tmp_path_factory.mktemp("alone") / "log", torch_threads=1) as server,
        httpx.Client(base_url=server.url, timeout=60) as session,
    ):
        yield session


class Load:
    """Clients that send one request at a time each; counts answers, wrong answers and lost requests."""

    def __init__(self, url: str, expected: dict[Path, str]) -> None:
        self.answered = self.wrong = 0
        self.lost: list[str] = []
        self._url, self._expected = url, expected
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as session:
            while not self._stop.is_set():
                path = PICTURES[number % len(PICTURES)]
                number += 1
                try:
                    response = session.post("/classify?top_k=1", content=path.read_bytes())
                except httpx.HTTPError as error:
                    self.lost.append(repr(error))
                    continue
                if response.status_code != 200:
                    self.lost.append(f"{response.status_code} {response.text[:200]}")
                else:
                    self.answered += 1
                    label = response.json()["results"][0]["predictions"][0]["label"]
                    self.wrong += label != self._expected[path]

    def wait(self, more: int, deadline_s: float = 120) -> None:
        """Wait until this many more requests are answered."""
        end, enough = time.monotonic() + deadline_s, self.answered + more
        while self.answered < enough:
            assert time.monotonic() < end, self.lost
            time.sleep(0.05)


@pytest.fixture(scope="module")
def expected(alone: httpx.Client) -> dict[Path, str]:
    return {path: _best(alone, path)["label"] for path in PICTURES}


def _best(client: httpx.Client, path: Path) -> dict[str, str]:
    answer: dict[str, str] = client.post("/classify", content=path.read_bytes()).json()["results"][0]["predictions"][0]
    return answer


def test_both_replicas_answer_like_one_process(cluster: Cluster, ray_client: httpx.Client, alone: httpx.Client) -> None:
    assert len(cluster.wait_for_replicas(2)) == 2
    for path in PICTURES:
        for query in ("/embed", "/embed?size=140x98&normalize=true", "/embed?pool=mean"):
            (actual,) = ray_client.post(query, content=path.read_bytes()).json()["results"]
            (reference,) = alone.post(query, content=path.read_bytes()).json()["results"]
            assert_equal_in_float32(actual["embedding"], reference["embedding"])
        actual, reference = (
            client.post("/classify", content=path.read_bytes()).json()["results"][0] for client in (ray_client, alone)
        )
        assert [one["label"] for one in actual["predictions"]] == [one["label"] for one in reference["predictions"]]
        assert actual["network"] == reference["network"]
    assert ray_client.get("/model").json() == alone.get("/model").json()


def test_problems_are_the_services_own(ray_client: httpx.Client) -> None:
    refused = ray_client.post("/classify", content=b"no picture")
    assert (refused.status_code, refused.json()["code"]) == (415, "not_an_image")
    assert refused.headers["content-type"] == "application/problem+json"


def test_heads_are_fitted_shared_and_served(cluster: Cluster, tmp_path: Path) -> None:
    """Both replicas answer by a head that one of them wrote into their directory, and by the file of a head."""
    cluster.deploy(2, torch_threads=1, heads=str(tmp_path / "heads"))
    cluster.wait_for_replicas(2)
    picture = cut("cat", 1, 5)[0]
    with httpx.Client(base_url=cluster.url, timeout=60) as client:
        version = put(client, "pets", {"cat": 3, "coffee": 3}).json()["version"]
        time.sleep(2)  # a head of another process is seen within a second or two
        for _ in range(12):  # whichever replica answers
            answer = classify(client, "pets", [picture])
            assert answer["head"] == {"name": "pets", "version": version}
            assert answer["results"][0]["predictions"][0]["label"] == "cat"
    cluster.deploy(2, torch_threads=1, head=str(tmp_path / "heads" / "pets.safetensors"))
    with httpx.Client(base_url=cluster.url, timeout=60) as client:
        answer = client.post("/classify", content=picture).json()
        assert answer["head"] == {"name": None, "version": version}
        assert [one["label"] for one in answer["results"][0]["predictions"]] == ["cat", "coffee"]
    cluster.deploy(2, torch_threads=1)
    cluster.wait_for_replicas(2)


def test_a_killed_replica_loses_at_most_its_own_requests(cluster: Cluster, expected: dict[Path, str]) -> None:
    victim = cluster.wait_for_replicas(2)[0]
    with Load(cluster.url, expected) as load:
        load.wait(30)
        os.kill(victim, signal.SIGKILL)
        load.wait(30)
        cluster.wait_for_replicas(2, other_than=victim)
        load.wait(30)
    assert len(load.lost) <= CLIENTS, load.lost
    assert load.wrong == 0


def test_draining_loses_nothing(cluster: Cluster, expected: dict[Path, str]) -> None:
    before = cluster.wait_for_replicas(2)
    with Load(cluster.url, expected) as load:
        load.wait(30)
        cluster.deploy(2, torch_threads=1, max_images_per_request=63)  # other settings: every replica is replaced
        load.wait(30)
        cluster.deploy(1, torch_threads=1, max_images_per_request=63)
        cluster.wait_for_replicas(1)
        load.wait(30)
    assert not set(before) & set(cluster.replicas())
    assert load.lost == []
    assert load.wrong == 0


def test_a_client_disconnect_removes_its_work_from_the_batcher(cluster: Cluster, ray_client: httpx.Client) -> None:
    cluster.deploy(1, torch_threads=1, max_images_per_request=63)
    cluster.wait_for_replicas(1)
    batches = _metric(ray_client, "vitrine_forward_duration_seconds_count")
    with ExitStack() as connections:
        for _ in range(CLIENTS):
            connections.enter_context(_asked(cluster.port, "/classify?size=560", PICTURES[0].read_bytes()))
        _wait(lambda: _metric(ray_client, "vitrine_queue_size") >= WAITING)  # each one is larger than a batch
    _wait(lambda: _metric(ray_client, "vitrine_queue_size") == 0)
    _wait(lambda: _metric(ray_client, LEFT) >= WAITING)  # a request is counted a moment after its work has left
    assert ray_client.post("/classify", content=PICTURES[0].read_bytes()).status_code == 200
    # The earlier requests and the last one ran; those that waited did not.
    assert _metric(ray_client, "vitrine_forward_duration_seconds_count") - batches <= CLIENTS - WAITING + 1


WAITING = 4
LEFT = 'http_requests_total{handler="/classify",method="POST",status="499"}'


def _asked(port: int, path: str, body: bytes) -> socket.socket:
    """Return a connection over which a request was sent, without waiting for the answer."""
    connection = socket.create_connection(("127.0.0.1", port))
    head = f"POST {path} HTTP/1.1\r\nHost: vitrine\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def _wait(condition: Callable[[], bool], deadline_s: float = 60) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _metric(client: httpx.Client, name: str) -> float:
    """Return the value of a metric; 0 for a counter that does not exist yet."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0
