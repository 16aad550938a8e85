"""The network compared with timm, and its own invariants."""

import dataclasses
import shutil
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.checkpoints.checkpoint import Checkpoint
from models.network.config import ViTConfig
from models.network.kernels.attention import ProductAttention
from models.network.packing import Packing
from models.network.positions.learned import Resampling
from models.network.vit import Readout, VisionTransformer
from tests.bounds import assert_equal_in_float32, differ

SIZES = {
    "input": (112, 112),
    "the table's own": (518, 518),
    "smaller": (70, 70),
    "larger": (224, 224),
    "wide": (98, 140),
    "tall": (140, 98),
    "one patch": (14, 14),
}


def tiny(seed: int = 0, **changes: Any) -> VisionTransformer:
    """A small network with random parameters; default initialisation would hide mistakes."""
    config = dataclasses.replace(
        ViTConfig(
            embed_dim=48,
            depth=3,
            num_heads=4,
            mlp_hidden_dim=96,
            patch_size=(8, 8),
            grid_size=(8, 8),
            position=Resampling(antialias=True),
            num_extra_tokens=2,
            layer_scale=True,
            num_classes=7,
        ),
        **changes,
    )
    network = VisionTransformer(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() > 1 and "prefix" not in name and "pos" not in name:
            tensor.copy_(noise / tensor[0].numel() ** 0.5)
        elif name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "gamma")):
            tensor.copy_(1 + 0.2 * noise)
        else:
            tensor.copy_(0.5 * noise)
    return network


def key_biases(network: VisionTransformer) -> list[torch.Tensor]:
    """Return views of the biases of the keys, which follow those of the queries."""
    dim = network.config.embed_dim
    return [tensor[dim : 2 * dim] for name, tensor in network.state_dict().items() if name.endswith("qkv.bias")]


def images(*sizes: tuple[int, int], seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, *size, generator=generator) for size in sizes]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_outputs_equal_timms(network: VisionTransformer, original: Any, size: tuple[int, int]) -> None:
    (image,) = images(size)
    with torch.inference_mode():
        ours = network([image])
        tokens = original.forward_features(image[None])
        logits = original.forward_head(tokens)
    assert ours.cls is not None
    assert ours.mean is not None
    assert ours.logits is not None
    assert ours.patches is not None
    assert_equal_in_float32(ours.cls, tokens[:, 0])
    assert_equal_in_float32(ours.mean, tokens[:, 1:].mean(1))
    assert_equal_in_float32(ours.logits, logits)
    assert_equal_in_float32(ours.patches[0].flatten(0, 1), tokens[0, 1:])


def test_outputs_with_another_resampling_rule_differ_from_timms(checkpoint: Checkpoint, original: Any) -> None:
    # Negative control: the test above would notice a wrong rule.
    config = dataclasses.replace(checkpoint.content.config, position=Resampling(antialias=False))
    other = VisionTransformer(config).eval()
    other.load_state_dict(dict(checkpoint.content.weights))
    (image,) = images((112, 112))
    with torch.inference_mode():
        ours, expected = other([image], Readout.CLS), original.forward_features(image[None])[:, 0]
    assert ours.cls is not None
    assert differ(ours.cls, expected)


MIX = [(16, 16), (64, 64), (40, 24), (24, 40), (64, 64), (8, 8), (104, 56), (16, 16)]


@pytest.mark.parametrize("changes", [{}, {"pool": "avg", "norm": False, "fc_norm": True}], ids=["cls", "avg"])
def test_an_image_gets_the_same_answer_alone_and_in_a_batch(changes: dict[str, Any]) -> None:
    network, batch = tiny(**changes), images(*MIX)
    together = network(batch)
    for place, image in enumerate(batch):
        alone = network([image])
        for name in ("cls", "mean", "native", "logits"):
            assert_equal_in_float32(getattr(together, name)[place], getattr(alone, name)[0])
        assert together.patches is not None
        assert alone.patches is not None
        assert_equal_in_float32(together.patches[place], alone.patches[0])


LEADING_TOKENS = {
    "cls": {},
    "cls of two blocks": {"pool_layers": 2},
    "qk norm": {"qk_norm": True},
    "two heads": {"pool": "cls_dist", "head_dist": True},
    "one block": {"depth": 1},
}


@pytest.mark.parametrize("changes", LEADING_TOKENS.values(), ids=LEADING_TOKENS.keys())
def test_a_last_block_of_leading_tokens_only_changes_nothing(changes: dict[str, Any]) -> None:
    network, batch = tiny(**changes), images(*MIX)
    everything = network(batch)
    for readouts in (Readout.CLS, Readout.NATIVE, Readout.LOGITS, Readout.CLS | Readout.LOGITS):
        features = network(batch, readouts)
        for readout, name in ((Readout.CLS, "cls"), (Readout.NATIVE, "native"), (Readout.LOGITS, "logits")):
            if readouts & readout:
                assert_equal_in_float32(getattr(features, name), getattr(everything, name))


@pytest.mark.parametrize("changes", [{}, {"layer_scale": False}, {"layer_scale": False, "norm_post": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_block_leaves_its_input_as_it_was(changes: dict[str, Any], dtype: torch.dtype) -> None:
    block = tiny(**changes).get_submodule("blocks.0")
    x, packing = torch.randn(12, 48), Packing.from_lengths([5, 7])
    before = x.clone()
    expected = block(x, packing)
    block.get_submodule("attn.proj").register_forward_hook(lambda _layer, _inputs, output: output.to(dtype))
    found = block(x, packing)
    assert torch.equal(x, before)
    assert found.dtype == torch.float32  # also where a branch is of another precision
    assert (found - expected).abs().max() <= (0 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, {"attn_norm": True}], ids=str)
def test_folding_changes_nothing(changes: dict[str, Any]) -> None:
    """Layer scales, and the bias of the keys, which counts where a norm follows it."""
    network, batch = tiny(**changes), images(*MIX)
    for bias in key_biases(network):
        bias.mul_(5)
    before = network(batch)
    network.fold()
    after = network(batch)
    assert before.logits is not None
    assert after.logits is not None
    assert_equal_in_float32(after.logits, before.logits)
    assert not any("gamma" in name for name in network.state_dict())


def test_a_large_bias_of_the_keys_takes_no_digits_in_half_precision() -> None:
    """It cancels out in the softmax, but the logits are rounded before that."""
    network, batch = tiny(), images(*MIX)
    for bias in key_biases(network):
        bias.fill_(200)
    expected = network(batch).cls
    network.fold()
    network.set_attention(ProductAttention(1000))
    found = network.bfloat16()([image.bfloat16() for image in batch]).cls
    assert expected is not None
    assert found is not None
    assert float(torch.cosine_similarity(found.float(), expected).min()) > 0.999


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler on this machine")
@pytest.mark.skipif(" " in torch.__file__, reason="torch does not quote its path to the compiler, and it has a space")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_network_answers_the_same() -> None:
    network, batch = tiny(), images(*MIX)
    before = network(batch)
    network.compile_blocks()
    for together in (batch, batch[:1]):
        after = network(together)
        for name in ("cls", "mean", "logits"):
            assert_equal_in_float32(getattr(after, name), getattr(before, name)[: len(together)])


def test_only_requested_readouts_are_returned() -> None:
    features = tiny()(images((16, 16)), Readout.MEAN)
    assert features.mean is not None
    assert (features.cls, features.native, features.logits, features.patches) == (None, None, None, None)


def test_a_network_without_a_class_token_has_no_cls() -> None:
    network = tiny(class_token=False, pool="avg", num_classes=0)
    assert network.readouts == Readout.MEAN | Readout.NATIVE | Readout.PATCHES | Readout.TOKENS
    with pytest.raises(ValueError, match="CLS"):
        network(images((16, 16)), Readout.CLS)


def test_the_mean_excludes_prefix_tokens() -> None:
    features = tiny()(images((24, 16)))
    assert features.mean is not None
    assert features.patches is not None
    assert features.patches[0].shape == (3, 2, 48)
    assert_equal_in_float32(features.mean[0], features.patches[0].mean((0, 1)))


def test_pixels_beyond_the_last_whole_patch_are_ignored() -> None:
    (image,) = images((71, 66))
    whole, cut = tiny()([image], Readout.CLS), tiny()([image[:, :64, :64]], Readout.CLS)
    assert whole.cls is not None
    assert cut.cls is not None
    assert_equal_in_float32(whole.cls, cut.cls)


def test_an_image_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller than one patch"):
        tiny()(images((8, 7)))


def test_the_patch_projection_is_the_strided_convolution() -> None:
    embed = tiny().patch_embed
    (image,) = images((24, 40))
    convolved = embed.proj(image[None])[0].flatten(1).T
    assert_equal_in_float32(embed([image]), convolved)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12))
@settings(deadline=None)
def test_packing_and_unpacking_keep_the_order_of_images(lengths: list[int]) -> None:
    packing = Packing.from_lengths(lengths)
    assert sorted(packing.order) == list(range(len(lengths)))
    assert sum(run.images * run.length for run in packing.runs) == sum(lengths)
    assert len({run.length for run in packing.runs}) == len(packing.runs)
    packed = torch.tensor(packing.order)
    assert packing.unpack(packed).tolist() == list(range(len(lengths)))
