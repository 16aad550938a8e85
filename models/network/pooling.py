"""Pooling: from the final tokens to the one vector that a head reads, for every family's rule.

In: the packed tokens of the last block and, for heads that read several blocks, [CLS] of the blocks before it.
Out: one vector per image, in packed order.
Knows nothing of the head. Pooling is the most frequent difference between checkpoints, so all rules without weights are
in one function.

Shapes: B images, N tokens of one image, T tokens of all images together, P prefix tokens, D embedding dimension.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from models.network.packing import Packing

Pool = Literal["cls", "avg", "avg_all", "max", "avgmax", "cls_dist", "cls_avg", "cls_avg_interleaved", "attention"]
"""cls: [CLS]; with n `pool_layers`, of the last n blocks, concatenated, oldest first (DINO).
avg, max, avgmax: over the patch tokens; avgmax is (avg + max) / 2. avg_all: over all tokens, prefix included (timm).
cls_dist: the mean of [CLS] and the distillation token; two heads read them separately (DeiT).
cls_avg: [CLS] of the last n blocks, then the mean of the patch tokens of the last block (DINOv2).
cls_avg_interleaved: the same two vectors channel by channel: cls 0, mean 0, cls 1, ... (linear head of DINO ViT-B).
attention: a learned query attends to the tokens (SigLIP); it has weights, so it is a module, `AttentionPool`."""

EXTRA_WIDTHS: dict[Pool, int] = {"cls": 0, "cls_avg": 1, "cls_avg_interleaved": 1}
"""For rules that read [CLS] tokens: vectors of width D besides those tokens. Every other rule returns width D."""

LEADING_TOKENS: dict[Pool, int] = {"cls": 1, "cls_dist": 2}
"""For rules that read no patch tokens: how many leading tokens of an image they read."""


def pooled_width(pool: Pool, layers: int) -> int:
    """Return the width of the pooled vector as a multiple of D."""
    return layers + EXTRA_WIDTHS[pool] if pool in EXTRA_WIDTHS else 1


def prefix_token(x: Tensor, packing: Packing, index: int = 0) -> Tensor:
    """Return the prefix token at this index of every image: (T, D) -> (B, D)."""
    return torch.cat([run.view(x)[:, index] for run in packing.runs])


def patch_mean(x: Tensor, packing: Packing, num_prefix_tokens: int) -> Tensor:
    """Return the mean of every image's patch tokens: (T, D) -> (B, D)."""
    return torch.cat([run.view(x)[:, num_prefix_tokens:].mean(1) for run in packing.runs])


def pool(rule: Pool, x: Tensor, earlier: Sequence[Tensor], packing: Packing, num_prefix_tokens: int) -> Tensor:
    """Pool the tokens of each image: (T, D) -> (B, D), or (B, n * D) for rules that concatenate.

    Args:
        rule: which vectors to read and how to combine them.
        x: the tokens of the last block.
        earlier: [CLS] of the blocks before the last that the rule reads, (B, D) each, oldest first.
        packing: of `x`.
        num_prefix_tokens: P.
    """
    if rule in ("cls", "cls_avg", "cls_avg_interleaved"):
        parts = [*earlier, prefix_token(x, packing)]  # n of (B, D)
        if rule != "cls":
            parts.append(patch_mean(x, packing, num_prefix_tokens))
        if rule == "cls_avg_interleaved":
            return torch.stack(parts, -1).flatten(1)  # (B, D, n) -> (B, D * n)
        return torch.cat(parts, -1)  # (B, n * D)
    if rule == "cls_dist":
        return (prefix_token(x, packing) + prefix_token(x, packing, index=1)) / 2
    reduce = REDUCTIONS[rule]
    start = 0 if rule == "avg_all" else num_prefix_tokens
    return torch.cat([reduce(run.view(x)[:, start:]) for run in packing.runs])


REDUCTIONS: dict[Pool, Callable[[Tensor], Tensor]] = {  # (images, N, D) -> (images, D)
    "avg": lambda tokens: tokens.mean(1),
    "avg_all": lambda tokens: tokens.mean(1),
    "max": lambda tokens: tokens.amax(1),
    "avgmax": lambda tokens: 0.5 * (tokens.amax(1) + tokens.mean(1)),
}
