"""Batches that run side by side answer as if alone, share the threads, and are timed in seconds of the device."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from app.inference.device.backend import MOST_STREAMS, Backend, DeviceUnavailable, choose_streams
from app.inference.engine import Engine
from app.inference.jobs import Job
from app.inference.queue.streams import Streams
from models.checkpoints.checkpoint import Checkpoint
from models.network.vit import Readout
from tests.bounds import assert_equal_in_float32

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SIZES = [(56, 56), (70, 98), (112, 112), (98, 70), (14, 140), (126, 126)]


@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (2, 2), (3, 3), (64, MOST_STREAMS)])
def test_a_processor_has_a_stream_for_each_thread_up_to_a_limit(threads: int, streams: int) -> None:
    assert choose_streams("auto", CPU, threads, compiled=False) == streams
    assert choose_streams("auto", CPU, threads, compiled=True) == 1
    assert choose_streams("auto", CUDA, threads, compiled=False) == 1
    assert choose_streams("7", CPU, threads, compiled=False) == 7


@pytest.mark.parametrize(("device", "compiled", "named"), [(CUDA, False, "cuda"), (CPU, True, "a compiled network")])
def test_several_streams_are_refused_where_one_runs(device: torch.device, compiled: bool, named: str) -> None:
    assert choose_streams("1", device, 2, compiled=compiled) == 1
    with pytest.raises(DeviceUnavailable, match=named):
        choose_streams("2", device, 2, compiled=compiled)


def test_a_thread_takes_its_share_and_leaves_others_theirs() -> None:
    backend, own = Backend("cpu", "float32"), torch.get_num_threads()
    backend.threads = 4
    with ThreadPoolExecutor(1) as pool:

        def share(side_by_side: int) -> int:
            backend.take_share(side_by_side)
            return torch.get_num_threads()

        assert [pool.submit(share, number).result() for number in (1, 2, 3, 4, 9, 1)] == [4, 2, 1, 1, 1, 4]
    assert torch.get_num_threads() == own


def test_forward_passes_of_several_threads_answer_as_alone(checkpoint: Checkpoint) -> None:
    """Of other sizes at once, so that the tables for each grid are made while others read them."""
    random = np.random.default_rng(0)
    batches = [
        [
            Job(random.integers(0, 256, (3, *size), dtype=np.uint8), Readout.CLS)
            for size in random.permutation(SIZES)[:3]
        ]
        for _ in range(8)
    ]
    alone = [Engine(checkpoint, "cpu", "float32", streams="1").run(batch) for batch in batches]
    engine, begin = Engine(checkpoint, "cpu", "float32", streams="4"), threading.Barrier(4)

    def run(first: int) -> list[tuple[int, Any]]:
        begin.wait(30)
        order = [(first + 3 * number) % len(batches) for number in range(len(batches))]
        return [(place, engine.run(batches[place], 4)) for place in order]

    with ThreadPoolExecutor(4) as pool:
        answers = [pair for pairs in pool.map(run, range(4)) for pair in pairs]
    assert len(answers) == 4 * len(batches)
    for place, found in answers:
        for ours, expected in zip(found, alone[place], strict=True):
            assert isinstance(ours, np.ndarray)
            assert isinstance(expected, np.ndarray)
            assert_equal_in_float32(ours, expected)


def test_a_second_beside_another_batch_counts_half() -> None:
    now = 0.0
    streams = Streams(lambda: now)
    streams.count = 2
    assert (streams.expected(more=False), streams.expected(more=True), streams.side_by_side(more=True)) == (1, 2, 1)
    streams.begin(0, 3)
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


def test_a_stream_takes_work_only_while_all_before_it_are_busy() -> None:
    streams = Streams(lambda: 0.0)
    assert [streams.is_next(number) for number in range(3)] == [True, False, False]
    streams.begin(1, 1)
    assert [streams.is_next(number) for number in range(3)] == [True, False, False]
    streams.begin(0, 1)
    assert [streams.is_next(number) for number in range(3)] == [True, True, True]
