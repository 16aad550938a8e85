"""All kernels agree, and one that gives wrong results, is slower or does not run is not selected."""

import math
import time
from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.attention.varlen
from torch import Tensor, nn

from models.network.kernels import attention, layers, linear, selection, tiles
from models.network.kernels.attention import ProductAttention, grouped_attention, varlen_attention
from models.network.kernels.layers import Kind, LinearPacker
from models.network.kernels.linear import PackedLinear
from models.network.kernels.quantized import PLAIN
from models.network.kernels.selection import is_the_same_alone, matches_grouped, select_attention
from models.network.kernels.tiles import TiledLinear
from models.network.packing import Packing
from models.network.vit import Readout
from tests.bounds import assert_equal_in_float32
from tests.network.test_network import images, tiny

CPU = torch.device("cpu")


def documented_varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    num_splits: int | None = None,
) -> Tensor:
    """`varlen_attn` as torch documents it, in plain arithmetic; the real one runs only on CUDA."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q == cu_seq_q.diff().max()
    assert max_k == cu_seq_k.diff().max()
    assert num_splits == 1
    return _varlen_attn(query, key, value, cu_seq_q, cu_seq_k)


def older_varlen_attn(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int
) -> Tensor:
    """`varlen_attn` of torch 2.10, which never splits."""
    return documented_varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, num_splits=1)


def _varlen_attn(query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor) -> Tensor:
    found = torch.empty_like(query)
    for (start, end), (first, last) in zip(cu_seq_q.unfold(0, 2, 1), cu_seq_k.unfold(0, 2, 1), strict=True):
        q, k, v = query[start:end], key[first:last], value[first:last]
        weights = (torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5).softmax(-1)
        found[start:end] = torch.einsum("hqk,khd->qhd", weights, v)
    return found


@pytest.fixture(params=[documented_varlen_attn, older_varlen_attn])
def torch_has_varlen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", request.param)


@pytest.mark.usefixtures("torch_has_varlen")
@pytest.mark.parametrize("readout", [Readout.LOGITS, Readout.CLS | Readout.MEAN])
def test_varlen_attention_equals_grouped_attention(readout: Readout) -> None:
    network, pictures = tiny(), images((24, 40), (64, 64), (8, 8), (40, 24), (64, 64))
    expected = network(pictures, readout)
    network.set_attention(varlen_attention)
    found = network(pictures, readout)
    for name in ("cls", "mean", "logits"):
        if getattr(expected, name) is not None:
            assert_equal_in_float32(getattr(found, name), getattr(expected, name))


@pytest.mark.usefixtures("torch_has_varlen")
def test_a_correct_kernel_matches() -> None:
    assert matches_grouped(varlen_attention, CPU, torch.float32, heads=2, head_dim=8)


def test_a_kernel_that_mixes_images_does_not_match() -> None:
    def mixing(q: Tensor, k: Tensor, v: Tensor, packing: Packing, query_packing: Packing) -> Tensor:
        one = Packing.from_lengths([len(k)])
        return grouped_attention(q, k, v, one, one if len(q) == len(k) else Packing.from_lengths([len(q)]))

    assert not matches_grouped(mixing, CPU, torch.float32, heads=2, head_dim=8)


def test_a_kernel_whose_numbers_depend_on_the_other_images_is_found() -> None:
    def by_longest(q: Tensor, k: Tensor, v: Tensor, packing: Packing, query_packing: Packing) -> Tensor:
        """Adds up in another order, by a last place, where an image is long."""
        return grouped_attention(q, k, v, packing, query_packing) * (1 + 1e-6 * (packing.longest > 1000))

    shape = CPU, torch.float32, 2, 8
    assert matches_grouped(by_longest, *shape)
    assert not is_the_same_alone(by_longest, *shape)
    assert is_the_same_alone(one_by_one, *shape)


def one_by_one(q: Tensor, k: Tensor, v: Tensor, packing: Packing, query_packing: Packing) -> Tensor:
    """`grouped_attention`, one image after the other."""
    rows, queries = packing.slices().values(), query_packing.slices().values()
    found = []
    for own, asked in zip(rows, queries, strict=True):
        alone = Packing.from_lengths([own.stop - own.start])
        few = alone if asked.stop - asked.start > 1 else alone.leading(1)
        found.append(grouped_attention(q[asked], k[own], v[own], alone, few))
    return torch.cat(found)


def test_a_kernel_that_does_not_run_here_is_not_selected() -> None:
    assert not matches_grouped(varlen_attention, CPU, torch.bfloat16, heads=2, head_dim=8)
    assert select_attention(CPU, torch.bfloat16, heads=2, head_dim=8) is not varlen_attention


@pytest.mark.parametrize("readout", [Readout.LOGITS, Readout.CLS | Readout.MEAN])
@pytest.mark.parametrize(("longest", "numbers"), [(1000, 2**20), (1000, 1), (20, 2**20), (0, 2**20)])
@pytest.mark.parametrize("precise", [0, 1000])
def test_attention_by_products_equals_grouped_attention(
    readout: Readout, longest: int, numbers: int, precise: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all images, for a few at a time, for the shorter ones only, and for none."""
    monkeypatch.setattr(attention, "MAX_MATRIX", numbers)
    monkeypatch.setattr(attention, "PRECISE", precise)
    network, pictures = tiny(), images((24, 40), (64, 64), (8, 8), (40, 24), (64, 64))
    expected = network(pictures, readout)
    network.set_attention(ProductAttention(longest))
    found = network(pictures, readout)
    for name in ("cls", "mean", "logits"):
        if getattr(expected, name) is not None:
            assert_equal_in_float32(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("precise", [True, False])
def test_logits_of_any_size_are_weighted_as_by_softmax(size: float, dtype: torch.dtype, precise: bool) -> None:
    """Each row as if alone, also beside rows whose exponentials are infinite, or all zero."""
    torch.manual_seed(0)
    logits = (torch.randn(3, 64, 64) * size / 3).to(dtype)
    logits[0, :5] += size
    logits[1, :5] -= size
    weights, sums = _weighted(logits, precise)
    found = weights.float() / sums.float()
    # Each row is rounded as a power of 2, or as a power of e.
    powers = (logits.float() * math.log2(math.e)).to(dtype).float() * math.log(2)
    apart = [(found - rounded.softmax(-1)).abs().amax(-1) for rounded in (logits.float(), powers)]
    assert torch.minimum(*apart).max() < (1e-6 if dtype == torch.float32 else 1e-2)
    for row in (0, 3, 9):
        alone, total = _weighted(logits[:1, row : row + 1], precise)
        assert torch.equal(alone / total, (weights / sums)[:1, row : row + 1])


def _weighted(logits: torch.Tensor, precise: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights and sums for queries and keys whose products are these logits: (m, n, 64) each."""
    keys = torch.eye(64, dtype=logits.dtype).expand(len(logits), 64, 64)
    return attention._exponentials(8 * logits, keys, precise)


@pytest.mark.parametrize("tokens", [attention.PRECISE - 1, attention.PRECISE])
def test_a_lone_query_is_weighted_as_beside_the_others(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether another image of the batch needs all tokens does not change how [CLS] is rounded."""
    seen: list[tuple[int, bool]] = []
    exponentials = attention._exponentials

    def noted(q: torch.Tensor, k: torch.Tensor, precise: bool) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((q.shape[1], precise))
        return exponentials(q, k, precise)

    monkeypatch.setattr(attention, "_exponentials", noted)
    monkeypatch.setattr(attention, "scripted", lambda function: function)
    packing = Packing.from_lengths([tokens, tokens])
    q, k, v = torch.randn(3, 2 * tokens, 2, 16)
    everything = ProductAttention(1000)(q, k, v, packing, packing)
    lone = ProductAttention(1000)(packing.leading_tokens(q, 1), k, v, packing, packing.leading(1))
    precise = tokens < attention.PRECISE
    assert seen == [(tokens, precise), (1, precise)]
    assert_equal_in_float32(lone, packing.leading_tokens(everything, 1))


def test_logits_that_are_no_numbers_stay_so() -> None:
    queries, keys = torch.tensor([[[1.0, torch.nan], [1.0, 2.0]]]), torch.ones(1, 3, 2)
    weights, sums = attention._exponentials(queries, keys, precise=True)
    assert (weights / sums).isnan().tolist() == [[[True] * 3, [False] * 3]]


def test_attention_by_products_is_selected_up_to_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "attends", lambda _: False)
    answers = iter([False, False, True])
    monkeypatch.setattr(selection, "is_faster", lambda *_: next(answers))
    assert select_attention(CPU, torch.bfloat16, heads=2, head_dim=8) == ProductAttention(selection.LENGTHS[2])
    monkeypatch.setattr(selection, "is_faster", lambda *_: False)
    assert select_attention(CPU, torch.bfloat16, heads=2, head_dim=8) == ProductAttention(0)
    monkeypatch.setattr(selection, "is_faster", lambda *_: True)
    assert select_attention(CPU, torch.float32, heads=2, head_dim=8) == ProductAttention(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_pythons_where_the_compiled_one_does_not_run(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(*_: object) -> Tensor:
        raise RuntimeError("TorchScript fails when it runs")

    monkeypatch.setattr(attention, "scripted", lambda _: compiled)
    monkeypatch.setattr(selection, "attends", lambda _: False)
    monkeypatch.setattr(selection, "longest_by_products", lambda *_: 512)
    assert select_attention(CPU, dtype, heads=2, head_dim=8) is grouped_attention


def test_the_faster_one_is_found() -> None:
    quick, slow = (lambda: None), (lambda: time.sleep(0.01))
    assert selection.is_faster(quick, slow)
    assert not selection.is_faster(slow, quick)


ACTIVATIONS = ("none", "gelu", "gelu_tanh")


KINDS: dict[str, Kind] = {"oneDNN": partial(PackedLinear, rows=32), "tiles": TiledLinear}


@pytest.fixture(params=KINDS)
def pack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> LinearPacker:
    """A packer that packs whatever runs and agrees, whichever is faster on this machine."""
    monkeypatch.setattr(layers, "is_faster_in_the_mean", lambda *_: True)
    return LinearPacker((4, 32), [KINDS[request.param]])


def layer(dtype: torch.dtype) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(64, 96).to(dtype).requires_grad_(False)


def packed_or_skip(pack: LinearPacker, one: nn.Linear, activation: str) -> nn.Module:
    packed = pack(one, activation)
    if packed is None:
        pytest.skip("this processor or torch has no packed layers of this dtype")
    return packed


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_layer_equals_the_plain_one_for_any_number_of_rows(
    dtype: torch.dtype, activation: str, pack: LinearPacker
) -> None:
    one = layer(dtype)
    packed = packed_or_skip(pack, one, activation)
    for rows in (1, 4, 33, 500):
        x = torch.randn(rows, 64).to(dtype)
        expected, found = PLAIN[activation](one(x)), packed(x)
        if dtype == torch.float32:
            assert_equal_in_float32(found, expected)
        else:
            assert (found.float() - expected.float()).abs().max() <= selection.TOLERANCE


@pytest.mark.parametrize("activation", ["quick_gelu", "silu"])
def test_a_layer_with_another_activation_is_not_packed_with_it(activation: str, pack: LinearPacker) -> None:
    assert pack(layer(torch.bfloat16), activation) is None


def test_a_packed_layer_that_does_not_agree_is_not_used(pack: LinearPacker, monkeypatch: pytest.MonkeyPatch) -> None:
    one = layer(torch.bfloat16)
    packed_or_skip(pack, one, "none")
    monkeypatch.setitem(linear.FUSED, "gelu", ("relu", ""))
    monkeypatch.setattr(tiles, "ACTIVATIONS", ("gelu", "none", "gelu_tanh"))
    assert pack(one, "gelu") is None


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1.0001), (torch.bfloat16, 1.1)])
def test_results_may_differ_by_rounding_in_the_dtype_alone(
    dtype: torch.dtype, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = layer(dtype)
    one.bias.fill_(2.0)

    class Scaled(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by

        def forward(self, x: Tensor) -> Tensor:
            return one(x) * self.by

    monkeypatch.setattr(layers, "is_faster_in_the_mean", lambda *_: True)
    assert isinstance(LinearPacker((4, 32), [lambda *_, **__: Scaled(1.0)])(one), Scaled)
    assert LinearPacker((4, 32), [lambda *_, **__: Scaled(factor)])(one) is None


def test_of_the_kinds_that_are_right_the_fastest_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is tried once for each shape, whatever is made of it later."""
    one, made = layer(torch.float32), Counter[str]()

    def kind(name: str, sleeps_s: float, is_right: bool = True) -> Kind:
        class Made(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                time.sleep(sleeps_s)
                return one(x) if is_right else one(x) + 1

        def make(_: nn.Linear, activation: str) -> nn.Module:
            made[name] += 1
            return Made()

        return make

    kinds = [kind("slow", 0.003), kind("fast", 0.001), kind("wrong", 0, is_right=False), kind("slower", 0.006)]

    def slow(x: Tensor) -> Tensor:
        time.sleep(0.01)
        return x

    monkeypatch.setitem(PLAIN, "none", slow)
    pack = LinearPacker((4, 32), kinds)
    for _ in range(3):
        assert pack(one) is not None
    assert made == {"slow": 1, "fast": 4, "wrong": 1, "slower": 1}


@pytest.mark.parametrize(("few_s", "is_chosen"), [(0.002, True), (0.009, False)])
def test_one_image_and_a_batch_count_the_same(few_s: float, is_chosen: bool) -> None:
    """The layer takes 20 ms for a batch, where the plain one takes 10 for either."""

    def compute(x: Tensor) -> Tensor:
        time.sleep(few_s if len(x) == 4 else 0.02)
        return x

    def plain(x: Tensor) -> Tensor:
        time.sleep(0.01)
        return x

    assert layers.is_faster_in_the_mean(compute, plain, [torch.zeros(4, 1), torch.zeros(32, 1)]) is is_chosen


def test_layers_of_as_many_inputs_are_of_one_kind_whatever_their_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, False])
    monkeypatch.setattr(layers, "is_faster_in_the_mean", lambda *_: next(answers))
    kinds = [kind for kind in KINDS.values() if packs(kind)]
    if not kinds:
        pytest.skip("this processor or torch has no packed layers")
    pack = LinearPacker((4, 32), kinds)
    made = [pack(nn.Linear(64, outputs).bfloat16().requires_grad_(False)) for outputs in (96, 32, 64)]
    assert {type(each) for each in made} == pack.packed
    assert len(pack.packed) == 1


def packs(kind: Kind) -> bool:
    try:
        kind(layer(torch.bfloat16), activation="none")
    except layers.NOT_HERE:
        return False
    return True


def test_without_the_operators_or_where_they_are_slower_layers_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pack, network = LinearPacker((4, 32)), tiny()
    monkeypatch.setattr(layers, "is_faster_in_the_mean", lambda *_: False)
    network.pack(pack)
    assert not pack.packed
    monkeypatch.setattr(layers, "is_faster_in_the_mean", lambda *_: True)
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    monkeypatch.setattr(tiles, "multiplies", lambda: False)
    pack = LinearPacker((4, 32))
    network.pack(pack)
    assert not pack.packed
    linear_layers = ("fc1", "fc2", "qkv", "proj", "parts.0", "parts.1")
    modules = {name: type(module) for name, module in network.blocks.named_modules() if name.endswith(linear_layers)}
    assert set(modules.values()) == {nn.Linear}
    assert network.patch_embed.linear is None


@pytest.mark.parametrize("changes", [{}, {"swiglu": True}, {"act": "quick_gelu"}, {"layer_scale": True}], ids=str)
def test_a_network_with_packed_layers_answers_as_without(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image alone and all together, in float32, which shows every difference."""
    network, pictures = tiny(**changes), images((24, 40), (64, 64), (8, 8), (40, 24), (64, 64))
    network.fold()
    everything = Readout.CLS | Readout.MEAN | Readout.LOGITS
    expected, leading = network(pictures, everything), network(pictures, Readout.LOGITS)
    monkeypatch.setattr(layers, "is_faster_in_the_mean", lambda *_: True)
    pack = LinearPacker((4, 32))
    network.pack(pack)
    if not pack.packed:
        pytest.skip("this processor or torch has no packed layers")
    found = network(pictures, everything)
    for name in ("cls", "mean", "logits"):
        assert_equal_in_float32(getattr(found, name), getattr(expected, name))
        alone = torch.cat([getattr(network([picture], everything), name) for picture in pictures])
        assert_equal_in_float32(alone, getattr(expected, name))
    assert_equal_in_float32(network(pictures, Readout.LOGITS).logits, leading.logits)
