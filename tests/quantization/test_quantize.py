"""How a network is quantised: smoothing changes nothing, rounding harms little, and the worst layers are left out."""

from pathlib import Path
from typing import cast

import pytest
import torch

from models.checkpoints.checkpoint import build, open_checkpoint
from models.network.block import Block
from models.network.quantized import linear_layers
from models.network.vit import Readout
from models.quantization.harm import harms, leaving_costs, left_out
from models.quantization.observe import observe
from models.quantization.rounding import nearest, round_weights, weight_scales
from models.quantization.smooth import smooth
from tests.bounds import assert_equal_in_float32
from tests.checkpoints.families import FAMILIES
from tests.checkpoints.original import Family, pictures
from tests.network.test_network import images, tiny
from tests.network.test_quantized import NETWORKS, cosines, read, wanted
from tests.quantization.networks import opened, quantized, quiet

SEEN = [(64, 64)] * 4


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_a_smoothed_network_is_the_same_function(name: str) -> None:
    network, shown = tiny(**NETWORKS[name]), images(*SEEN)
    network.fold()
    expected = read(network, shown, wanted(network))
    before = cast(Block, network.blocks[0]).attn.proj.weight.clone()
    smooth(network, observe(network, shown, linear_layers(3)))
    assert not torch.allclose(cast(Block, network.blocks[0]).attn.proj.weight, before)
    for what, value in read(network, shown, wanted(network)).items():
        assert_equal_in_float32(value, expected[what])


def test_observed_are_the_range_of_each_channel_and_the_products() -> None:
    network, shown = tiny(), images(*SEEN)
    network.fold()
    (seen,) = observe(network, shown, ["blocks.0.attn.qkv"], products=True).values()
    block, rows = cast(Block, network.blocks[0]), []
    block.attn.qkv.register_forward_pre_hook(lambda _, arguments: rows.append(arguments[0]))
    network(shown, wanted(network))
    (x,) = rows
    assert_equal_in_float32(seen.low, x.amin(0))
    assert_equal_in_float32(seen.high, x.amax(0))
    assert seen.products is not None
    assert torch.allclose(seen.products, x.T @ x, rtol=1e-4, atol=1e-3)


def test_weights_are_rounded_for_what_the_layer_reads() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 100, generator=generator)
    x = torch.randn(1000, 10, generator=generator) @ torch.randn(10, 100, generator=generator)
    x += 0.1 * torch.randn(1000, 100, generator=generator)
    whole, scales = round_weights(weight, x.T @ x)
    assert whole.dtype == torch.int8
    exact, plain = x @ weight.T, x @ (nearest(weight, weight_scales(weight)) * scales[:, None]).T
    ours = x @ (whole.float() * scales[:, None]).T
    assert (ours - exact).norm() < 0.7 * (plain - exact).norm()
    assert torch.equal(scales, weight.abs().amax(1) / 127)


def test_a_layer_that_reads_nothing_is_rounded_to_the_nearest() -> None:
    weight = torch.randn(8, 70)
    whole, scales = round_weights(weight, torch.zeros(70, 70))
    assert torch.equal(whole.float(), nearest(weight, scales))


def test_the_harm_is_that_of_the_layer_alone_and_the_network_stays() -> None:
    network, shown = tiny(), images(*SEEN)
    network.fold()
    names = linear_layers(3)
    seen = observe(network, shown, names)
    seen["blocks.1.mlp.fc2"].high = torch.full((96,), 1000.0)  # an input that stretches the scale
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = harms(network, shown, seen, quiet)
    assert list(found) == names
    assert max(found, key=lambda name: found[name]) == "blocks.1.mlp.fc2"
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_left_out_is_what_harms_most_for_what_it_costs() -> None:
    found = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 0.5}
    alike = dict.fromkeys(found, 1.0)
    assert left_out(found, alike, 9.5) == ()
    assert left_out(found, alike, 5.5) == ("a",)
    assert left_out(found, alike, 0) == ("a", "b", "c", "d")
    assert left_out(found, alike | {"a": 100.0}, 7.5) == ("c",) or left_out(found, alike | {"a": 100.0}, 7.5) == ("b",)
    assert "a" not in left_out(found, alike | {"a": 100.0}, 4.5)


def test_the_last_block_mostly_answers_cls_alone() -> None:
    costs = leaving_costs(tiny(), linear_layers(3))
    assert costs["blocks.0.mlp.fc2"] == 67 * costs["blocks.2.mlp.fc2"]
    assert costs["blocks.0.attn.qkv"] == costs["blocks.2.attn.qkv"]
    everywhere = leaving_costs(tiny(pool="avg", class_token=False), linear_layers(3))
    assert everywhere["blocks.0.mlp.fc2"] == everywhere["blocks.2.mlp.fc2"]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@torch.inference_mode()
def test_every_family_can_be_quantised(family: Family, tmp_path: Path) -> None:
    """At the original's sizes, also at those that it was not calibrated at."""
    (tmp_path / "original").mkdir()
    original = family.make(tmp_path / "original")
    checkpoint = open_checkpoint(str(original.path), **original.options)
    exact = build(checkpoint)
    shown = [picture for side, count in ((64, 6), (96, 2), (48, 2)) for picture in pictures((side, side), count=count)]
    again = opened(quantized(checkpoint.content, build(checkpoint), shown), tmp_path / "int8")
    assert again.content.preprocess == checkpoint.content.preprocess
    assert again.content.labels == checkpoint.content.labels
    ours = build(again)
    readout = Readout.NATIVE | (exact.readouts & Readout.CLS)
    for size in original.sizes.values():
        new = list(pictures(size, seed=5))
        for what, value in read(exact, new, readout).items():
            assert cosines(read(ours, new, readout)[what], value).min() >= 0.98
