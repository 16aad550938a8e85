"""An engine records graphs as it warms up, uses them afterwards, and does without where they cannot be recorded.

The kernel is replaced by its documentation in plain arithmetic, and the recorder by one that runs the step again.
"""

import logging

import numpy as np
import pytest
import torch
import torch.nn.attention.varlen
from torch import Tensor

from app.inference import engine as engine_module
from app.inference.device.graphs import capture_on, try_graphs
from app.inference.engine import Engine
from app.inference.jobs import Job
from app.inference.warm_up import warm_up
from models.checkpoints.checkpoint import Checkpoint
from models.network.kernels import graph_trial
from models.network.kernels.attention import varlen_attention
from models.network.kernels.graphs import Capture, Graphs
from models.network.vit import Readout, VisionTransformer
from tests.network.test_graphs import Recorder, varlen

SIZES = ((112, 112), (70, 140), (14, 14), (112, 112))


@pytest.fixture
def engine(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen)
    engine = Engine(checkpoint, "cpu", "float32", max_batch_tokens=150)
    engine.network.set_attention(varlen_attention)
    return engine


def as_on_cuda(engine: Engine, capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def try_them(network: VisionTransformer, image: Tensor) -> Graphs | None:
        return try_graphs(network, image, engine.max_batch_cost, capture)

    monkeypatch.setattr(engine_module, "try_script", try_them)


def vectors(engine: Engine) -> np.ndarray:
    chance = np.random.default_rng(3)
    jobs = [Job(chance.integers(0, 256, (3, *size), np.uint8), Readout.CLS) for size in SIZES]
    return np.stack([np.asarray(answer) for pair in (jobs[:2], jobs[2:]) for answer in engine.run(pair)])


def test_it_uses_graphs_after_the_warm_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    as_on_cuda(engine, recorder, monkeypatch)
    monkeypatch.setattr(graph_trial, "keeps_pace", lambda *_: True)
    expected = vectors(engine)
    measured: list[bool] = []
    monkeypatch.setattr(
        engine.backend,
        "largest_batch",
        lambda *_: measured.append(engine.network.recorded is None and recorder.replays > 0),
    )
    warm_up(engine)
    assert measured == [True]  # the memory of a batch without graphs, beside what they hold
    before = recorder.replays
    assert np.abs(vectors(engine) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert recorder.replays == before + 2


def test_it_does_without_where_nothing_can_be_recorded(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_on_cuda(engine, capture_on(engine.device), monkeypatch)
    expected = vectors(engine)
    with caplog.at_level(logging.INFO, "vitrine"):
        warm_up(engine)  # this device has no CUDA graphs
    assert engine.network.recorded is None
    assert len([line for line in caplog.messages if line.startswith("CUDA graphs: not used; ")]) == 1
    assert np.array_equal(vectors(engine), expected)
