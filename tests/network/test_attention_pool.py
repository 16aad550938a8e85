"""Attention pooling: by hand, over images of any mix of sizes, and with the query projected once."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models.network.config import ViTConfig
from models.network.positions.learned import Resampling
from models.network.vit import Readout, VisionTransformer
from tests.checkpoints.original import randomise

SIZES = ((16, 24), (24, 24), (8, 40), (16, 24), (40, 8))
VARIANTS: dict[str, dict[str, Any]] = {
    "every token": {"pool_prefix": True},
    "patches alone": {"pool_prefix": False},
    "attention alone": {"pool_prefix": False, "pool_hidden_dim": 0},
}


def network(**changes: Any) -> VisionTransformer:
    config = {"pool_hidden_dim": 24, "num_extra_tokens": 2, **changes}
    built = VisionTransformer(
        ViTConfig(16, 2, 2, 32, (8, 8), (3, 3), Resampling(), pool="attention", pool_heads=4, **config)
    )
    positions: Any = built.pos_embed
    positions.table.normal_(generator=torch.Generator().manual_seed(2))
    randomise(built)
    return built


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, *size, generator=generator) for size in SIZES]


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_an_image_is_pooled_as_if_it_were_alone(changes: dict[str, Any]) -> None:
    model = network(**changes)
    together = model(images(), Readout.NATIVE).native
    assert together is not None
    for image, vector in zip(images(), together, strict=True):
        torch.testing.assert_close(vector[None], model([image], Readout.NATIVE).native, rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_the_pooled_vector_is_softmax_of_the_query_by_hand(changes: dict[str, Any]) -> None:
    model = network(**changes)
    pool: Any = model.attn_pool
    tokens: list[Tensor] = []
    model.norm.register_forward_hook(lambda _, __, output: tokens.append(output))
    found = model([images()[0]], Readout.NATIVE).native
    x = tokens[-1][0 if changes["pool_prefix"] else model.config.num_prefix_tokens :]
    k, v = pool.kv(x).unflatten(1, (2, 4, 4)).unbind(1)
    q = pool.q(pool.latent).unflatten(0, (4, 4))
    weights = (torch.einsum("hd,nhd->hn", q, k) / 4**0.5).softmax(-1)
    pooled = pool.proj(torch.einsum("hn,nhd->hd", weights, v).flatten())
    if "fc1" in dict(pool.named_children()):
        pooled = pooled + pool.fc2(torch.nn.functional.gelu(pool.fc1(pool.norm(pooled))))
    torch.testing.assert_close(found, pooled[None], rtol=0, atol=1e-5)


def test_folding_the_query_changes_nothing() -> None:
    model = network()
    before = model(images(), Readout.NATIVE).native
    model.fold()
    after = model(images(), Readout.NATIVE).native
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    assert isinstance(model.attn_pool.q, torch.nn.Identity)  # type: ignore[union-attr] # it has one
