"""Batches side by side on a real engine: how many, on how many threads, with which answers, and short of memory."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from app.inference.device.backend import Backend, DeviceUnavailable, choose_streams
from app.inference.engine import Engine
from app.inference.jobs import Answer, Job, OutOfMemory
from app.inference.queue.streams import Streams
from models.checkpoints.checkpoint import Checkpoint
from models.network.positions.cache import GridCache
from models.network.vit import Readout
from tests.bounds import assert_equal_in_float32

SIZES = [(112, 112), (56, 70), (70, 56), (14, 140)]
"""Height and width of images, in pixels."""


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set torch's threads; they are as before afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("streams", "device", "threads", "compiled", "expected"),
    [
        ("auto", "cpu", 1, False, 1),
        ("auto", "cpu", 3, False, 3),
        ("auto", "cpu", 64, False, 4),
        ("auto", "cpu", 8, True, 1),
        ("auto", "cuda", 8, False, 1),
        ("7", "cpu", 2, False, 7),
        ("1", "cuda", 2, False, 1),
        ("1", "cpu", 2, True, 1),
    ],
)
def test_how_many_batches_run_side_by_side(
    streams: str, device: str, threads: int, compiled: bool, expected: int
) -> None:
    assert choose_streams(streams, torch.device(device), threads, compiled=compiled) == expected


@pytest.mark.parametrize(
    ("device", "compiled", "what"),
    [
        ("cuda", False, "whether cuda runs two at once is tried at the start"),
        ("cuda", True, "a compiled network runs one forward pass at a time"),
        ("mps", False, "mps runs one forward pass at a time"),
        ("cpu", True, "a compiled network runs one forward pass at a time"),
    ],
)
def test_several_are_refused_where_one_runs_at_a_time(device: str, compiled: bool, what: str) -> None:
    with pytest.raises(DeviceUnavailable, match=f"streams 2: {what}; leave it at auto"):
        choose_streams("2", torch.device(device), 4, compiled=compiled)


def test_each_batch_has_its_share_of_the_threads(threads: Callable[[int], None]) -> None:
    """A lone one has all again, and no other thread's number changes."""
    threads(4)
    backend = Backend("cpu", "float32")
    found: dict[int, int] = {}

    def share() -> None:
        for side_by_side in (1, 2, 3, 4, 9, 1):
            backend.take_share(1 / side_by_side)
            assert torch.get_num_threads() == max(1, 4 // side_by_side)
        backend.take_share(1 / 2)
        found[threading.get_ident()] = torch.get_num_threads()

    thread = threading.Thread(target=share)
    thread.start()
    thread.join(30)
    assert list(found.values()) == [2]
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batches_side_by_side_answer_as_one_after_the_other(
    dtype: str, checkpoint: Checkpoint, threads: Callable[[int], None]
) -> None:
    """Of new sizes as well, whose tables several threads compute at once."""
    threads(2)
    engine = Engine(checkpoint, "cpu", dtype)
    random = np.random.default_rng(0)
    batches = [
        [Job(random.integers(0, 256, (3, *SIZES[(number + place) % 4]), np.uint8), Readout.CLS) for place in range(3)]
        for number in range(8)
    ]

    def run(batch: Sequence[Job]) -> list[Answer | Exception]:
        return engine.run(batch, 1 / 2)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, batches))
    for batch, found in zip(batches, together, strict=True):
        for ours, expected in zip(found, run(batch), strict=True):
            assert isinstance(ours, np.ndarray)
            assert isinstance(expected, np.ndarray)
            if dtype == "float32":
                assert_equal_in_float32(ours, expected)
            else:
                assert float(ours @ expected / np.linalg.norm(ours) / np.linalg.norm(expected)) > 0.9999


def test_two_batches_that_do_not_fit_side_by_side_halve_the_budget_once(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(checkpoint, "cpu", "float32", 1000)
    both = threading.Barrier(2, timeout=30)

    def forward(_: Any) -> list[Answer | Exception]:
        both.wait()
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(engine, "forward", forward)
    with ThreadPoolExecutor(2) as pool:
        for failed in [pool.submit(engine.run, [engine.probe()] * 2, 1 / 2) for _ in range(2)]:
            assert isinstance(failed.exception(30), OutOfMemory)
    assert engine.max_batch_cost == 500


def test_threads_that_compute_the_same_table_at_once_keep_one_of_them() -> None:
    cache: GridCache[list[int]] = GridCache(limit=3, size=len)
    both = threading.Barrier(2, timeout=30)

    def compute() -> list[int]:
        both.wait()
        return [0, 0]

    with ThreadPoolExecutor(2) as pool:
        first, second = (job.result(30) for job in [pool.submit(cache.get, "a", compute) for _ in range(2)])
    assert first is second
    assert cache.get("b", lambda: [1, 1]) == [1, 1]
    assert len(cache) == 1


def test_a_second_beside_another_batch_counts_half() -> None:
    now = 0.0
    streams = Streams(lambda: now)
    streams.usual = 2
    assert (streams.expected(more=False), streams.expected(more=True)) == (1, 2)
    streams.begin(0, 3)
    assert streams.expected(more=False) == 2
    now = 1
    assert streams.left_s == pytest.approx(2)
    streams.begin(1, 1)
    assert streams.left_s == pytest.approx(3)
    now = 3  # each has had one second of the device
    assert streams.left_s == pytest.approx(1)
    assert streams.end(1) == pytest.approx(1)
    assert streams.idle_since > now
    now = 4
    assert streams.end(0) == pytest.approx(3)
    assert streams.end(0) == 0
    assert streams.idle_since == now


def test_a_batch_that_left_a_share_has_no_more_when_it_runs_alone() -> None:
    now = 0.0
    streams = Streams(lambda: now)
    streams.usual = 2
    streams.begin(0, 1, more=True)
    assert streams.share(0) == 1 / 2
    now = 2
    assert streams.left_s == pytest.approx(0)
    assert streams.end(0) == pytest.approx(1)
    streams.begin(0, 1)
    assert streams.share(0) == 1
    streams.begin(1, 1, more=True)
    assert streams.share(1) == 1 / 2


def test_a_batch_leaves_a_core_for_each_piece_of_work_that_is_prepared() -> None:
    """And gets whole cores, at least as many as when all streams run."""
    streams = Streams(lambda: 0.0)
    streams.usual, streams.cores, streams.preparers = 4, 8, 8
    shares = []
    for preparing in (0, 1, 5, 6, 20):
        streams.begin(0, 1, preparing=preparing)
        shares.append(streams.share(0))
        streams.end(0)
        assert streams.expected(more=False, preparing=preparing) == pytest.approx(1 / shares[-1])
    assert shares == [1, 7 / 8, 3 / 8, 2 / 8, 2 / 8]
    streams.begin(0, 1)
    streams.begin(1, 1, preparing=1)
    assert streams.share(1) == 3 / 8


@pytest.mark.parametrize(("usual", "cores", "share"), [(7, 2, 1 / 2), (3, 2, 1 / 2), (4, 4, 1 / 4), (1, 1, 1)])
def test_a_batch_has_a_core_at_least(usual: int, cores: int, share: float) -> None:
    streams = Streams(lambda: 0.0)
    streams.usual, streams.cores, streams.preparers = usual, cores, 9
    streams.begin(0, 1, preparing=9)
    assert streams.share(0) == share


def test_each_batch_is_charged_for_its_own_share() -> None:
    now = 0.0
    streams = Streams(lambda: now)
    streams.usual = streams.cores = streams.preparers = 4
    streams.begin(0, 1, preparing=3)
    streams.begin(1, 1)
    assert (streams.share(0), streams.share(1)) == (1 / 4, 1 / 2)
    now = 2.0
    assert (streams.end(0), streams.end(1)) == (0.5, 1)


def test_a_stream_takes_work_only_while_all_before_it_are_busy() -> None:
    streams = Streams(lambda: 0.0)
    streams.usual = 3
    assert [streams.is_next(number) for number in range(3)] == [True, False, False]
    streams.begin(1, 1)
    assert [streams.is_next(number) for number in range(3)] == [True, False, False]
    streams.begin(0, 1)
    assert [streams.is_next(number) for number in range(3)] == [True, True, True]


@pytest.mark.parametrize(("others", "expected"), [(0, 2), (2, 3)])
def test_one_more_stream_runs_while_others_use_the_cores(others: int, expected: int) -> None:
    """Two cores in equal shares, on which each stream and each other program wants one. Three batches each tell."""
    now = used = 0.0
    streams = Streams(lambda: now, lambda: used)
    streams.usual, streams.more, streams.cores = 2, 1, 2

    def batches(others: int) -> None:
        nonlocal now, used
        for _ in range(3):
            running = 0
            for stream in range(3):
                if streams.is_next(stream):
                    streams.begin(stream, 1)
                    running += 1
            now, used = now + 1, used + 2 * running / max(2, running + others)
            for stream in range(3):
                streams.end(stream)

    batches(others)
    assert streams.count == expected
    batches(0)
    assert streams.count == 2


def test_a_stream_beside_idle_ones_does_not_tell_who_uses_the_cores() -> None:
    """A process without work uses no core either."""
    now = 0.0
    streams = Streams(lambda: now, lambda: 0.0)
    streams.usual, streams.more, streams.cores = 2, 1, 2
    for _ in range(100):
        streams.begin(0, 1)
        now += 1
        streams.end(0)
    assert streams.count == 2


@pytest.mark.parametrize(("streams", "threads", "more"), [("auto", 2, 1), ("auto", 1, 0), ("2", 2, 0)])
def test_only_a_number_of_streams_that_is_chosen_here_may_grow(
    streams: str, threads: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert Backend("cpu", "float32", streams).more_streams == more
