"""Blocks as one call of TorchScript answer as without, to the last bit, for images of any sizes."""

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from app.inference.device import script as script_module
from app.inference.device.script import try_script
from models.network.attention import AttentionSpec
from models.network.intermediate import TokenSpec
from models.network.kernels.attention import ProductAttention, grouped_attention
from models.network.kernels.script import Script, scripted
from models.network.packing import Packing
from models.network.positions.places import NOWHERE
from models.network.positions.rotary import Rotary
from models.network.vit import Readout, VisionTransformer, script_of
from tests.network.test_network import images, tiny


def unchanged(x: Tensor) -> Tensor:
    return x


pytestmark = pytest.mark.skipif(
    scripted(unchanged) is unchanged, reason="this torch or this Python has no TorchScript; blocks run without"
)

SIZES = (24, 40), (64, 64), (8, 8), (40, 24), (64, 64), (104, 104)

VARIANTS: dict[str, dict[str, Any]] = {
    "learned positions": {},
    "rotary positions": {"rotary": Rotary(100.0), "position": None},
    "norms after": {"norm_post": True, "layer_scale": False},
    "norms on queries and keys": {"qk_norm": True},
    "gated": {"swiglu": True},
    "the mean": {"pool": "avg"},
}


def recorded(longest: int = 1000, **variant: Any) -> tuple[VisionTransformer, VisionTransformer]:
    """The same network twice, the second with its blocks in one call."""
    plain, network = tiny(**variant), tiny(**variant)
    for one in (plain, network):
        one.set_attention(ProductAttention(longest))
    network.recorded = script_of(network, images((16, 8))[0])
    return plain, network


@torch.inference_mode()
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("longest", [0, 30, 1000])
def test_answers_are_those_of_one_operation_after_the_other(variant: dict[str, Any], longest: int) -> None:
    plain, network = recorded(longest, **variant)
    pictures = images(*SIZES)
    for batch in ([0], [5, 5, 1, 0], [1], [2, 2, 3], [0, 1, 2, 3, 4, 5], [1, 1]):
        chosen = [pictures[place] for place in batch]
        for readout in (Readout.LOGITS, Readout.CLS | Readout.MEAN | Readout.PATCHES):
            expected, found = plain(chosen, readout), network(chosen, readout)
            for name in ("cls", "mean", "logits"):
                if getattr(expected, name) is not None:
                    assert torch.equal(getattr(found, name), getattr(expected, name))
            for one, other in zip(found.patches or (), expected.patches or (), strict=True):
                assert torch.equal(one, other)


@torch.inference_mode()
def test_threads_call_it_at_the_same_time() -> None:
    plain, network = recorded()
    batches = [images(*[SIZES[(first + more) % len(SIZES)] for more in range(3)]) for first in range(24)]

    def answer(batch: list[Tensor]) -> Tensor | None:
        with torch.inference_mode():
            return network(batch, Readout.MEAN).mean

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(answer, batches))
    for batch, one in zip(batches, found, strict=True):
        expected = plain(batch, Readout.MEAN).mean
        assert one is not None
        assert expected is not None
        assert torch.allclose(one, expected, atol=1e-5)  # with another number of threads sums may differ


@torch.inference_mode()
def test_what_is_read_between_blocks_is_computed_without(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, network = recorded()
    calls: list[int] = []
    run = Script.__call__

    def counted(*given: Any) -> Tensor | None:
        calls.append(1)
        return run(*given)

    monkeypatch.setattr(Script, "__call__", counted)
    image = images((64, 64))[0]
    attention = network([image], Readout.CLS, {0: AttentionSpec(1)}).attention[0]
    assert torch.equal(attention, plain([image], Readout.CLS, {0: AttentionSpec(1)}).attention[0])
    tokens = network([image], Readout.CLS, None, {0: TokenSpec((0, 1))}).tokens[0]
    assert torch.equal(tokens, plain([image], Readout.CLS, None, {0: TokenSpec((0, 1))}).tokens[0])
    assert not calls
    network([image], Readout.CLS)
    assert calls


def test_gradients_are_computed_without() -> None:
    _, network = recorded()
    assert network.recorded is not None
    image = images((64, 64))[0]
    packing = network.packing_of([(8, 8)])
    assert network.recorded(network.embed([image], [(8, 8)]), packing, NOWHERE) is None


def test_rows_out_of_range_are_softmaxed_in_script_as_in_python() -> None:
    q, k, v = torch.randn(3, 140, 2, 8)
    q[:3] *= 1e3
    packing = Packing.from_lengths([140])
    found = ProductAttention(1000)(q, k, v, packing, packing)
    assert torch.allclose(found, grouped_attention(q, k, v, packing, packing), atol=1e-5)


def test_a_function_that_cannot_be_compiled_runs_as_it_is() -> None:
    def unknown(x: Tensor, *more: object) -> Tensor:
        return x

    assert scripted(unknown) is unknown


def attention_of_the_example(q: Tensor, k: Tensor, v: Tensor, packing: Packing, query_packing: Packing) -> Tensor:
    """Reads lengths in Python, which a recording keeps."""
    return q.flatten(1) * len(packing.table)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"pool_layers": 2}, "they differ in more than their weights"),
        ({"attend": attention_of_the_example}, "TorchScript answers otherwise"),
        ({"attend": grouped_attention}, "ValueError: torch.cat(): expected a non-empty list of Tensors"),
        ({}, ""),
    ],
)
def test_the_log_says_how_blocks_run(change: dict[str, Any], line: str, caplog: pytest.LogCaptureFixture) -> None:
    network = tiny(**{name: value for name, value in change.items() if name != "attend"})
    network.set_attention(change.get("attend", ProductAttention(0)))
    with caplog.at_level(logging.DEBUG, "vitrine"):
        found = try_script(network, images((64, 64))[0])
    assert (found is None) == bool(line)
    expected = f"blocks: one operation after the other; {line}" if line else "blocks: one call of TorchScript"
    assert [record.message for record in caplog.records] == [expected]
    assert network.recorded is None


def test_it_does_without_where_torch_cannot_record(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> Script:
        raise RuntimeError("no TorchScript here\nsecond line")

    monkeypatch.setattr(script_module, "script_of", refuse)
    with caplog.at_level(logging.DEBUG, "vitrine"):
        assert try_script(tiny(), images((64, 64))[0]) is None
    assert [record.message for record in caplog.records] == [
        "blocks: one operation after the other; RuntimeError: no TorchScript here"
    ]
