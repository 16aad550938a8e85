"""A batch waits a little for work that is being prepared, where preparing it needs the same cores."""

import asyncio
import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import pytest

from app.inference.queue.queue import Queue
from app.inference.queue.work import Asker, Call, Entry, Work, call_of

BUDGET = 10
LONG_S = 3600.0
AT_ONCE_S = 20.0
"""Far below what a batch would wait; far above what a busy machine needs."""

Taken = Future[tuple[list[Entry[int, int]], list[Call[int, int]]]]


class Bench:
    """A queue on a clock that stands, in which one piece of work takes an hour, and a stream that takes from it."""

    def __init__(self) -> None:
        self.queue: Queue[int, int] = Queue(100, lambda: 0.0)
        self.queue.forecast.budget, self.queue.streams.cores = BUDGET, 1
        self.queue.forecast.observe(1, LONG_S)
        self._loop = asyncio.new_event_loop()
        self._pool = ThreadPoolExecutor(1)

    def call(self, payload: int, deadline: float = math.inf, cost: int = 1) -> Call[int, int]:
        return call_of([Work(cost, payload)], Asker("", deadline), 0.0, self._loop)

    def take(self, stream: int = 0) -> Taken:
        return self._pool.submit(self.queue.take, lambda: BUDGET, stream)

    def close(self) -> None:
        self.queue.close()
        self._pool.shutdown()
        self._loop.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with closing(Bench()) as bench:
        yield bench


def payloads(taken: Taken) -> list[int]:
    batch, late = taken.result(AT_ONCE_S)
    assert not late
    return [entry.work.payload for entry in batch]


def test_work_that_was_being_prepared_joins_the_batch(bench: Bench) -> None:
    reservation = bench.queue.reserve(1)
    bench.queue.put(bench.call(1))
    taken = bench.take()
    time.sleep(0.05)
    assert not taken.done()
    bench.queue.put(bench.call(2), reservation)
    assert payloads(taken) == [1, 2]


def test_a_batch_runs_when_what_was_being_prepared_is_given_up(bench: Bench) -> None:
    with bench.queue.reserve(1):
        bench.queue.put(bench.call(1))
        taken = bench.take()
        time.sleep(0.05)
        assert not taken.done()
    assert payloads(taken) == [1]


USELESS = ("other cores", "a stream is idle", "a full batch", "a deadline", "nothing prepared")


@pytest.mark.parametrize("reason", USELESS)
def test_a_batch_runs_at_once_where_waiting_is_of_no_use(bench: Bench, reason: str) -> None:
    bench.queue.streams.cores = int(reason != "other cores")
    bench.queue.streams.usual = 2 if reason == "a stream is idle" else 1
    cost = BUDGET if reason == "a full batch" else 1
    bench.queue.put(bench.call(1, 1.3 * LONG_S if reason == "a deadline" else math.inf, cost))
    held = bench.queue.reserve(1) if reason != "nothing prepared" else None
    assert payloads(bench.take()) == [1]
    assert held is None or held.cost == 1


def test_the_last_idle_stream_waits(bench: Bench) -> None:
    bench.queue.streams.usual = 2
    bench.queue.streams.begin(0, LONG_S)
    reservation = bench.queue.reserve(1)
    bench.queue.put(bench.call(1))
    taken = bench.take(stream=1)
    time.sleep(0.05)
    assert not taken.done()
    bench.queue.put(bench.call(2), reservation)
    assert payloads(taken) == [1, 2]


def test_a_batch_waits_for_a_share_of_its_own_time_at_most() -> None:
    queue: Queue[int, int] = Queue(100)
    queue.forecast.budget, queue.streams.cores = BUDGET, 1
    queue.forecast.observe(1, 0.2)
    loop = asyncio.new_event_loop()
    with queue.reserve(1), closing(loop), ThreadPoolExecutor(1) as pool:
        queue.put(call_of([Work(1, 1)], Asker(), time.monotonic(), loop))
        began = time.monotonic()
        assert payloads(pool.submit(queue.take, lambda: BUDGET)) == [1]
        assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize(("cores", "share"), [(2, 1 / 2), (8, 7 / 8), (0, 1)])
def test_a_batch_leaves_a_core_to_what_prepares_work_on_its_cores(bench: Bench, cores: int, share: float) -> None:
    bench.queue.streams.usual, bench.queue.streams.cores = 2, cores
    bench.queue.put(bench.call(1))
    with bench.queue.reserve(1):
        assert payloads(bench.take()) == [1]
        assert bench.queue.streams.share(0) == share
    bench.queue.put(bench.call(2))
    assert payloads(bench.take()) == [2]
    assert bench.queue.streams.share(0) == 1


def test_the_cores_that_are_left_are_as_many_as_prepare_work(bench: Bench) -> None:
    """One request may bring several images, and what is evicted from the queue is still being prepared."""
    queue = bench.queue
    queue.streams.usual, queue.streams.cores, queue.streams.preparers = 4, 8, 3
    with queue.reserve(90, Asker("greedy"), pieces=2) as reservation:
        with queue.reserve(20, Asker("another")):
            assert not reservation.cost
        queue.put(bench.call(1))
        assert payloads(bench.take()) == [1]
        assert queue.streams.share(0) == 6 / 8
    with queue.reserve(9, pieces=9):
        queue.put(bench.call(2))
        assert payloads(bench.take()) == [2]
        assert queue.streams.share(0) == 5 / 8


def test_work_that_is_prepared_is_not_late_because_it_was_being_prepared(bench: Bench) -> None:
    """Its reservation was for less than it costs."""
    bench.queue.streams.usual = bench.queue.streams.cores = 2
    with bench.queue.reserve(1) as reservation:
        bench.queue.put(bench.call(1, 2.5 * LONG_S, cost=2), reservation)
    assert payloads(bench.take()) == [1]
