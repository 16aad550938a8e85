"""Rotary positions: the rotation against complex multiplication, and the network against its own formulas."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from models.network.attention import AttentionSpec
from models.network.positions import rotary
from models.network.positions.rotary import Rotary, RotaryEmbedding, deinterleaved, pack, rotate
from models.network.vit import Readout, VisionTransformer
from tests.bounds import assert_equal_in_float32, differ
from tests.network.test_attention import rolled_out
from tests.network.test_network import MIX, images, tiny

DINOV3 = Rotary(100.0, "centred", interleaved=False)
RULES = {
    "DINOv3": DINOV3,
    "DINOv3, rounded": dataclasses.replace(DINOV3, rounded=True),
    "EVA": Rotary(10_000.0, reference=(16, 16)),
    "PE": Rotary(10_000.0, axes="xy", offset=1.0),
    "RoPE-ViT": Rotary(100.0, axes="xy"),
    "RoPE-ViT, mixed": Rotary(10.0, axes="xy", learned=True),
}
GRID = (5, 3)
CPU = torch.device("cpu")
HEADS, HEAD_DIM = 4, 12
EVERY_RULE = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())


def network(rule: Rotary, **changes: Any) -> VisionTransformer:
    return tiny(position=None, rotary=rule, **changes)


def embedding(rule: Rotary, prefix: int = 3) -> RotaryEmbedding:
    module = RotaryEmbedding(rule, 2, HEADS, HEAD_DIM, prefix)
    if rule.learned:
        module.frequencies.copy_(torch.randn(module.frequencies.shape, generator=torch.Generator().manual_seed(5)))
    return module


def queries(dtype: torch.dtype = torch.float64, tokens: int = 3 + GRID[0] * GRID[1]) -> Tensor:
    return torch.randn(tokens, HEADS, HEAD_DIM, generator=torch.Generator().manual_seed(2)).to(dtype)


def angles(rule: Rotary, module: RotaryEmbedding, layer: int) -> Tensor:
    """The angles of the patches by the papers' formulas, one patch at a time in float64: (h * w, 1 or H, d / 2)."""
    h, w = GRID
    rows = []
    for place in [(i, j) for i in range(h) for j in range(w)]:
        y, x = (
            2 * (side + 0.5) / length - 1 if rule.coordinates == "centred" else float(side + rule.offset)
            for side, length in zip(place, GRID, strict=True)
        )
        if rule.reference is not None:
            y, x = y / h * rule.reference[0], x / w * rule.reference[1]
        if rule.learned:
            of_x, of_y = module.frequencies[:, layer].double()
            rows.append(x * of_x + y * of_y)
            continue
        periods = [rule.base ** (4 * i / HEAD_DIM) for i in range(HEAD_DIM // 4)]
        if rule.rounded:
            periods = torch.tensor(periods).bfloat16().double().tolist()
        turn = 2 * torch.pi if rule.coordinates == "centred" else 1.0
        axes = (y, x) if rule.axes == "yx" else (x, y)
        rows.append(torch.tensor([[turn * axis / period for axis in axes for period in periods]], dtype=torch.float64))
    return torch.stack(rows)


def as_complex(x: Tensor, interleaved: bool) -> Tensor:
    """The pairs of channels as complex numbers: (N, H, d) -> (N, H, d / 2)."""
    first, second = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    return torch.complex(first, second)


@EVERY_RULE
def test_a_rotation_is_a_complex_multiplication(rule: Rotary) -> None:
    module, x = embedding(rule), queries()
    cosines, sines = module(GRID, CPU, torch.float64)
    for layer in range(len(cosines)):
        rotated = rotate(x, (cosines[layer], sines[layer]), rule.interleaved)
        turned = angles(rule, module, layer).expand(-1, HEADS, -1)
        factors = torch.polar(torch.ones_like(turned), turned)
        expected = as_complex(x, rule.interleaved)[3:] * factors
        # The angles are computed in float32; the largest are some tens of radians.
        assert torch.allclose(as_complex(rotated, rule.interleaved)[3:], expected, rtol=0, atol=3e-5)
        assert differ(rotated[3:], x[3:])


@EVERY_RULE
def test_prefix_tokens_are_not_rotated(rule: Rotary) -> None:
    cosines, sines = embedding(rule)(GRID, CPU, torch.float32)
    x = queries(torch.float32)
    assert torch.equal(rotate(x, (cosines[0], sines[0]), rule.interleaved)[:3], x[:3])


def test_a_rotation_leaves_its_input_alone() -> None:
    cosines, sines = embedding(DINOV3)(GRID, CPU, torch.float32)
    x = queries(torch.float32)
    before = x.clone()
    rotate(x, (cosines[0], sines[0]), interleaved=False)
    assert torch.equal(x, before)


def test_products_of_rotated_queries_and_keys_depend_on_their_distance() -> None:
    rule = Rotary(100.0)
    cosines, sines = embedding(rule, prefix=0)((6, 6), CPU, torch.float64)
    q, k = queries(tokens=1).expand(36, -1, -1), queries(tokens=2)[1:].expand(36, -1, -1)
    q, k = (rotate(each, (cosines[0], sines[0]), True) for each in (q, k))
    products = torch.einsum("nhd,mhd->hnm", q, k).unflatten(2, (6, 6)).unflatten(1, (6, 6))
    assert torch.allclose(products[:, 0, 0, 1, 2], products[:, 3, 2, 4, 4])
    assert differ(products[:, 0, 0, 1, 2], products[:, 0, 0, 2, 1])


def test_deinterleaved_rows_give_the_same_rotation() -> None:
    cosines, sines = embedding(DINOV3)(GRID, CPU, torch.float64)
    x = queries()
    rows = x.flatten(1).T  # (H * d, N), as the output rows of a projection
    reordered = deinterleaved(rows, HEAD_DIM).T.unflatten(1, (HEADS, HEAD_DIM))
    rotated, expected = (
        rotate(each, (cosines[0], sines[0]), interleaved) for each, interleaved in ((reordered, False), (x, True))
    )
    assert torch.allclose(deinterleaved(expected.flatten(1).T, HEAD_DIM).T.unflatten(1, (HEADS, HEAD_DIM)), rotated)


@EVERY_RULE
@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}], ids=["plain", "qk norm"])
def test_folding_changes_no_answer(rule: Rotary, changes: dict[str, Any]) -> None:
    plain, folded, batch = network(rule, **changes), network(rule, **changes), images(*MIX)
    folded.fold()
    assert not any(block.attn.interleaved for block in folded.blocks)  # type: ignore[union-attr]
    expected, found = plain(batch), folded(batch)
    for name in ("cls", "mean", "native", "logits"):
        assert_equal_in_float32(getattr(found, name), getattr(expected, name))


@EVERY_RULE
def test_an_image_gets_the_same_answer_alone_and_in_a_batch(rule: Rotary) -> None:
    # The mix has images of equal length and different grids, which share a run.
    model, batch = network(rule), images(*MIX)
    together = model(batch)
    for place, image in enumerate(batch):
        alone = model([image])
        for name in ("cls", "mean", "native", "logits"):
            assert_equal_in_float32(getattr(together, name)[place], getattr(alone, name)[0])


@EVERY_RULE
def test_positions_matter(rule: Rotary) -> None:
    (image,) = images((40, 24))
    moved = image.roll(8, dims=2)
    assert differ(network(rule)([image]).cls, network(rule)([moved]).cls)
    assert not differ(tiny(position=None)([image]).cls, tiny(position=None)([moved]).cls)


@EVERY_RULE
def test_a_last_block_of_leading_tokens_only_changes_nothing(rule: Rotary) -> None:
    model, batch = network(rule), images(*MIX)
    whole, leading = model(batch, Readout.LOGITS | Readout.PATCHES), model(batch, Readout.LOGITS)
    assert leading.logits is not None
    assert whole.logits is not None
    assert_equal_in_float32(leading.logits, whole.logits)


def matrices(model: VisionTransformer, rule: Rotary, image: Tensor) -> Tensor:
    """A textbook implementation of the network for one image, with complex multiplication: (layers, H, N, N)."""
    grid, config = model.config.grid(*image.shape[1:]), model.config
    x = model.embed([image], [grid])
    assert model.rotary is not None
    cosines, sines = model.rotary(grid, CPU, torch.float32)
    found = []
    for layer, module in enumerate(model.blocks):
        block: Any = module
        which = min(layer, len(cosines) - 1)
        factors = torch.complex(cosines[which][..., : config.head_dim // 2], sines[which])
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(1, (3, config.num_heads, -1)).unbind(1)
        q, k = (as_complex(each, rule.interleaved) * factors for each in (q, k))
        products = torch.einsum("nhd,mhd->hnm", q, k.conj()).real
        weights = (products / config.head_dim**0.5).softmax(-1)
        found.append(weights)
        x = x + block.ls1(block.attn.proj(torch.einsum("hnm,mhd->nhd", weights, v).flatten(1)))
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return torch.stack(found)


@EVERY_RULE
def test_attention_maps_equal_the_formula(rule: Rotary) -> None:
    model, batch = network(rule), images(*MIX)
    specs = {1: AttentionSpec(2), 2: AttentionSpec(1, 3), 3: AttentionSpec(2, rollout=True), 6: AttentionSpec(0)}
    maps = model(batch, Readout(0), specs).attention
    prefix = model.config.num_prefix_tokens
    for place, spec in specs.items():
        every = matrices(model, rule, batch[place])
        rows = every[spec.layer, :, 0]
        row = rolled_out(every[: spec.layer + 1])[0] if spec.rollout else rows.mean(0) if spec.head is None else rows[3]
        assert_equal_in_float32(maps[place].flatten(), row[prefix:])


def test_each_grid_is_computed_once_and_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotary, "CACHED_ANGLES", 2000)
    module = embedding(DINOV3)
    assert module((4, 4), CPU, torch.float32) is module((4, 4), CPU, torch.float32)
    for side in range(2, 12):
        newest = module((side, side), CPU, torch.float32)
    kept = sum(cosines.numel() + sines.numel() for cosines, sines in module._cache._values.values())
    assert kept <= max(2000, sum(map(Tensor.numel, newest)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_learned_frequencies_stay_in_float32(dtype: torch.dtype) -> None:
    model = network(RULES["RoPE-ViT, mixed"])
    assert model.rotary is not None
    exact = model.rotary(GRID, CPU, torch.float32)
    half = model.half() if dtype == torch.float16 else model.to(dtype)
    assert half.rotary is not None
    assert half.rotary.frequencies.dtype == torch.float32
    assert half.blocks[0].attn.qkv.weight.dtype == dtype  # type: ignore[union-attr]
    for rounded, number in zip(half.rotary(GRID, CPU, dtype), exact, strict=True):
        assert torch.equal(rounded, number.to(dtype))


@EVERY_RULE
def test_bfloat16_is_within_the_published_bound(rule: Rotary) -> None:
    batch = images(*MIX)
    exact = network(rule)(batch, Readout.CLS).cls
    half = network(rule).to(torch.bfloat16)([image.bfloat16() for image in batch], Readout.CLS).cls
    assert exact is not None
    assert half is not None
    assert torch.nn.functional.cosine_similarity(half.float(), exact).min() >= 0.999


def test_packing_concatenates_images_in_order() -> None:
    module = embedding(DINOV3, prefix=1)
    one, other = (
        (cosines[0], sines[0]) for cosines, sines in (module(grid, CPU, torch.float32) for grid in ((2, 2), GRID))
    )
    cosines, sines = pack([one, other])
    assert torch.equal(cosines[5:], other[0])
    assert torch.equal(sines[:5], one[1])
