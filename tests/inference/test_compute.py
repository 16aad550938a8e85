"""A forward pass that raises, runs out of memory, returns NaN, hangs, or loses its device."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.faults import faulty as faults
from tests.faults.fixtures import Faulty, solid
from tests.server import Server

GOOD = [(10, 20, 30), (200, 100, 50), (90, 90, 90), (1, 2, 3), (250, 240, 230)]


def embed(server: Server, *colours: tuple[int, int, int]) -> httpx.Response:
    return httpx.post(f"{server.url}/embed", files=[("image", solid(colour)) for colour in colours], timeout=60)


def secrets_in(response: httpx.Response) -> list[str]:
    return [word for word in ("secret", "Traceback", "Error", ".py", "CUDA", "allocat", "0x") if word in response.text]


@pytest.mark.parametrize(
    ("colour", "code"),
    [(faults.RAISES, "internal"), (faults.NOT_A_NUMBER, "model_output_invalid")],
    ids=["raises", "not a number"],
)
def test_one_culprit_in_a_batch_of_eight(breaking: Server, colour: tuple[int, int, int], code: str) -> None:
    alone = [embed(breaking, good).json()["results"][0]["embedding"] for good in GOOD]
    response = embed(breaking, *GOOD[:3], colour, *GOOD[3:], *GOOD[:2])
    results = response.json()["results"]
    assert response.status_code == 200
    assert [result.get("error", {}).get("code") for result in results] == [None] * 3 + [code] + [None] * 4
    for result, expected in zip([*results[:3], *results[4:6]], alone, strict=True):
        assert result["embedding"] == pytest.approx(expected, abs=1e-4)
    alone_response = embed(breaking, colour)
    assert (alone_response.status_code, alone_response.json()["code"]) == (500, code)
    assert secrets_in(alone_response) + secrets_in(response) == []


def test_a_failing_image_does_not_affect_other_clients(faulty: Faulty) -> None:
    with faulty(FORWARD_S=0.3) as server, ThreadPoolExecutor(8) as pool:
        colours = [*GOOD, faults.RAISES, faults.NOT_A_NUMBER, faults.RAISES]
        statuses = list(pool.map(lambda colour: embed(server, colour).status_code, colours))
        assert statuses == [200] * 5 + [500] * 3


def test_a_batch_too_large_for_the_memory_is_split(breaking: Server) -> None:
    before = httpx.get(f"{breaking.url}/model").json()["limits"]["max_batch_tokens"]
    assert embed(breaking, faults.NO_MEMORY_FOR_TWO, *GOOD).status_code == 200
    assert httpx.get(f"{breaking.url}/model").json()["limits"]["max_batch_tokens"] < before


def test_an_image_too_large_for_the_memory_is_503(breaking: Server) -> None:
    response = embed(breaking, faults.NO_MEMORY)
    assert (response.status_code, response.json()["code"]) == (503, "out_of_memory")
    assert int(response.headers["retry-after"]) >= 1
    assert secrets_in(response) == []
    assert embed(breaking, GOOD[0]).status_code == 200


def test_readiness_ends_when_forwards_keep_failing_and_returns_when_one_succeeds(breaking: Server) -> None:
    broken = breaking.log.with_name("forwarded.broken")
    broken.touch()
    for _ in range(3):
        assert httpx.get(f"{breaking.url}/readyz").status_code == 200
        assert embed(breaking, GOOD[0]).status_code == 500
    unready = httpx.get(f"{breaking.url}/readyz")
    assert (unready.status_code, unready.json()["code"]) == (503, "unhealthy")
    assert httpx.get(f"{breaking.url}/healthz").status_code == 200
    broken.unlink()
    assert httpx.get(f"{breaking.url}/readyz").status_code == 200
    assert embed(breaking, GOOD[0]).status_code == 200


def test_a_picture_that_always_fails_does_not_end_readiness(breaking: Server) -> None:
    for _ in range(5):
        assert embed(breaking, faults.NOT_A_NUMBER).status_code == 500
    assert httpx.get(f"{breaking.url}/readyz").status_code == 200


def test_a_lost_device_fails_what_waits_and_ends_the_process(faulty: Faulty) -> None:
    with faulty(FORWARD_S=0.5) as server, ThreadPoolExecutor(8) as pool:
        first = pool.submit(embed, server, GOOD[0])
        time.sleep(0.3)
        others = [pool.submit(embed, server, colour) for colour in (GOOD[1], faults.LOST, GOOD[2])]
        assert first.result().status_code == 200
        for other in others:
            assert (other.result().status_code, other.result().json()["code"]) == (503, "draining")
            assert secrets_in(other.result()) == []
        assert server.process.wait(10) == 1
        assert "the model failed" in server.log.read_text()


def test_a_forward_that_hangs_ends_the_process(faulty: Faulty) -> None:
    with faulty(STUCK_AFTER_S=1.5) as server, ThreadPoolExecutor(4) as pool:
        stuck = pool.submit(embed, server, faults.HANGS)
        time.sleep(0.7)
        waits = pool.submit(embed, server, GOOD[0])
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert stuck.result().status_code == waits.result().status_code == 503
        assert server.process.wait(15) == 1
        assert "has been running" in server.log.read_text()


def test_work_that_waits_too_long_is_504_and_never_done(faulty: Faulty, forwarded: Callable[[], list[str]]) -> None:
    """It was accepted, and then the batch before it took longer than any that was measured."""
    with faulty(request_timeout_s=3) as server, ThreadPoolExecutor(8) as pool:
        slow = pool.submit(embed, server, faults.HANGS)
        time.sleep(0.5)
        late = list(pool.map(lambda colour: embed(server, colour), GOOD[1:]))
        assert {(response.status_code, response.json()["code"]) for response in late} == {(504, "timeout")}
        assert slow.result().status_code == 504
        assert set(forwarded()) == {str(faults.HANGS)}


def test_work_that_takes_longer_than_it_may_is_refused_and_never_done(
    faulty: Faulty, forwarded: Callable[[], list[str]]
) -> None:
    with faulty(FORWARD_S=2.5, request_timeout_s=1) as server:
        refused = embed(server, GOOD[0])
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert forwarded() == []


def test_sigterm_ends_a_process_whose_forward_hangs(faulty: Faulty) -> None:
    with faulty(drain_timeout_s=1) as server, ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(embed, server, faults.HANGS)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert stuck.result().status_code == 503
        assert server.process.wait(15) in (0, -signal.SIGTERM)
