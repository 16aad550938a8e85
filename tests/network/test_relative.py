"""Relative position biases, compared with an explicit loop over pairs of patches, and with attention by hand."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from models.network.attention import AttentionSpec
from models.network.positions import relative
from models.network.positions.relative import Bias, Relative, RelativeBias, geometric_axis, resample_offsets
from models.network.vit import Readout, VisionTransformer
from tests.bounds import assert_equal_in_float32, differ
from tests.network.test_network import MIX, images, tiny

CPU = (torch.device("cpu"), torch.float32)
EVERYTHING = slice(None)
TABLES = Relative((8, 8), class_token=True)
NETWORK = Relative(hidden_dim=16)
RULES = {
    "tables": TABLES,
    "tables, bilinear": dataclasses.replace(TABLES, resampling="bilinear"),
    "a shared table": dataclasses.replace(TABLES, shared=True),
    "no rows for [CLS]": Relative((8, 8)),
    "a network": NETWORK,
    "a shared network": dataclasses.replace(NETWORK, shared=True),
}
SAME_LENGTH = [(16, 48), (48, 16), (24, 32), (32, 24), (16, 48)]
"""Images of 12 patches each, in four grids."""


def network(rule: Relative, **changes: Any) -> VisionTransformer:
    changes = {"position": None, "num_extra_tokens": 0, "relative": rule, **changes}
    return tiny(**changes)


def biases(rule: Relative, prefix: int = 1) -> RelativeBias:
    result = RelativeBias(rule, 3, 4, prefix)
    for seed, buffer in enumerate(result.buffers()):
        buffer.copy_(torch.randn(buffer.shape, generator=torch.Generator().manual_seed(seed)))
    return result


@pytest.mark.parametrize("grid", [(8, 8), (3, 5), (5, 3), (1, 4), (1, 1)], ids=str)
def test_each_pair_of_patches_reads_the_number_of_its_offset(grid: tuple[int, int]) -> None:
    h, w = grid
    offsets, class_rows = torch.randn(2, 2 * h - 1, 2 * w - 1), torch.randn(2, 3)
    matrix = Bias(offsets, class_rows, 1).matrix(EVERYTHING)
    places = [(i, j) for i in range(h) for j in range(w)]
    for query, (i, j) in enumerate(places, 1):
        for key, (row, column) in enumerate(places, 1):
            assert torch.equal(matrix[:, query, key], offsets[:, i - row + h - 1, j - column + w - 1])
    assert torch.equal(matrix[:, 0, 1:], class_rows[:, :1].expand(2, h * w))
    assert torch.equal(matrix[:, 1:, 0], class_rows[:, 1:2].expand(2, h * w))
    assert torch.equal(matrix[:, 0, 0], class_rows[:, 2])


@pytest.mark.parametrize("class_rows", [torch.randn(2, 3), None], ids=["rows of [CLS]", "none"])
def test_the_first_rows_are_those_of_the_matrix(class_rows: Tensor | None) -> None:
    bias = Bias(torch.randn(2, 5, 7), class_rows, 1)
    for count in (1, 2, bias.length):
        assert torch.equal(bias.leading(EVERYTHING, count), bias.matrix(EVERYTHING)[:, :count])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_the_native_grid_is_not_resampled(rule: Relative) -> None:
    module = biases(rule)
    if rule.window is not None:
        assert torch.equal(module(0, rule.window, *CPU).offsets, module.tables[0])


@pytest.mark.parametrize(("old", "new"), [(8, 13), (8, 5), (8, 8), (14, 32), (3, 1), (1, 3), (1, 1)])
def test_the_geometric_rule_puts_the_last_learned_offset_at_the_end(old: int, new: int) -> None:
    matrix = geometric_axis(old, new)
    assert matrix.shape == (2 * new - 1, 2 * old - 1)
    torch.testing.assert_close(matrix.sum(1), torch.ones(2 * new - 1, dtype=torch.float64))
    torch.testing.assert_close(matrix, matrix.flip(0, 1))  # both signs of an offset alike
    assert matrix[new - 1, old - 1] == 1  # an offset of 0 stays
    if new > old > 1:
        assert matrix[-1, -1] > 0.999
        assert matrix[new, old] == 1  # an offset of 1 is a learned one
        assert 0 < matrix[-2, -1] < 1  # the last ones are further apart than before


def test_the_rules_differ() -> None:
    tables = torch.randn(1, 2, 15, 15, generator=torch.Generator().manual_seed(0))
    for grid in ((5, 5), (13, 13), (8, 11)):
        geometric, bilinear = (resample_offsets(tables, grid, rule) for rule in ("geometric", "bilinear"))
        assert (geometric - bilinear).abs().max() > 0.1


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_an_image_gets_the_same_answer_alone_and_in_a_batch(rule: Relative) -> None:
    for batch in (images(*MIX), images(*SAME_LENGTH)):
        together = network(rule)(batch)
        for place, image in enumerate(batch):
            alone = network(rule)([image])
            for name in ("cls", "mean", "native", "logits"):
                assert_equal_in_float32(getattr(together, name)[place], getattr(alone, name)[0])


def test_images_of_equal_length_and_different_grids_differ_by_their_bias() -> None:
    # Without position embeddings, only the bias tells the same 12 patches in other grids apart.
    (picture,) = images((24, 32))
    patches = picture.unflatten(1, (3, 8)).unflatten(3, (4, 8)).permute(1, 3, 0, 2, 4).flatten(0, 1)
    column = torch.cat(list(patches), dim=1)
    answers = network(TABLES)([picture, column], Readout.CLS).cls
    assert answers is not None
    assert differ(answers[0], answers[1])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_last_block_of_leading_tokens_only_changes_nothing(rule: Relative) -> None:
    model, batch = network(rule), images(*MIX)
    everything, only = model(batch), model(batch, Readout.CLS | Readout.LOGITS)
    for name in ("cls", "logits"):
        assert_equal_in_float32(getattr(only, name), getattr(everything, name))


def test_heads_in_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, specs = images(*MIX), {0: AttentionSpec(2, rollout=True), 3: AttentionSpec(1, head=2)}
    whole = network(TABLES)(batch, specs=specs)
    monkeypatch.setattr(relative, "MAX_MATRIX", 1)
    parts = network(TABLES)(batch, specs=specs)
    assert len(network(TABLES).relative(0, (8, 8), *CPU).head_groups()) == 4  # type: ignore[misc]
    assert whole.logits is not None
    assert parts.logits is not None
    assert_equal_in_float32(parts.logits, whole.logits)
    for image in specs:
        assert_equal_in_float32(parts.attention[image], whole.attention[image])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("size", [(64, 64), (40, 24)], ids=str)
def test_attention_maps_have_the_bias(rule: Relative, size: tuple[int, int]) -> None:
    model, (image,) = network(rule), images(size)
    grid = size[0] // 8, size[1] // 8
    matrices = by_hand(model, image, grid)
    for layer in range(3):
        for head in (0, 3):
            found = model([image], specs={0: AttentionSpec(layer, head)}).attention[0]
            assert_equal_in_float32(found.flatten(), matrices[layer][head, 0, 1:])
    row = torch.eye(matrices[0].shape[-1])
    for matrix in matrices:
        row = (matrix.mean(0) + torch.eye(len(row))) / 2 @ row
    rollout = model([image], specs={0: AttentionSpec(2, rollout=True)}).attention[0]
    assert_equal_in_float32(rollout.flatten(), row[0, 1:])


def by_hand(model: VisionTransformer, image: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """The attention matrices of a network for one image, unfused: (H, N, N) for each block."""
    assert model.relative is not None
    x = torch.cat([model.prefix_tokens, model.patch_embed([image])])
    matrices: list[Tensor] = []
    for index, block in enumerate(model.blocks):
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(1, (3, 4, 12)).permute(1, 2, 0, 3)  # type: ignore[operator, union-attr]
        bias = model.relative(index, grid, *CPU).matrix(EVERYTHING)
        matrices.append((q @ k.mT / 12**0.5 + bias).softmax(-1))
        attended = block.attn.proj((matrices[-1] @ v).transpose(0, 1).flatten(1))  # type: ignore[operator, union-attr]
        x = x + block.ls1(attended)  # type: ignore[operator]
        x = x + block.ls2(block.mlp(block.norm2(x)))  # type: ignore[operator]
    return matrices


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_bias_is_computed_in_float32_in_every_dtype(rule: Relative) -> None:
    model = network(rule).to(torch.bfloat16)
    assert model.relative is not None
    assert all(buffer.dtype == torch.float32 for buffer in model.relative.buffers())
    bias = model.relative(1, (5, 9), torch.device("cpu"), torch.bfloat16)
    expected = network(rule).relative(1, (5, 9), *CPU)  # type: ignore[misc]
    assert torch.equal(bias.offsets, expected.offsets.bfloat16())
    halves = model([image.bfloat16() for image in images(*MIX)])
    singles = network(rule)(images(*MIX))
    assert halves.logits is not None
    assert singles.logits is not None
    assert halves.logits.dtype == torch.bfloat16
    assert (halves.logits.float() - singles.logits).abs().max() < 0.1 * singles.logits.abs().max()


def test_the_cache_is_bounded_and_serves_each_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    module = biases(TABLES)
    first = module(0, (5, 5), *CPU).offsets
    assert module(0, (5, 5), *CPU).offsets.data_ptr() == first.data_ptr()
    assert module(0, (5, 5), torch.device("cpu"), torch.bfloat16).offsets.dtype == torch.bfloat16
    monkeypatch.setattr(module._cache, "_limit", 5000)
    for side in range(2, 20):
        module(0, (side, side), *CPU)
        assert len(module._cache) == 1 or sum(value.numel() for value in module._cache._values.values()) <= 5000


def test_a_network_without_class_token_has_no_vector_and_no_attention_of_it() -> None:
    model = network(Relative((8, 8)), class_token=False, pool="avg", norm=False, fc_norm=True)
    features = model(images(*MIX))
    assert features.cls is None
    assert features.mean is not None
    assert features.native is not None
    assert not model.readouts & (Readout.CLS | Readout.ATTENTION)
    with pytest.raises(ValueError, match="ATTENTION"):
        model(images((64, 64)), specs={0: AttentionSpec(0)})
