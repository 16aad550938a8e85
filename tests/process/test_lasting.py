"""Endurance: thousands of mutated images and hours of mixed clients in one process, without a memory leak.

`make soak` runs the long forms; SOAK_S sets the seconds of the mixed load.
"""

import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.faults.hostile import animation, cases, encoded, photo
from tests.faults.wire import connected, post, resident_bytes
from tests.server import Server

MIB = 2**20
SEEDS = [encoded(photo(), image_format) for image_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")] + [
    encoded(photo(), "JPEG", progressive=True),
    encoded(photo().convert("CMYK"), "JPEG"),
    encoded(photo().convert("RGBA"), "PNG"),
    encoded(photo().convert("I;16"), "PNG"),
    animation("WEBP", 3),
    animation("PNG", 3),
]


def mutated(random_: random.Random) -> bytes:
    """Return an image file with a few bytes changed, deleted, repeated or inserted."""
    data = bytearray(random_.choice(SEEDS))
    for _ in range(random_.choice((1, 2, 5, 20))):
        if len(data) < 2:
            break
        at = random_.randrange(len(data))
        length = random_.randrange(1, 40)
        match random_.randrange(5):
            case 0:
                data[at] = random_.randrange(256)
            case 1:
                data[at : at + 4] = random_.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case _:
                data[at:at] = random_.randbytes(length)
    return bytes(data) if random_.random() < 0.9 else bytes(data[: random_.randrange(1, len(data))])


def survive(server: Server, count: int, seed: int) -> Counter[int]:
    def send(number: int) -> int:
        data = mutated(random.Random(f"{seed} {number}"))
        path = ("/classify?top_k=1", "/embed?encoding=base64")[number % 2]
        status = client.post(path, content=data).status_code
        assert status < 500, (seed, number)
        return status

    with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(4) as pool:
        return Counter(pool.map(send, range(count)))


def test_hundreds_of_mutated_images(server: Server, cat: bytes) -> None:
    expected = httpx.post(f"{server.url}/embed", content=cat).json()["results"]
    statuses = survive(server, 400, seed=1)
    assert set(statuses) <= {200, 415, 422}
    assert statuses[200] > 20
    assert statuses[422] > 20
    assert server.process.poll() is None
    assert httpx.post(f"{server.url}/embed", content=cat).json()["results"] == expected


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_mutated_images(server: Server) -> None:
    survive(server, 1000, seed=2)
    before = resident_bytes(server)
    survive(server, 10_000, seed=3)
    assert server.process.poll() is None
    assert resident_bytes(server) < before + 50 * MIB


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_hours_of_mixed_clients(server: Server, cat: bytes) -> None:
    """A tenth of the requests is hostile, and in a twentieth the client disconnects early. Memory must not grow."""
    seconds = float(os.environ.get("SOAK_S", "7200"))
    hostile = [data for data, _ in cases().values() if 0 < len(data) < MIB]
    warm, end = time.monotonic() + min(600, seconds / 4), time.monotonic() + seconds
    statuses: Counter[int] = Counter()

    def client(seed: int) -> None:
        random_ = random.Random(seed)
        with httpx.Client(base_url=server.url, timeout=60) as session:
            while time.monotonic() < end:
                chance = random_.random()
                if chance < 0.05:
                    with connected(server) as sock:
                        sock.sendall(post("/classify", cat)[: random_.randrange(50_000)])
                    continue
                data = random_.choice(hostile) if chance < 0.15 else cat
                statuses[session.post("/embed", content=data).status_code] += 1

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, seed) for seed in range(8)]
        time.sleep(max(0, warm - time.monotonic()))
        before = resident_bytes(server)
        for one in clients:
            one.result()
    hours = (end - warm) / 3600
    assert set(statuses) <= {200, 415, 422}, statuses
    assert resident_bytes(server) < before + 10 * MIB + hours * MIB
    assert "Traceback" not in Path(server.log).read_text()
