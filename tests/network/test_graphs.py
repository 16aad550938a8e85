"""Blocks as graphs answer as without: here the recorded step is run again, on CUDA it is replayed.

Attention is torch's documented `varlen_attn` in plain arithmetic, which reads the bounds alone, as the kernel does.
"""

import itertools
import logging
from typing import Any

import pytest
import torch
import torch.nn.attention.varlen
from torch import Tensor

from app.inference.device.graphs import try_graphs
from models.network.attention import AttentionSpec
from models.network.intermediate import TokenSpec
from models.network.kernels import graph_trial
from models.network.kernels.attention import varlen_attention
from models.network.kernels.graph_trial import WrongGraph, try_all
from models.network.kernels.graphs import Budget, Graphs, Step, ladder
from models.network.packing import Packing
from models.network.positions.rotary import Rotary
from models.network.vit import Readout, VisionTransformer, graphs_of
from tests.bounds import assert_equal_in_float32
from tests.network.test_network import images, tiny

SIZES = (24, 40), (64, 64), (8, 8), (40, 24), (64, 64), (104, 104)
TYPICAL = 3 + 64
MOST = 700


def varlen(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, **_: Any) -> Tensor:
    """`varlen_attn` as torch documents it; rows without a sequence are not written, here they are not numbers."""
    assert cu_q.diff().max() <= max_q
    assert cu_k.diff().max() <= max_k
    found = torch.full_like(q, torch.nan)
    for (start, end), (first, last) in zip(itertools.pairwise(cu_q), itertools.pairwise(cu_k), strict=True):
        weights = (torch.einsum("qhd,khd->hqk", q[start:end], k[first:last]) * q.shape[-1] ** -0.5).softmax(-1)
        found[start:end] = torch.einsum("hqk,khd->qhd", weights, v[first:last])
    return found


@pytest.fixture(autouse=True)
def _torch_has_varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen)


class Recorder:
    """Records a step by keeping it, and counts the replays."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, step: Step) -> Step:
        def replay() -> None:
            self.replays += 1
            step()

        return replay


def recorded(network: VisionTransformer) -> Recorder:
    """Let a network use graphs."""
    network.set_attention(varlen_attention)
    recorder = Recorder()
    network.recorded = graphs_of(network, images((64, 64))[0], MOST, recorder)
    return recorder


def test_budgets_cover_all_numbers_of_tokens_once() -> None:
    budgets = ladder(197, 32768)
    assert [budget.above for budget in budgets] == [0, *(budget.tokens for budget in budgets[:-1])]
    assert budgets[-1].tokens >= 32768 > budgets[-1].above
    assert len(budgets) < 25


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([5, 3], [0, 3, 8, 14, 16, 16]),  # padding in two sequences, none longer than 6
        ([6, 6, 4], [0, 4, 10, 16, 16, 16]),
        ([4], None),  # a smaller budget's
        ([9, 8], None),  # too many tokens
        ([7, 3], None),  # one image too long
        ([3, 3, 3, 3, 2, 2], None),  # too many images
        ([2, 2, 2, 2, 1], None),  # no room for the padding's sequences
    ],
)
def test_padding_is_further_sequences(lengths: list[int], expected: list[int] | None) -> None:
    budget = Budget(above=4, tokens=16, sequences=5, longest=6)
    assert budget.bounds(Packing.from_lengths(lengths)) == expected


VARIANTS: dict[str, dict[str, Any]] = {
    "learned positions": {},
    "rotary positions": {"rotary": Rotary(100.0), "position": None},
    "norms after": {"norm_post": True, "layer_scale": False},
    "the mean": {"pool": "avg"},
}


@torch.inference_mode()
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("readout", [Readout.LOGITS, Readout.CLS | Readout.MEAN | Readout.PATCHES])
def test_answers_are_those_without_graphs(variant: dict[str, Any], readout: Readout) -> None:
    plain, network = tiny(**variant), tiny(**variant)
    recorder = recorded(network)
    batches = [[0], [5, 5, 1, 0], [1], [2, 2, 3], [0, 1, 2, 3, 4, 5], [1, 1]]
    pictures = images(*SIZES)
    for number, batch in enumerate(batches, 1):
        chosen = [pictures[place] for place in batch]
        expected, found = plain(chosen, readout), network(chosen, readout)
        for name in ("cls", "mean", "logits"):
            if getattr(expected, name) is not None:
                assert_equal_in_float32(getattr(found, name), getattr(expected, name))
        for one, other in zip(found.patches or (), expected.patches or (), strict=True):
            assert_equal_in_float32(one, other)
        assert recorder.replays == number


@torch.inference_mode()
def test_an_answer_stays_when_the_next_batch_runs() -> None:
    network = tiny()
    recorded(network)
    first, second = images((64, 64), (64, 64))
    answer = network([first], Readout.PATCHES | Readout.CLS)
    kept = answer.patches[0].clone()
    network([second], Readout.PATCHES | Readout.CLS)
    assert torch.equal(answer.patches[0], kept)


@torch.inference_mode()
def test_an_image_that_is_not_a_number_does_not_reach_the_next_batch() -> None:
    network = tiny()
    recorder = recorded(network)
    large, small = images((104, 104), (64, 64))
    assert network([large * torch.nan], Readout.CLS).cls.isnan().all()
    assert network([large, large * torch.nan, small], Readout.CLS).cls[[0, 2]].isfinite().all()
    assert network([large], Readout.CLS).cls.isfinite().all()
    assert recorder.replays == 3


@torch.inference_mode()
def test_what_does_not_fit_is_computed_without() -> None:
    plain, network = tiny(), tiny()
    recorder = recorded(network)
    one, long = images((64, 64), (136, 136))  # 17 * 17 patches: longer than four typical images
    batches = [[long], [one] * 12, [images((8, 8))[0]] * 40]
    for batch in batches:
        assert_equal_in_float32(network(batch, Readout.CLS).cls, plain(batch, Readout.CLS).cls)
    attention = network([one], Readout.CLS, {0: AttentionSpec(1)}).attention[0]
    assert_equal_in_float32(attention, plain([one], Readout.CLS, {0: AttentionSpec(1)}).attention[0])
    tokens = network([one], Readout.CLS, None, {0: TokenSpec((0, 1))}).tokens[0]
    assert_equal_in_float32(tokens, plain([one], Readout.CLS, None, {0: TokenSpec((0, 1))}).tokens[0])
    assert recorder.replays == 0


def test_gradients_are_computed_without() -> None:
    network = tiny()
    with torch.inference_mode():
        recorder = recorded(network)
    network(images((64, 64)), Readout.CLS)
    assert recorder.replays == 0
    with torch.no_grad():
        network(images((64, 64)), Readout.CLS)
    assert recorder.replays == 1


# --- the trial ---


def made(capture: Any = Recorder, network: VisionTransformer | None = None) -> Graphs:
    network = network or tiny()
    network.set_attention(varlen_attention)
    return graphs_of(network, images((64, 64))[0], MOST, capture())


@torch.inference_mode()
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_good_graphs_pass_the_trial(variant: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_trial, "keeps_pace", lambda *_: True)
    graphs = made(network=tiny(**variant))
    try_all(graphs, 4)
    assert len(graphs.budgets) == len(ladder(TYPICAL, MOST))


@torch.inference_mode()
def test_slow_graphs_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = itertools.cycle([True, False])
    monkeypatch.setattr(graph_trial, "keeps_pace", lambda *_: next(answers))
    graphs = made()
    every = graphs.budgets
    try_all(graphs, 4)
    assert graphs.budgets == every[::2]


def stale() -> Any:
    """A recorder whose replays do what the first one did."""

    def capture(step: Step) -> Step:
        done: list[bool] = []

        def replay() -> None:
            if not done:
                step()
            done.append(True)

        return replay

    return capture


class Unmasked(Graphs):
    """Graphs whose images see what follows them."""

    def _find(self, packing: Packing) -> Any:
        budget, bounds = super()._find(packing) or (self.budgets[0], [])
        return budget, [0, *(bounds[2:] or [budget.tokens]), budget.tokens]


@torch.inference_mode()
def test_wrong_graphs_are_found() -> None:
    with pytest.raises(WrongGraph):
        try_all(made(stale), 4)
    good = made()
    wrong = Unmasked(good.run, ladder(TYPICAL, MOST), Recorder(), good.like, good.places)
    with pytest.raises(WrongGraph):
        try_all(wrong, 4)


def refuses(_: Step) -> Step:
    raise RuntimeError("operation not permitted when stream is capturing\nsecond line")


@pytest.mark.parametrize(
    ("network", "capture", "line"),
    [
        (tiny(), refuses, "not used; RuntimeError: operation not permitted when stream is capturing"),
        (tiny(), stale(), "not used; the graph for 128 tokens answers otherwise than without a graph"),
        (tiny(pool_layers=2), Recorder(), "not used; the blocks of this network differ in more than their weights"),
    ],
)
def test_the_log_says_why_there_are_none(
    network: VisionTransformer, capture: Any, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    network.set_attention(varlen_attention)
    with caplog.at_level(logging.INFO, "vitrine"):
        assert try_graphs(network, images((64, 64))[0], MOST, capture) is None
    assert [record.message for record in caplog.records] == [f"CUDA graphs: {line}"]


def test_the_log_says_which_are_used(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_trial, "keeps_pace", lambda *_: True)
    network = tiny()
    network.set_attention(varlen_attention)
    with caplog.at_level(logging.INFO, "vitrine"):
        graphs = try_graphs(network, images((64, 64))[0], MOST, Recorder())
    assert graphs is not None
    count, largest = len(graphs.budgets), graphs.budgets[-1].tokens
    assert [record.message for record in caplog.records] == [
        f"CUDA graphs: {count} of {count}, for up to {largest} tokens"
    ]
