"""What only a CUDA device can show; skipped where there is none."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np
import pytest
import torch

from app.inference.device.copies import OverlappedCopies
from app.inference.engine import Engine
from app.inference.jobs import Job
from app.inference.overlap import STREAMS
from app.inference.warm_up import warm_up
from models.checkpoints.checkpoint import Checkpoint
from models.network.block import Block
from models.network.kernels.attention import grouped_attention, varlen_attention
from models.network.vit import Readout

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

SIZES = ((112, 112), (70, 140), (224, 224), (112, 112), (140, 70), (14, 14))


def jobs() -> list[Job]:
    chance = np.random.default_rng(3)
    return [Job(chance.integers(0, 256, (3, *size), np.uint8), Readout.CLS) for size in SIZES]


def vectors(engine: Engine, asked: list[Job]) -> np.ndarray:
    return np.stack([np.asarray(answer) for answer in engine.run(asked)])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.99999), ("bfloat16", 0.995), ("float16", 0.9999)])
def test_it_answers_as_the_cpu_does(checkpoint: Checkpoint, dtype: str, least: float) -> None:
    expected = vectors(Engine(checkpoint, "cpu", "float32"), jobs())
    assert cosines(vectors(Engine(checkpoint, "cuda", dtype), jobs()), expected).min() >= least


def test_an_image_is_answered_in_company_as_alone(checkpoint: Checkpoint) -> None:
    engine = Engine(checkpoint, "cuda", "bfloat16")
    alone = np.concatenate([vectors(engine, [job]) for job in jobs()])
    assert cosines(vectors(engine, jobs()), alone).min() >= 0.9999


def test_it_attends_to_all_lengths_in_one_call_where_card_and_torch_can(checkpoint: Checkpoint) -> None:
    new = torch.cuda.get_device_capability() >= (8, 0)
    engine = Engine(checkpoint, "cuda", "bfloat16" if new else "float16")
    assert cast(Block, engine.network.blocks[0]).attn.attend is (varlen_attention if new else grouped_attention)


def test_batches_fit_into_the_memory_that_is_free(checkpoint: Checkpoint) -> None:
    free, _ = torch.cuda.mem_get_info()
    # All but a gigabyte is taken: what is left does not hold the batch that a card usually does.
    taken = torch.empty(max(0, free - 2**30), dtype=torch.uint8, device="cuda")
    engine = Engine(checkpoint, "cuda", "float32", max_batch_tokens=2**22)
    warm_up(engine)
    assert engine.max_batch_cost < 2**22
    probe = engine.probe()
    count = engine.max_batch_cost // engine.cost(*probe.pixels.shape[1:])
    engine.run([probe] * count)  # raises OutOfMemory for a batch that was allowed and does not fit
    del taken


def attends_by_bounds(engine: Engine) -> bool:
    return cast(Block, engine.network.blocks[0]).attn.attend is varlen_attention


def test_graphs_answer_as_the_network_without_them(checkpoint: Checkpoint) -> None:
    engine = Engine(checkpoint, "cuda", "bfloat16", max_batch_tokens=4096)
    warm_up(engine)
    if not attends_by_bounds(engine):
        pytest.skip("this card has no attention for all lengths in one call, which graphs need")
    graphs = engine.network.recorded
    assert graphs is not None  # those of few images save most of their time
    replayed = []
    batches = [jobs(), jobs()[:1], jobs()[1:4], jobs() * 3, jobs()[:1]]
    for batch in batches:
        engine.network.recorded = None
        expected = vectors(engine, batch)
        engine.network.recorded = graphs
        replayed.append(vectors(engine, batch))
        assert cosines(replayed[-1], expected).min() >= 0.9999
    assert np.array_equal(replayed[1], replayed[-1])  # whatever ran between


def test_the_memory_of_graphs_is_counted(checkpoint: Checkpoint) -> None:
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(0, free - 2**31), dtype=torch.uint8, device="cuda")
    engine = Engine(checkpoint, "cuda", "bfloat16", max_batch_tokens=2**17)
    warm_up(engine)  # with graphs, or without them where the memory does not suffice
    probe = engine.probe()
    engine.run([probe] * (engine.max_batch_cost // engine.cost(*probe.pixels.shape[1:])))  # raises OutOfMemory
    graphs, engine.network.recorded = engine.network.recorded, None
    engine.run([probe] * (engine.max_batch_cost // engine.cost(*probe.pixels.shape[1:])))
    del taken, graphs


def test_two_batches_at_once_answer_as_one_after_the_other(checkpoint: Checkpoint) -> None:
    engine = Engine(checkpoint, "cuda", "float32", max_batch_tokens=4096)
    batches = [jobs()[count % len(SIZES) :] * (1 + count % 3) for count in range(40)]
    expected = [vectors(engine, batch) for batch in batches]
    engine.backend.copies = OverlappedCopies(engine.device)
    with ThreadPoolExecutor(STREAMS) as threads:
        found = list(threads.map(partial(vectors, engine), batches))
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_thread_that_starts_a_batch_does_not_wait_for_the_device(checkpoint: Checkpoint) -> None:
    engine = Engine(checkpoint, "cuda", "float32")
    asked = [replace(job, readout=readout) for job in jobs() for readout in (Readout.CLS, Readout.LOGITS)]
    engine.run(asked)  # the positions of all grids are copied once
    engine.backend.copies = copies = OverlappedCopies(engine.device)

    @contextmanager
    def watched() -> Iterator[None]:
        try:
            torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    copies.turn = watched()
    engine.run(asked)


def test_the_log_says_whether_two_batches_run_at_once(checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(checkpoint, "cuda", "auto")
    with caplog.at_level(logging.INFO, "vitrine"):
        warm_up(engine)
    (said,) = [line for line in caplog.messages if line.startswith("two batches at once: ")]
    assert engine.streams == (1 if "not used" in said else STREAMS)
    assert "Error" not in said
    assert "differ" not in said
