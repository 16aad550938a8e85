"""Many clients at once: every answer is the one that the image gets alone, and nobody's answer goes to another."""

import asyncio
import io
import random

import httpx
import numpy as np
from PIL import Image

from tests.bounds import assert_equal_in_float32
from tests.server import Server

CLIENTS = 64
SIZES = ["56", "70", "112", "98x140", "140x98", "126", "224", "14"]


def picture(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((int(rng.integers(40, 400)), int(rng.integers(40, 400))), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


async def vector(
    client: httpx.AsyncClient, data: bytes, size: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    response = await client.post("/embed", params={"size": size}, content=data, headers={"Accept": "application/x-npy"})
    assert response.status_code == 200, response.text
    loaded: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = np.load(io.BytesIO(response.content))
    return loaded


def test_64_clients_of_mixed_resolutions_get_the_answers_they_get_alone(server: Server) -> None:
    requests = [(picture(seed), SIZES[seed % len(SIZES)]) for seed in range(CLIENTS)]

    async def scenario() -> None:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120) as client:
            alone = [await vector(client, *request) for request in requests]
            order = random.Random(0).sample(range(CLIENTS), CLIENTS)
            together = await asyncio.gather(*(vector(client, *requests[place]) for place in order))
        for place, ours in zip(order, together, strict=True):
            assert_equal_in_float32(ours, alone[place])
        # The pictures differ by far more than the bound, so an answer that went astray would have been seen.
        same_size = [alone[place] for place in range(0, CLIENTS, len(SIZES))]
        apart = [np.abs(a - b).max() for a in same_size for b in same_size if a is not b]
        assert min(apart) > 0.1

    asyncio.run(scenario())


def test_bad_images_of_some_clients_do_not_touch_the_others(server: Server) -> None:
    good = picture(1)

    async def scenario() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            alone = await vector(client, good, "112")

            bad = asyncio.gather(*(client.post("/embed", content=good[: 500 + n]) for n in range(16)))
            for outcome in await asyncio.gather(*(vector(client, good, "112") for _ in range(16))):
                assert_equal_in_float32(outcome, alone)
            assert {response.status_code for response in await bad} == {422}

    asyncio.run(scenario())
