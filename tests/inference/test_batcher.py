"""The batcher, with a backend of ours that can be held and that writes down what reaches it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import Fatal
from app.inference.batcher import Batcher
from app.inference.queue.work import QueueFull, Result, Work


class Doubler:
    """Answers twice the payload; fails on any batch with a poisoned payload in it."""

    measured, cores, more_streams = None, 0, 0

    def __init__(self, max_batch_cost: int = 10, poison: Sequence[int] = (), streams: int = 1) -> None:
        self.max_batch_cost, self.streams = max_batch_cost, streams
        self.shares: list[float] = []
        self.poison = set(poison)
        self.batches: list[list[int]] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self.entered, self.second = threading.Event(), threading.Event()

    def run(self, payloads: Sequence[int], share: float) -> list[int | Exception]:
        self.batches.append(list(payloads))
        self.shares.append(share)
        (self.second if self.entered.is_set() else self.entered).set()
        assert self.may_run.wait(30)
        if self.poison & set(payloads):
            raise ValueError("poisoned")
        return [2 * payload for payload in payloads]


@asynccontextmanager
async def batching(backend: Doubler, max_queue_cost: int | None = None) -> AsyncIterator[Batcher[int, int]]:
    prepared = asyncio.Event()
    batcher: Batcher[int, int] = Batcher(lambda: backend, lambda _: prepared.set(), max_queue_cost)
    batcher.start()
    await prepared.wait()
    try:
        yield batcher
    finally:
        backend.may_run.set()
        await batcher.stop(30)


@asynccontextmanager
async def holding(backend: Doubler, batcher: Batcher[int, int]) -> AsyncIterator[asyncio.Task[list[Result[int]]]]:
    """The backend at work on the payload 0 until the end of the block."""
    backend.may_run.clear()
    held = asyncio.create_task(batcher.submit([Work(1, 0)]))
    assert await asyncio.to_thread(backend.entered.wait, 30)
    yield held
    backend.may_run.set()
    await held


async def submitted(batcher: Batcher[int, int], *works: Work[int]) -> asyncio.Task[list[Result[int]]]:
    task = asyncio.create_task(batcher.submit(works))
    await asyncio.sleep(0)
    return task


def test_an_idle_backend_takes_work_at_once() -> None:
    async def scenario() -> None:
        backend = Doubler()
        async with batching(backend) as batcher:
            assert [done.answer for done in await batcher.submit([Work(1, 21)])] == [42]
        assert backend.batches == [[21]]

    asyncio.run(scenario())


def test_what_waits_while_the_backend_works_becomes_one_batch() -> None:
    async def scenario() -> None:
        backend = Doubler()
        async with batching(backend) as batcher:
            async with holding(backend, batcher):
                clients = [await submitted(batcher, Work(1, n)) for n in (1, 2, 3)]
            answers = [(await client)[0].answer for client in clients]
        assert answers == [2, 4, 6]
        assert backend.batches == [[0], [1, 2, 3]]

    asyncio.run(scenario())


def test_batches_run_side_by_side_where_the_backend_can() -> None:
    """As many as it has streams; what waits for them becomes the next batches."""

    async def scenario() -> None:
        backend = Doubler(streams=2)
        async with batching(backend) as batcher:
            async with holding(backend, batcher):
                clients = [await submitted(batcher, Work(1, 1))]
                assert await asyncio.to_thread(backend.second.wait, 30)
                assert batcher.busy_s > 0
                clients += [await submitted(batcher, Work(1, n)) for n in (2, 3)]
                await asyncio.sleep(0.05)
                assert backend.batches == [[0], [1]]
            assert [(await client)[0].answer for client in clients] == [2, 4, 6]
            assert backend.shares[:2] == [1, 0.5]
            assert sorted(backend.batches[2:]) in ([[2, 3]], [[2], [3]])
        assert not batcher.busy_s
        assert batcher.batches == len(backend.batches)

    asyncio.run(scenario())


def test_a_lone_request_finds_the_first_stream() -> None:
    """It alone may have the whole device."""

    async def scenario() -> None:
        backend, names = Doubler(streams=3), set()
        run = backend.run

        def named(payloads: Sequence[int], share: float) -> list[int | Exception]:
            names.add(threading.current_thread().name)
            return run(payloads, share)

        backend.run = named  # type: ignore[method-assign]
        async with batching(backend) as batcher:
            for number in range(20):
                await batcher.submit([Work(1, number)])
        assert names == {"device"}
        assert set(backend.shares) == {1}

    asyncio.run(scenario())


@pytest.mark.parametrize("possible", [True, False])
def test_further_threads_are_started_or_their_absence_is_told(possible: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may have too few process ids; and who looks meanwhile finds no thread that has not started."""
    alive: list[bool] = []

    async def scenario() -> None:
        told: asyncio.Queue[Exception | None] = asyncio.Queue()
        batcher: Batcher[int, int] = Batcher(lambda: Doubler(streams=3), told.put_nowait)
        start = threading.Thread.start

        def started(thread: threading.Thread) -> None:
            if thread.name.startswith("device "):
                alive.append(batcher.alive)
            if thread.name == "device 2" and not possible:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", started)
        batcher.start()
        error = await asyncio.wait_for(told.get(), 10)
        assert (error is None) is possible
        await batcher.stop(30)
        assert not batcher.alive

    asyncio.run(scenario())
    assert alive == [True, True]


def test_a_runner_that_is_lost_beside_another_batch_fails_all_work_and_ends_all_threads() -> None:
    """Work that runs, that waits, and that comes later; what the other batch answers after that is of no use."""

    async def scenario() -> None:
        backend = Doubler(max_batch_cost=1, streams=2)
        run = backend.run

        def lost(payloads: Sequence[int], share: float) -> list[int | Exception]:
            answers = run(payloads, share) if list(payloads) != [1] else []
            if not answers:
                raise Fatal("lost")
            return answers

        backend.run = lost  # type: ignore[method-assign]
        reports: list[Exception | None] = []
        told = asyncio.Event()

        def report(failure: Exception | None) -> None:
            reports.append(failure)
            if failure is not None:
                told.set()

        batcher: Batcher[int, int] = Batcher(lambda: backend, report)
        batcher.start()
        backend.may_run.clear()
        clients = [await submitted(batcher, Work(1, 0))]
        assert await asyncio.to_thread(backend.entered.wait, 30)
        clients.append(await submitted(batcher, Work(1, 1), Work(1, 2)))
        for error in await asyncio.gather(*clients, return_exceptions=True):
            assert isinstance(error, Fatal)
        with pytest.raises(Fatal):
            await batcher.submit([Work(1, 3)])
        await asyncio.wait_for(told.wait(), 30)  # the error is reported after the work has failed
        assert [type(report) for report in reports] == [type(None), Fatal]
        backend.may_run.set()
        await batcher.stop(30)
        assert not batcher.alive
        assert [thread.name for thread in batcher._threads if thread.is_alive()] == []
        assert backend.batches == [[0]]

    asyncio.run(scenario())


def test_a_failing_batch_beside_another_fails_only_the_culprit() -> None:
    async def scenario() -> None:
        backend = Doubler(max_batch_cost=4, poison=[3, 11], streams=2)
        async with batching(backend) as batcher:
            async with holding(backend, batcher):
                clients = [await submitted(batcher, Work(1, n)) for n in range(1, 13)]
            answers = [(await client)[0].answer for client in clients]
        assert [n for n, answer in enumerate(answers, 1) if isinstance(answer, ValueError)] == [3, 11]
        assert [answer for answer in answers if isinstance(answer, int)] == [
            2 * n for n in range(1, 13) if n not in (3, 11)
        ]

    asyncio.run(scenario())


def test_a_batch_stays_within_its_budget_in_the_order_of_arrival() -> None:
    async def scenario() -> None:
        backend = Doubler(max_batch_cost=10)
        async with batching(backend) as batcher:
            async with holding(backend, batcher):
                costs = {1: 4, 2: 6, 3: 1, 4: 50, 5: 9}
                clients = [await submitted(batcher, Work(cost, n)) for n, cost in costs.items()]
            await asyncio.gather(*clients)
        assert backend.batches == [[0], [1, 2], [3], [4], [5]]

    asyncio.run(scenario())


def test_a_failing_batch_fails_only_the_culprit() -> None:
    async def scenario() -> None:
        backend = Doubler(poison=[3])
        async with batching(backend) as batcher:
            async with holding(backend, batcher):
                clients = [await submitted(batcher, Work(1, n)) for n in (1, 2, 3, 4, 5)]
            answers = [(await client)[0].answer for client in clients]
            assert [answer for answer in answers if isinstance(answer, int)] == [2, 4, 8, 10]
            assert isinstance(answers[2], ValueError)
            assert [done.answer for done in await batcher.submit([Work(1, 6)])] == [12]

    asyncio.run(scenario())


def test_callers_who_have_gone_never_reach_the_backend() -> None:
    async def scenario() -> None:
        backend = Doubler()
        async with batching(backend, max_queue_cost=3) as batcher:
            async with holding(backend, batcher):
                gone = [await submitted(batcher, Work(1, n)) for n in (1, 2, 3)]
                for client in gone:
                    client.cancel()
                await asyncio.gather(*gone, return_exceptions=True)
                stays = await submitted(batcher, Work(3, 4))  # their room is free at once
            assert (await stays)[0].answer == 8
        assert backend.batches == [[0], [4]]

    asyncio.run(scenario())


def test_a_full_queue_refuses_exactly_what_does_not_fit() -> None:
    async def scenario() -> None:
        backend = Doubler()
        async with batching(backend, max_queue_cost=5) as batcher:
            async with holding(backend, batcher):
                clients = [await submitted(batcher, Work(1, n)) for n in range(8)]
                done, _ = await asyncio.wait(clients, timeout=0.1)
                assert len(done) == 3
                assert isinstance(batcher.queue.refusal(1), QueueFull)
            outcomes = await asyncio.gather(*clients, return_exceptions=True)
            assert [isinstance(outcome, QueueFull) for outcome in outcomes] == [False] * 5 + [True] * 3
            assert all(outcome.retry_after_s >= 1 for outcome in outcomes if isinstance(outcome, QueueFull))
            assert batcher.queue.refusal(1) is None
            assert len(await batcher.submit([Work(1, 9)])) == 1

    asyncio.run(scenario())


def test_admission_is_all_or_nothing_and_an_empty_queue_takes_anything() -> None:
    async def scenario() -> None:
        backend = Doubler()
        async with batching(backend, max_queue_cost=5) as batcher:
            async with holding(backend, batcher):
                first = await submitted(batcher, Work(1, 1))
                with pytest.raises(QueueFull):
                    await batcher.submit([Work(2, 2), Work(3, 3)])
            await first
            assert [done.answer for done in await batcher.submit([Work(99, 5)])] == [10]
        assert [2, 3] not in backend.batches

    asyncio.run(scenario())


def test_room_that_is_kept_counts_as_taken_until_it_is_used_or_given_back() -> None:
    async def scenario() -> None:
        async with batching(Doubler(), max_queue_cost=5) as batcher:
            with batcher.queue.reserve(4) as reservation:
                with pytest.raises(QueueFull):
                    await batcher.submit([Work(2, 1)])
                with pytest.raises(QueueFull):
                    batcher.queue.reserve(2)
                assert [done.answer for done in await batcher.submit([Work(3, 2)], reservation=reservation)] == [4]
                assert batcher.queue.refusal(5) is None
            assert batcher.queue.cost == 0
            with batcher.queue.reserve(4) as reservation:
                assert len(await batcher.submit([Work(9, 3)], reservation=reservation)) == 1  # nobody else is there
            with pytest.raises(ZeroDivisionError), batcher.queue.reserve(5):
                1 / 0  # noqa: B018
            assert batcher.queue.cost == 0

    asyncio.run(scenario())


def test_stopping_finishes_what_waits() -> None:
    async def scenario() -> None:
        backend = Doubler(max_batch_cost=1)
        async with batching(backend) as batcher:
            async with holding(backend, batcher):
                clients = [await submitted(batcher, Work(1, n)) for n in (1, 2)]
                stopping = asyncio.create_task(batcher.stop(30))
                await asyncio.sleep(0)
            await stopping
            assert not batcher.alive
            assert [(await client)[0].answer for client in clients] == [2, 4]

    asyncio.run(scenario())


def test_a_backend_that_cannot_be_prepared_is_reported() -> None:
    async def scenario() -> None:
        failures: asyncio.Queue[Exception | None] = asyncio.Queue()

        def prepare() -> Doubler:
            raise OSError("no weights")

        Batcher(prepare, failures.put_nowait).start()
        assert str(await failures.get()) == "no weights"

    asyncio.run(scenario())


@given(st.lists(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 99)), min_size=1, max_size=5), max_size=12))
@settings(deadline=None, max_examples=40)
def test_every_caller_gets_its_own_answers(requests: list[list[tuple[int, int]]]) -> None:
    async def scenario() -> None:
        backend = Doubler(poison=[13, 77])
        async with batching(backend, max_queue_cost=10_000) as batcher:
            calls = [batcher.submit([Work(cost, payload) for cost, payload in request]) for request in requests]
            for request, outcome in zip(requests, await asyncio.gather(*calls), strict=True):
                for (_, payload), done in zip(request, outcome, strict=True):
                    expected = ValueError if payload in backend.poison else int
                    assert isinstance(done.answer, expected)
                    assert payload in backend.poison or done.answer == 2 * payload

    asyncio.run(scenario())
