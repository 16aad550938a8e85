"""What is kept, what is shared, what is forgotten: the cache by itself, and in a service."""

import asyncio
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.service.cache import Cache
from tests.server import Server, serving


class Squares:
    """Computes squares, when it may; writes down what it was asked to compute."""

    def __init__(self) -> None:
        self.computed: list[list[int]] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.fail: Exception | None = None
        self.asked: Counter[str] = Counter()

    def cache(self, max_bytes: int = 100) -> Cache[int]:
        return Cache(max_bytes, lambda value: 10 if value % 7 else None, lambda how: self.asked.update([how]))

    async def values(self, cache: Cache[int], *keys: int) -> list[int]:
        async def compute(places: Sequence[int]) -> list[int]:
            self.computed.append([keys[place] for place in places])
            await self.may_end.wait()
            if self.fail is not None:
                raise self.fail
            return [keys[place] ** 2 for place in places]

        asked: Sequence[Hashable] = keys
        return await cache.values(asked, compute)


async def waiting(squares: Squares, cache: Cache[int], *keys: int) -> asyncio.Task[list[int]]:
    """Somebody who has asked for these and waits."""
    task = asyncio.create_task(squares.values(cache, *keys))
    await asyncio.sleep(0.01)
    return task


def test_what_is_kept_is_not_computed_again() -> None:
    async def scenario() -> None:
        squares = Squares()
        cache = squares.cache()
        assert await squares.values(cache, 2, 3, 2) == [4, 9, 4]
        assert await squares.values(cache, 3, 4) == [9, 16]
        assert squares.computed == [[2, 3], [4]]
        assert cache.held_bytes == 30
        assert squares.asked == {"miss": 4, "hit": 1}

    asyncio.run(scenario())


def test_the_least_recently_used_is_forgotten_first() -> None:
    async def scenario() -> None:
        squares = Squares()
        cache = squares.cache(max_bytes=25)
        for keys in ((1,), (2,), (1,), (3,), (1,), (2,)):
            await squares.values(cache, *keys)
            assert cache.held_bytes <= 25
        assert squares.computed == [[1], [2], [3], [2]]

    asyncio.run(scenario())


def test_what_is_not_to_be_kept_is_computed_each_time() -> None:
    async def scenario() -> None:
        squares = Squares()
        cache = squares.cache()
        assert [await squares.values(cache, 7) for _ in range(2)] == [[49], [49]]
        assert squares.computed == [[7], [7]]
        assert cache.held_bytes == 0

    asyncio.run(scenario())


def test_what_is_under_way_is_shared() -> None:
    async def scenario() -> None:
        squares = Squares()
        cache = squares.cache()
        squares.may_end.clear()
        first = await waiting(squares, cache, 2, 3)
        second = await waiting(squares, cache, 3, 4)
        squares.may_end.set()
        assert (await first, await second) == ([4, 9], [9, 16])
        assert squares.computed == [[2, 3], [4]]
        assert squares.asked["shared"] == 1

    asyncio.run(scenario())


def test_shared_work_ends_when_the_last_one_leaves() -> None:
    async def scenario() -> None:
        squares = Squares()
        cache = squares.cache()
        squares.may_end.clear()
        first = await waiting(squares, cache, 2)
        second = await waiting(squares, cache, 2)
        first.cancel()
        await asyncio.sleep(0.01)
        third = await waiting(squares, cache, 2)
        assert squares.computed == [[2]]
        second.cancel()
        third.cancel()
        await asyncio.gather(first, second, third, return_exceptions=True)
        await asyncio.sleep(0.01)
        squares.may_end.set()
        assert await squares.values(cache, 2) == [4]
        assert squares.computed == [[2], [2]]

    asyncio.run(scenario())


def test_somebody_elses_failure_is_not_ours() -> None:
    async def scenario() -> None:
        squares = Squares()
        cache = squares.cache()
        squares.may_end.clear()
        first = await waiting(squares, cache, 2)
        other = Squares()
        second = await waiting(other, cache, 2, 3)
        squares.fail = KeyError("mine")
        squares.may_end.set()
        with pytest.raises(KeyError):
            await first
        assert await second == [4, 9]
        assert other.computed == [[3], [2]]
        assert cache.held_bytes == 10  # of 3; of 2 nothing is kept

    asyncio.run(scenario())


@given(st.lists(st.lists(st.integers(1, 9), max_size=5), max_size=20), st.integers(0, 60))
@settings(deadline=None, max_examples=60)
def test_values_are_right_whatever_is_kept(requests: list[list[int]], max_bytes: int) -> None:
    async def scenario() -> None:
        squares = Squares()
        cache = squares.cache(max_bytes)
        answers = await asyncio.gather(*(squares.values(cache, *keys) for keys in requests))
        assert answers == [[key**2 for key in keys] for keys in requests]
        assert cache.held_bytes <= max_bytes

    asyncio.run(scenario())


def counted(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("keeping") / "log", cache_mb=1) as server:
        yield server


def test_a_service_answers_repeated_images_without_a_forward(keeping: Server, cat: bytes, espresso: bytes) -> None:
    server = keeping
    with httpx.Client(base_url=server.url, timeout=60) as client:
        batches, hits = "vitrine_forward_duration_seconds_count", 'vitrine_cache_requests_total{result="hit"}'
        hits_before = counted(server.url, hits)
        first = client.post("/embed", content=cat)
        before = counted(server.url, batches)
        again = client.post("/embed", files={"image": cat})
        assert again.content == first.content
        assert again.headers["vitrine-fingerprint"] == first.headers["vitrine-fingerprint"]
        assert "forward" in first.headers["server-timing"]
        assert "forward" not in again.headers["server-timing"]
        assert counted(server.url, batches) == before

        # All that decides an answer is part of the question.
        for path in (
            "/embed?size=70",
            "/embed?resize=squash",
            "/embed?pool=mean",
            "/embed?normalize=true",
            "/classify",
        ):
            before = counted(server.url, batches)
            assert client.post(path, content=cat).json() != first.json()
            assert counted(server.url, batches) == before + 1, path

        # Of several images only the new ones are computed, and each is answered in its place.
        mixed = client.post(
            "/embed", files=[("image", cat), ("image", b"nothing"), ("image", espresso), ("image", cat)]
        )
        results = mixed.json()["results"]
        assert results[0] == results[3] == first.json()["results"][0]
        assert "error" in results[1]
        assert results[2]["image"]["format"] == "JPEG"

        assert counted(server.url, hits) == hits_before + 3
        assert 0 < counted(server.url, "vitrine_cache_bytes") < 2**20


def test_identical_images_in_flight_share_one_forward(keeping: Server, cat: bytes) -> None:
    async def burst(url: str) -> list[bytes]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            answers = await asyncio.gather(*(client.post("/embed?size=98", content=cat) for _ in range(16)))
        return [answer.content for answer in answers if answer.status_code == 200]

    before = counted(keeping.url, "vitrine_batch_images_sum")
    answers = asyncio.run(burst(keeping.url))
    assert len(answers) == 16
    assert len(set(answers)) == 1
    assert counted(keeping.url, "vitrine_batch_images_sum") == before + 1
