"""A service that is killed at any moment starts again with whole heads, and replicas see each other's."""

import os
import signal
import threading
import time
from pathlib import Path

import httpx
import numpy as np

from tests.heads.labelled import cut
from tests.heads.service import classify, put
from tests.server import serving

TWO = {"cat": 2, "coffee": 2}
KILLS = 3


def write_without_end(url: str, acknowledged: list[str]) -> None:
    """Replace a head by another one until the service is gone."""
    counts = [TWO, {"cat": 3, "rocket": 2}]
    with httpx.Client(base_url=url, timeout=60) as client:
        try:
            while True:
                for one in counts:
                    answer = put(client, "pets", one, "?method=mean")
                    assert answer.status_code == 200, answer.text
                    acknowledged.append(answer.json()["version"])
        except httpx.TransportError:
            return


def number(version: str) -> int:
    return int(version.partition("-")[0])


def test_a_service_that_is_killed_between_writes_has_whole_heads(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    acknowledged: list[str] = []
    for kill in range(KILLS + 1):
        with serving(tmp_path / f"log-{kill}", heads=tmp_path / "heads") as server:
            heads = httpx.get(f"{server.url}/heads").json()["heads"]
            if kill:
                (head,) = heads
                assert head["state"] == "ready"
                assert {one["label"] for one in head["classes"]} in ({"cat", "coffee"}, {"cat", "rocket"})
                assert number(head["version"]) >= number(acknowledged[-1]), "an acknowledged write is lost"
                with httpx.Client(base_url=server.url, timeout=60) as client:
                    assert classify(client, "pets", cut("cat", 1, 9))["head"]["version"] == head["version"]
            if kill == KILLS:
                break
            before, end = len(acknowledged), time.monotonic() + 60
            writer = threading.Thread(target=write_without_end, args=(server.url, acknowledged))
            writer.start()
            while len(acknowledged) == before:
                assert time.monotonic() < end, server.log.read_text()
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.5))
            os.kill(server.process.pid, signal.SIGKILL)
            writer.join(60)
    assert len(acknowledged) >= KILLS


def test_replicas_see_each_others_heads_within_two_seconds(tmp_path: Path) -> None:
    settings = {"heads": tmp_path / "heads"}
    with (
        serving(tmp_path / "log-a", **settings) as a,  # type: ignore[arg-type]
        serving(tmp_path / "log-b", **settings) as b,  # type: ignore[arg-type]
        httpx.Client(base_url=a.url, timeout=60) as one,
        httpx.Client(base_url=b.url, timeout=60) as other,
    ):
        assert other.get("/heads").json()["heads"] == []
        version = put(one, "pets", TWO).json()["version"]
        time.sleep(2)
        assert classify(other, "pets", cut("cat", 1))["head"]["version"] == version
        second = put(other, "pets", {"cat": 3, "coffee": 2}).json()["version"]
        assert number(second) == 2
        time.sleep(2)
        assert classify(one, "pets", cut("cat", 1))["head"]["version"] == second
        assert one.delete("/heads/pets").status_code == 200
        time.sleep(2)
        assert other.post("/classify?head=pets", content=cut("cat", 1)[0]).status_code == 404


def test_heads_in_memory_are_gone_with_the_process(tmp_path: Path) -> None:
    for start in range(2):
        with serving(tmp_path / f"log-{start}", allow_heads=True) as server:
            model = httpx.get(f"{server.url}/model").json()
            assert model["fitted_heads"] == {"kept": "memory", "names": []}
            with httpx.Client(base_url=server.url, timeout=60) as client:
                assert put(client, "pets", TWO).status_code == 200
            assert httpx.get(f"{server.url}/model").json()["fitted_heads"]["names"] == ["pets"]
