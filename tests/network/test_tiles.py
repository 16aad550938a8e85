"""Linear layers on AMX tiles equal torch's for every shape, and give an image the same bits alone and in company."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network.kernels import layers, tiles
from models.network.kernels.layers import LinearPacker, QuantizedPacker
from models.network.kernels.operators import multiplies
from models.network.kernels.quantized import PLAIN, Grid8, Output, QuantizedLinear
from models.network.kernels.tiles import TiledLinear, TiledQuantizedLinear, pack
from models.network.vit import Readout
from tests.network.test_network import images, tiny

pytestmark = pytest.mark.skipif(not multiplies(), reason="no AMX, or no compiled operators")

ROWS = (1, 15, 16, 17, 31, 32, 33, 48, 197, 500)
"""Numbers of tokens: below, at and above whole tiles and blocks, and several chunks of these."""

OUTPUTS = (1, 16, 40, 96, 1000)
ACTIVATIONS = ("none", "gelu", "gelu_tanh")
LAST_PLACE = 2**-7
"""Of bfloat16, relative to a number."""


@pytest.fixture(autouse=True)
def _the_threads_stay() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def linear(inputs: int, outputs: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs).bfloat16().requires_grad_(False)


def quantized(inputs: int, outputs: int, output: Output) -> QuantizedLinear:
    random = torch.Generator().manual_seed(0)
    one = QuantizedLinear(inputs, outputs)
    one.weight = torch.randint(-127, 128, (outputs, inputs), generator=random).to(torch.int8)
    one.weight_scale = 0.2 / inputs * (1 + torch.rand(outputs, generator=random))
    one.bias = torch.randn(outputs, generator=random)
    one.input_scale, one.input_zero, one.output = torch.tensor(0.03), torch.tensor(117.0), output
    return one


def in_float32(one: nn.Linear, x: Tensor, activation: str) -> Tensor:
    return PLAIN[activation](F.linear(x.float(), one.weight.float(), one.bias.float()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("inputs", [32, 96, 1536])
def test_it_equals_float32_up_to_the_last_place(inputs: int, outputs: int, activation: str) -> None:
    one = linear(inputs, outputs)
    tiled = TiledLinear(one, activation)
    for rows in ROWS:
        x = 3 * torch.randn(rows, inputs).bfloat16()
        expected = in_float32(one, x, activation)
        error = (tiled(x).float() - expected).abs()
        assert (error <= LAST_PLACE / 2 * expected.abs() + 1e-4).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("inputs", [64, 384])
def test_8_bits_equal_the_plain_layer(inputs: int, outputs: int, activation: str) -> None:
    for output in (Output(activation, Grid8(0.02, 9)), Output(activation, dtype=torch.bfloat16), Output(activation)):
        one = quantized(inputs, outputs, output)
        tiled = TiledQuantizedLinear(one)
        for rows in ROWS:
            x = torch.randint(256, (rows, inputs)).to(torch.uint8)
            found, expected = tiled(x), one(x)
            assert found.dtype == expected.dtype
            error = (found.float() - expected.float()).abs()
            if output.grid:
                assert error.max() <= 1
                assert (error > 0).float().mean() < 0.01
            else:
                last_place = LAST_PLACE if output.dtype == torch.bfloat16 else 1e-5
                assert (error <= last_place * expected.float().abs() + 1e-4).all()


def test_inputs_of_more_bits_are_rounded_first() -> None:
    one = quantized(64, 96, Output())
    x = torch.randn(33, 64)
    assert torch.allclose(TiledQuantizedLinear(one)(x), one(x), atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("eight", [False, True], ids=["bfloat16", "8 bits"])
def test_a_token_gets_the_same_bits_among_any_others_and_on_any_number_of_threads(threads: int, eight: bool) -> None:
    one = quantized(384, 200, Output("gelu")) if eight else linear(384, 200)
    tiled = TiledQuantizedLinear(one) if isinstance(one, QuantizedLinear) else TiledLinear(one, "gelu")
    x = torch.randint(256, (700, 384)).to(torch.uint8) if eight else torch.randn(700, 384).bfloat16()
    torch.set_num_threads(1)
    expected = torch.cat([tiled(row[None]) for row in x])
    torch.set_num_threads(threads)
    for begin, end in ((0, 700), (0, 32), (5, 202), (300, 699), (699, 700)):
        assert torch.equal(tiled(x[begin:end]), expected[begin:end])


def test_rows_may_lie_apart_in_memory() -> None:
    one = linear(64, 96)
    x = torch.randn(50, 200).bfloat16()
    assert torch.equal(TiledLinear(one)(x[:, 100:164]), TiledLinear(one)(x[:, 100:164].contiguous()))


def test_what_is_not_a_number_stays_in_its_row() -> None:
    one = linear(64, 96)
    x = torch.randn(40, 64).bfloat16()
    expected = TiledLinear(one, "gelu")(x)
    x[7, 3], x[20, 0] = math.nan, math.inf
    found = TiledLinear(one, "gelu")(x)
    assert found[7].isnan().all()
    assert not found[20].isfinite().all()
    others = [row for row in range(40) if row not in (7, 20)]
    assert torch.equal(found[others], expected[others])


def test_a_gelu_of_large_numbers_is_the_number_or_nearly_0() -> None:
    one = linear(32, 32)
    one.weight, one.bias = nn.Parameter(torch.eye(32).bfloat16()), nn.Parameter(torch.zeros(32).bfloat16())
    x = torch.linspace(-300, 300, 3200).bfloat16().reshape(100, 32)
    for activation in ("gelu", "gelu_tanh"):
        found, expected = TiledLinear(one, activation)(x).float(), PLAIN[activation](x.float())
        assert ((found - expected).abs() <= LAST_PLACE / 2 * expected.abs() + 5e-5).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_before_the_activation_is_not_after_it(bias: float, activation: str) -> None:
    """The service refuses an answer that is not finite."""
    one = linear(64, 96)
    one.bias = nn.Parameter(torch.full((96,), bias).bfloat16(), requires_grad=False)
    assert not TiledLinear(one, activation)(torch.randn(40, 64).bfloat16()).isfinite().any()


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="rows of 40 inputs are not whole tiles"):
        TiledLinear(linear(40, 96))
    with pytest.raises(RuntimeError, match="rows of 96 inputs are not whole tiles"):
        TiledQuantizedLinear(quantized(96, 32, Output()))
    with pytest.raises(RuntimeError, match=r"expected weights of bfloat16, got torch\.float32"):
        TiledLinear(nn.Linear(64, 96))
    with pytest.raises(RuntimeError, match=r"expected outputs of 8 bits, bfloat16 or float32, got torch\.float16"):
        TiledQuantizedLinear(quantized(64, 32, Output(dtype=torch.float16)))
    monkeypatch.setattr(tiles, "multiplies", lambda: False)
    with pytest.raises(RuntimeError, match="this processor has no AMX"):
        TiledLinear(linear(64, 96))


def test_the_operators_refuse_what_does_not_belong_together() -> None:
    one = linear(64, 96)
    packed, bias, x = pack(one.weight), torch.zeros(96), torch.randn(5, 64).bfloat16()
    run = torch.ops.vitrine.linear
    for arguments, message in (
        ((x.float(), packed, bias, 96, 0), "expected bfloat16"),
        ((x[:, :32], packed, bias, 96, 0), "shapes differ"),
        ((x[:, :33], packed, bias, 96, 0), "shapes differ|whole tiles"),
        ((x, packed, bias, 128, 0), "shapes differ"),
        ((x, packed, bias[:64], 96, 0), "shapes differ"),
        ((x, packed, bias.double(), 96, 0), "expected scales and biases of float32"),
        ((x, packed.float(), bias, 96, 0), "expected packed weights"),
        ((x, packed, bias, 96, 3), "no such activation"),
        ((x, packed.t().contiguous().t(), bias, 96, 0), "not contiguous"),
        ((x[:0], packed, bias, 96, 0), "whole tiles"),
    ):
        with pytest.raises(RuntimeError, match=message):
            run(*arguments)
    eight, y = quantized(64, 96, Output()), torch.zeros(5, 64, dtype=torch.uint8)
    weights, long = pack(eight.weight), torch.zeros(1, 2**16 + 64, dtype=torch.uint8)
    longer = pack(torch.zeros(32, long.shape[1]).to(torch.int8))
    for eights, message in (
        ((x, weights, bias, bias, 96, 0, 32, 1.0, 0.0), "expected uint8"),
        ((y, packed, bias, bias, 96, 0, 32, 1.0, 0.0), "expected packed weights"),
        ((y, weights, bias, bias, 96, 0, 7, 1.0, 0.0), "expected 8, 16 or 32 bits"),
        ((long, longer, bias[:32], bias[:32], 32, 0, 32, 1.0, 0.0), "too long"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.vitrine.linear8(*eights)


@torch.inference_mode()
@pytest.mark.parametrize("readout", [Readout.LOGITS, Readout.CLS | Readout.MEAN])
def test_in_a_network_an_image_gets_the_same_bits_alone(readout: Readout, monkeypatch: pytest.MonkeyPatch) -> None:
    """All linear layers of the blocks are tiled; attention is computed by torch for each image."""
    monkeypatch.setattr(layers, "is_faster_in_the_mean", lambda *_: True)
    network, pictures = tiny(), images((24, 40), (64, 64), (8, 8), (40, 24), (64, 64))
    network.fold()
    expected = network(pictures, readout)
    pictures = [picture.bfloat16() for picture in pictures]
    network.bfloat16()
    packer = LinearPacker((4, 32), [TiledLinear])
    network.pack(packer)
    assert packer.packed == {TiledLinear}
    found = network(pictures, readout)
    name = "logits" if readout & Readout.LOGITS else "cls"
    assert F.cosine_similarity(getattr(found, name).float(), getattr(expected, name)).min() > 0.999
    for place, picture in enumerate(pictures):
        assert torch.equal(getattr(network([picture], readout), name), getattr(found, name)[place : place + 1])


def test_the_packer_of_8_bits_chooses_them_where_they_are_right_and_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "is_faster_in_the_mean", lambda *_: True)
    packer = QuantizedPacker((4, 32), torch.bfloat16)
    assert isinstance(packer(quantized(64, 96, Output("gelu", Grid8(0.02, 9)))), TiledQuantizedLinear)
    monkeypatch.setattr(tiles, "ACTIVATIONS", ("gelu", "none", "gelu_tanh"))
    other = QuantizedPacker((4, 32), torch.bfloat16)
    assert not isinstance(other(quantized(64, 96, Output("gelu", Grid8(0.02, 9)))), TiledQuantizedLinear)
