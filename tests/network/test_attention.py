"""Attention maps, compared with plain, unfused implementations on the same weights."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from models.network import attention
from models.network.attention import AttentionSpec
from models.network.vit import Readout, VisionTransformer
from tests.bounds import assert_equal_in_float32, differ
from tests.network.test_network import MIX, images, tiny

EVERY_HEAD = [AttentionSpec(layer, head) for layer in (0, 5, 11) for head in (*range(6), None, "all")]
ROLLOUTS = [AttentionSpec(layer, rollout=True) for layer in (0, 4, 11)]
LAST = [AttentionSpec(11), AttentionSpec(11, rollout=True)]
SIZES = {
    "input": ((112, 112), EVERY_HEAD + ROLLOUTS),
    "wide": ((98, 140), EVERY_HEAD + ROLLOUTS),
    "larger": ((182, 182), LAST),
    "the table's own": ((518, 518), [AttentionSpec(11), AttentionSpec(3, rollout=True)]),
}


@pytest.fixture(scope="module")
def unfused(original: Any) -> Any:
    """The attention matrices of timm's unfused implementation: an image -> (layers, H, N, N)."""
    model = copy.deepcopy(original)
    matrices: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _module, _inputs, output: matrices.append(output[0]))

    def run(image: Tensor) -> Tensor:
        matrices.clear()
        with torch.inference_mode():
            model.forward_features(image[None])
        return torch.stack(matrices)

    return run


def row_of_cls(matrices: Tensor, spec: AttentionSpec) -> Tensor:
    """The expected attention of [CLS]: (layers, H, N, N) -> (N,), or (H, N) of all heads."""
    if spec.rollout:
        return rolled_out(matrices[: spec.layer + 1])[0]
    rows = matrices[spec.layer, :, 0]
    if spec.head == "all":
        return rows
    return rows.mean(0) if spec.head is None else rows[spec.head]


def rolled_out(matrices: Tensor) -> Tensor:
    """The full product, in float64: (layers, H, N, N) -> (N, N)."""
    identity = torch.eye(matrices.shape[-1], dtype=torch.float64)
    product = identity
    for matrix in matrices.mean(1).double():
        product = (matrix + identity) / 2 @ product
    return product


def attention_map(network: VisionTransformer, image: Tensor, spec: AttentionSpec) -> Tensor:
    with torch.inference_mode():
        features = network([image], Readout(0), {0: spec})
    row: Tensor = features.attention[0]
    return row


@pytest.mark.parametrize(("size", "specs"), SIZES.values(), ids=SIZES.keys())
def test_every_layer_head_and_rollout_equals_the_plain_formula(
    network: VisionTransformer,
    unfused: Any,
    size: tuple[int, int],
    specs: list[AttentionSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (image,) = images(size)
    matrices = unfused(image)
    monkeypatch.setattr(attention, "MAX_MATRIX", 2**18)  # so that these small images are split too
    with torch.inference_mode():
        ours = network([image] * len(specs), Readout(0), dict(enumerate(specs))).attention
    for place, spec in enumerate(specs):
        expected = row_of_cls(matrices, spec)[..., 1:].unflatten(-1, (size[0] // 14, size[1] // 14))
        assert_equal_in_float32(ours[place], expected)
        # That bound is absolute and the weights are small, so compare relatively too.
        assert torch.allclose(ours[place].double(), expected.double(), rtol=1e-3, atol=1e-9)
    assert differ(matrices[11, 0, 0], matrices[11, 1, 0])
    assert differ(matrices[11, 0, 0], matrices[10, 0, 0])


def plain(network: Any, image: Tensor) -> Tensor:
    """A textbook implementation of the network for one image: every layer's matrix (layers, H, N, N)."""
    x = network.embed([image], [network.config.grid(*image.shape[1:])])
    matrices = []
    for block in network.blocks:
        qkv = block.attn.qkv(block.norm1(x))
        q, k, v = (part.unflatten(1, (network.config.num_heads, -1)).transpose(0, 1) for part in qkv.chunk(3, dim=1))
        q, k = block.attn.q_norm(q), block.attn.k_norm(k)
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        matrices.append(weights)
        x = x + block.ls1(block.attn.proj((weights @ v).transpose(0, 1).flatten(1)))
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return torch.stack(matrices)


SPECS = {
    0: AttentionSpec(2),
    2: AttentionSpec(1, 3),
    3: AttentionSpec(2, rollout=True),
    4: AttentionSpec(0),
    6: AttentionSpec(1, rollout=True),
}


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, {"num_extra_tokens": 0}], ids=["registers", "qk", "plain"])
def test_prefix_tokens_are_attended_to_but_not_in_the_map(changes: dict[str, Any]) -> None:
    network, batch = tiny(**changes), images(*MIX)
    maps = network(batch, Readout(0), SPECS).attention
    assert list(maps) == list(SPECS)
    for place, spec in SPECS.items():
        row = row_of_cls(plain(network, batch[place]), spec)
        assert maps[place].shape == network.config.grid(*batch[place].shape[1:])
        assert_equal_in_float32(maps[place].flatten(), row[network.config.num_prefix_tokens :])


def test_recording_attention_changes_no_answer() -> None:
    network, batch = tiny(), images(*MIX)
    without, recorded = network(batch), network(batch, specs=SPECS)
    for name in ("cls", "mean", "native", "logits"):
        assert torch.equal(getattr(without, name), getattr(recorded, name))
    assert without.attention == {}


def test_a_map_is_the_same_alone_and_in_a_batch() -> None:
    network, batch = tiny(), images(*MIX)
    together = network(batch, specs=SPECS).attention
    for place, spec in SPECS.items():
        assert_equal_in_float32(together[place], attention_map(network, batch[place], spec))


def test_a_network_without_a_class_token_has_no_attention_maps() -> None:
    network = tiny(class_token=False, pool="avg", num_classes=0)
    with pytest.raises(ValueError, match="ATTENTION"):
        network(images((16, 16)), Readout.MEAN, {0: AttentionSpec(0)})


def test_half_precision_gives_float32_weights() -> None:
    (image,) = images((64, 64))
    exact = attention_map(tiny(), image, AttentionSpec(2))
    half = attention_map(tiny().to(torch.bfloat16), image.to(torch.bfloat16), AttentionSpec(2))
    assert half.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(half.flatten(), exact.flatten(), dim=0) > 0.99
