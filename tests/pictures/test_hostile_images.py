"""Every hostile file, uploaded in every way, gets its code soon, costs no memory and affects no other image."""

import base64
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import httpx
import pytest

from tests.faults.hostile import Case, cases
from tests.faults.wire import forget_peak, peak_bytes, resident_bytes
from tests.server import Server

WAYS: dict[str, Callable[[httpx.Client, str, bytes], httpx.Response]] = {
    "raw": lambda client, path, data: client.post(path, content=data),
    "multipart": lambda client, path, data: client.post(path, files={"image": data}),
    "json": lambda client, path, data: client.post(path, json={"images": [base64.b64encode(data).decode()]}),
}


@cache
def all_cases() -> dict[str, Case]:
    return cases()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("endpoint", ["/classify?top_k=1", "/embed"])
def test_every_hostile_file_gets_its_answer(
    client: httpx.Client, endpoint: str, way: Callable[[httpx.Client, str, bytes], httpx.Response]
) -> None:
    wrong = {}
    for name, (data, codes) in all_cases().items():
        began = time.monotonic()
        response = way(client, endpoint, data)
        seconds = time.monotonic() - began
        code = None if response.status_code == 200 else response.json()["code"]
        if code not in codes or response.status_code >= 500 or seconds > 5:
            wrong[name] = (code, response.text[:200], seconds)
    assert wrong == {}


def test_a_bomb_takes_no_memory(client: httpx.Client, server: Server, espresso: bytes) -> None:
    def answer_of(data: bytes) -> None:
        response = client.post("/embed", content=data)
        assert response.status_code in (200, 415, 422)

    small = [data for data, _ in all_cases().values() if 0 < len(data) < 200_000]
    for data in [espresso, *small]:
        answer_of(data)
    forget_peak(server)
    before = resident_bytes(server)
    for data in small:
        answer_of(data)
    assert peak_bytes(server) < before + 20 * 2**20


def test_a_good_image_has_the_same_answer_before_and_after(client: httpx.Client, server: Server, cat: bytes) -> None:
    before = client.post("/embed", content=cat).json()["results"]
    files = [("image", data) for data, _ in list(all_cases().values())[:40]]
    together = client.post("/embed", files=[("image", cat), *files, ("image", cat)]).json()["results"]
    assert client.post("/embed", content=cat).json()["results"] == before
    assert [together[0], together[-1]] == before * 2 or _close(together[0], before[0])
    assert server.process.poll() is None


def _close(one: dict[str, list[float]], other: dict[str, list[float]]) -> bool:
    """Tell whether two results agree but for the order of summation, which depends on the batch."""
    return all(abs(a - b) < 1e-4 for a, b in zip(one["embedding"], other["embedding"], strict=True))


def test_no_plugin_is_loaded_but_those_of_the_list(server: Server, client: httpx.Client) -> None:
    """Pillow starts no Ghostscript and no other child process."""
    client.post("/embed", content=all_cases()["eps that runs a command"][0])
    assert Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text() == ""
