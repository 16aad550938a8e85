"""Layers of 8 bits: the plain way by hand, the fast way like the plain one, alone and in company."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.checkpoints.checkpoint import build
from models.network.kernels import layers, linear, selection, tiles
from models.network.kernels.attention import ProductAttention
from models.network.kernels.layers import LinearPacker, QuantizedPacker
from models.network.kernels.linear import PackedQuantizedLinear
from models.network.kernels.operators import NativeAttention, attends, multiplies
from models.network.kernels.quantized import PLAIN, Grid8, NarrowLinear, Output, QuantizedLinear, QuantizedNorm
from models.network.kernels.selection import NormFuser
from models.network.positions.relative import Relative
from models.network.positions.rotary import Rotary
from models.network.quantized import compute_inside_in, pack_layers
from models.network.vit import PatchEmbed, Readout, VisionTransformer
from models.quantization import harm
from tests.bounds import LEAST_COSINE_TOGETHER
from tests.network.test_network import images, tiny
from tests.quantization.networks import content_of, opened

SIZES = (24, 40), (64, 64), (8, 8), (40, 24), (64, 64)
OUTPUTS = [
    Output(),
    Output(dtype=torch.bfloat16),
    Output("gelu", dtype=torch.bfloat16),
    *(Output(activation, Grid8(0.02, 9)) for activation in PLAIN),
]


def layer(output: Output | None = None, seed: int = 0) -> QuantizedLinear:
    random = torch.Generator().manual_seed(seed)
    one = QuantizedLinear(64, 96)
    one.weight = torch.randint(-127, 128, (96, 64), generator=random).to(torch.int8)
    one.weight_scale = 0.002 * (1 + torch.rand(96, generator=random))
    one.bias = torch.randn(96, generator=random)
    one.input_scale, one.input_zero = torch.tensor(0.03), torch.tensor(117.0)
    one.output = output or Output()
    return one


def packer() -> QuantizedPacker:
    """A packer of oneDNN's layers alone; test_tiles.py has the others."""
    return QuantizedPacker((4, 32), torch.float32, [partial(PackedQuantizedLinear, rows=32)])


def packed_or_skip(one: QuantizedLinear) -> nn.Module:
    found = packer()(one)
    if found is None:
        pytest.skip("this processor or torch has no right products of 8 bits")
    return found


def test_a_grid_has_zero_and_reaches_both_ends() -> None:
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-2.0, -1.0)):
        grid = Grid8.over(low, high)
        ends = torch.tensor([[low, 0.0, high, low - 9, high + 9]])
        restored = grid.restore(grid.quantize(ends))
        assert restored[0, 1] == 0
        assert (restored - ends.clamp(min(low, 0), max(high, 0))).abs().max() <= grid.scale


def test_a_layer_computes_what_numpy_computes_by_hand() -> None:
    one, x = layer(), torch.randn(5, 64)
    q = np.clip(np.floor(x.double().numpy() / 0.03 + 117.5), 0, 255).astype(np.int64)
    sums = (q - 117) @ one.weight.numpy().astype(np.int64).T
    expected = sums * 0.03 * one.weight_scale.double().numpy() + one.bias.double().numpy()
    assert np.abs(one(x).double().numpy() - expected).max() <= 1e-5
    one.output = Output("none", Grid8(0.05, 100))
    eight = np.clip(np.floor(expected / 0.05 + 100.5), 0, 255)
    assert np.abs(one(x).numpy() - eight).max() <= 1  # a number in the middle may go either way
    assert (one(x).numpy() == eight).mean() > 0.99


@pytest.mark.parametrize("output", OUTPUTS, ids=str)
def test_a_packed_layer_equals_the_plain_one_for_any_number_of_rows(output: Output) -> None:
    one = layer(output)
    packed = packed_or_skip(one)
    for rows in (1, 4, 33, 500):
        x = torch.randn(rows, 64)
        for given in (x, one.grid.quantize(x)):
            expected, found = one(given), packed(given)
            assert found.dtype == expected.dtype
            apart = (found.float() - expected.float()).abs().max()
            if output.grid is not None:
                assert apart <= 1
                assert (found == expected).float().mean() > 0.99
            else:
                assert apart <= (1e-5 if output.dtype == torch.float32 else 2**-7) * expected.float().abs().max()


def test_a_norm_rounds_to_the_numbers_that_its_reader_would_round_to() -> None:
    norm, grid = nn.LayerNorm(64, eps=1e-3), Grid8(0.021, 99)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 3 * torch.randn(500, 64) * torch.rand(500, 1)
    expected, found = grid.quantize(norm(x)), QuantizedNorm(norm, grid)(x)
    assert found.dtype == torch.uint8
    assert {0, 255} <= set(expected.unique().tolist())  # beyond both ends as well
    assert (found.int() - expected.int()).abs().max() <= 1  # a number in the middle may go either way
    assert (found == expected).float().mean() > 0.999


def test_the_patches_of_an_image_are_projected_as_alone() -> None:
    """Also where oneDNN adds up in an order that depends on the number of rows, as it does with AMX."""
    embed = PatchEmbed((14, 14), 384)
    embed.linear, embed.apart = NarrowLinear(nn.Linear(588, 384, dtype=torch.bfloat16), torch.bfloat16), True
    images = list(torch.randn(12, 3, 112, 112))
    with torch.inference_mode():
        assert torch.equal(embed(images), torch.cat([embed([image]) for image in images]))


def test_some_rows_are_those_of_the_whole() -> None:
    one, x = layer(), torch.randn(5, 64)
    assert torch.equal(one.rows(slice(10, 30))(x), one(x)[:, 10:30])


def saturating(one: QuantizedLinear, x: Tensor) -> Tensor:
    """What processors without VNNI compute: the sum of two products is cut off at 16 bits."""
    products = x.float()[:, None, :] * one.weight.float()
    sums = products.unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**15), 2**15 - 1).sum(-1)
    return (sums - one.grid.zero * one.weight.float().sum(1)) * one.grid.scale * one.weight_scale + one.bias


def test_products_that_overflow_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    one, x = layer(), torch.randn(32, 64)
    packed_or_skip(one)
    start, originals = PackedQuantizedLinear.__init__, {}

    def init(self: PackedQuantizedLinear, original: QuantizedLinear, *given: Any, **named: Any) -> None:
        start(self, original, *given, **named)
        originals[id(self)] = original

    monkeypatch.setattr(PackedQuantizedLinear, "__init__", init)
    monkeypatch.setattr(PackedQuantizedLinear, "forward", lambda self, x: saturating(originals[id(self)], x))
    small = layer()
    small.weight = (small.weight // 64).to(torch.int8)
    assert torch.allclose(PackedQuantizedLinear(small, 32)(small.grid.quantize(x)), small(x), atol=1e-4)
    pack = packer()
    assert pack(small) is None  # right for these weights, and wrong for the largest
    assert not pack.packed
    assert not pack.pays


def test_a_packed_layer_that_does_not_agree_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    one = layer(Output("gelu", Grid8(0.02, 9)))
    packed_or_skip(one)
    monkeypatch.setitem(linear.FUSED, "gelu", ("relu", ""))
    assert packer()(one) is None


def test_it_says_whether_8_bits_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    packed_or_skip(layer())
    for faster in (True, False):
        monkeypatch.setattr(layers, "is_faster", lambda *_, faster=faster: faster)
        pack = packer()
        assert pack(layer()) is not None
        assert pack.pays is faster


NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gated": {"swiglu": True, "act": "silu"},
    "quick GELU": {"act": "quick_gelu"},
    "RMSNorm everywhere": {"norm_type": "rms", "qk_norm": True, "attn_norm": True, "mlp_norm": True},
    "norms everywhere": {"qk_norm": True, "attn_norm": True, "mlp_norm": True, "norm_pre": True, "embed_norm": True},
    "norms after the branches": {"norm_post": True, "layer_scale": False},
    "rotary": {"rotary": Rotary(100.0), "position": None},
    "relative": {"relative": Relative((8, 8), class_token=True), "num_extra_tokens": 0},
    "pooled by attention": {"pool": "attention", "pool_heads": 4, "pool_hidden_dim": 64, "pool_prefix": False},
    "average": {"pool": "avg", "class_token": False, "num_extra_tokens": 0},
}


@pytest.fixture(params=["all", "worst left out", "nothing"])
def allowed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How many layers are of 8 bits."""
    share = {"all": 1.0, "worst left out": 2e-5, "nothing": 0.0}[request.param]
    monkeypatch.setattr(harm.left_out, "__defaults__", (share,))
    return request.param


def cosines(ours: Tensor, reference: Tensor) -> Tensor:
    assert ours.shape == reference.shape
    return torch.cosine_similarity(ours.double(), reference.double())


def wanted(network: VisionTransformer) -> Readout:
    return Readout.MEAN | Readout.NATIVE | (network.readouts & Readout.CLS) | Readout.LOGITS


def read(network: VisionTransformer, pictures: list[Tensor], readout: Readout) -> dict[str, Tensor]:
    features = network(pictures, readout)
    found = {name: getattr(features, name) for name in ("cls", "mean", "native", "logits")}
    return {name: value.float() for name, value in found.items() if value is not None}


MIXED = ("plain", "gated", "RMSNorm everywhere", "rotary")
"""Networks that are tried with layers of both kinds as well."""


@pytest.mark.parametrize(
    ("name", "allowed"),
    [(name, "all") for name in NETWORKS]
    + [(name, allowed) for name in MIXED for allowed in ("worst left out", "nothing")],
    indirect=["allowed"],
)
@pytest.mark.parametrize("compiled", [True, False], ids=["operators of native/", "torch's own"])
@torch.inference_mode()
def test_a_network_of_8_bits_is_near_and_the_same_fast_and_in_company(
    name: str, allowed: str, compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, seen = images(*SIZES), images(*[(64, 64)] * 6, (40, 40), (96, 96), seed=3)
    exact, network = tiny(**NETWORKS[name]), tiny(**NETWORKS[name])
    checkpoint = opened(content_of(network, seen), tmp_path)
    made = checkpoint.content.quantization
    assert made is not None
    assert {"all": made.left_out, "nothing": made.layers}.get(allowed, ()) == ()
    plain, fast = build(checkpoint), build(checkpoint)
    expected = read(plain, pictures, wanted(plain))
    for what, value in read(exact, pictures, wanted(exact)).items():
        near = cosines(expected[what], value)  # without features that training makes, 8 bits cost more
        assert near.median() > 0.98
        assert near.min() > 0.95
    monkeypatch.setattr(selection, "is_faster", lambda *_: True)
    monkeypatch.setattr(layers, "is_faster_in_the_mean", lambda *_: True)
    if not compiled:
        monkeypatch.setattr(selection, "library", lambda: None)
        monkeypatch.setattr(tiles, "multiplies", lambda: False)
    fast.set_attention(NativeAttention() if compiled and attends(torch.bfloat16) else ProductAttention(1000))
    compute_inside_in(fast, torch.bfloat16, LinearPacker((4, 32)))
    pack_layers(fast, QuantizedPacker((4, 32), torch.bfloat16))
    fast.fuse_norms(NormFuser(32))
    found = read(fast, pictures, wanted(fast))
    assert found.keys() == expected.keys()
    assert fast.patch_embed.reads is torch.bfloat16
    assert fast.patch_embed.apart is not (compiled and multiplies())
    narrow = read(fast, [picture.bfloat16() for picture in pictures], wanted(fast))  # as the engine normalises them
    assert all(torch.equal(narrow[what], value) for what, value in found.items())
    alone = {network: [read(network, [picture], wanted(network)) for picture in pictures] for network in (fast, plain)}
    for what, value in found.items():
        assert cosines(value, expected[what]).min() >= 0.999
        for network, together in ((fast, value), (plain, expected[what])):
            by_itself = torch.cat([one[what] for one in alone[network]])
            assert cosines(by_itself, together).min() >= LEAST_COSINE_TOGETHER
    logits = fast(pictures, Readout.LOGITS).logits  # the last block answers the leading tokens alone
    assert logits is not None
    assert cosines(logits, found["logits"]).min() >= 0.999


READ_IN_8_BITS = {
    "plain": {"attn.qkv", "mlp.fc1", "mlp.fc2"},
    "gated": {"attn.qkv", "mlp.fc1"},
    "RMSNorm everywhere": set(),
    "norms everywhere": {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"},
    "norms after the branches": {"mlp.fc2"},
}
"""The layers that read numbers of 8 bits, from the layer or the norm before them."""


@pytest.mark.parametrize("allowed", ["all"], indirect=True)
@pytest.mark.parametrize("name", READ_IN_8_BITS)
@torch.inference_mode()
def test_layers_and_norms_answer_in_8_bits_where_only_a_layer_of_8_bits_reads_them(
    name: str, allowed: str, tmp_path: Path
) -> None:
    network = build(opened(content_of(tiny(**NETWORKS[name]), images(*[(64, 64)] * 4)), tmp_path))
    read: set[str] = set()

    def note(kind: str, _layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        if arguments[0].dtype == torch.uint8:
            read.add(kind)

    block = network.get_submodule("blocks.0")
    for kind in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        block.get_submodule(kind).register_forward_pre_hook(partial(note, kind))
    network(images(*SIZES), wanted(network))
    assert read == READ_IN_8_BITS[name]


@torch.inference_mode()
def test_without_the_operators_a_network_answers_in_the_plain_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, pictures = build(opened(content_of(tiny(), images(*[(64, 64)] * 4)), tmp_path)), images(*SIZES)
    expected = network(pictures).cls
    monkeypatch.setattr(torch.ops, "onednn", None)
    pack = QuantizedPacker((4, 32), torch.float32)
    pack_layers(network, pack)
    assert not pack.packed
    assert not pack.pays
    assert torch.equal(network(pictures).cls, expected)
