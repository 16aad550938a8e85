"""What a head reads off the final tokens: one function, every family's rule (checkpoints differ in nothing more often).

In: the packed tokens of the last block and, where heads read several blocks, the [CLS] tokens of the blocks before.
Out: one vector for each image, in packed order.
Shapes: B images, N tokens of one image, T tokens of all images together, P prefix tokens, D embedding dimension.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from models.network.packing import Packing

Pool = Literal["cls", "avg", "avg_all", "max", "avgmax", "cls_dist", "cls_avg", "cls_avg_interleaved"]
"""cls: [CLS], of the last n blocks where the head reads n, oldest first (DINO).
avg, max, avgmax: over the patch tokens, never the prefix; avgmax is the mean of both. avg_all: over all tokens (timm).
cls_dist: the mean of [CLS] and the distillation token, which two heads read separately (DeiT).
cls_avg: [CLS] of the last n blocks, then the mean over the patch tokens of the last (DINOv2).
cls_avg_interleaved: the same two vectors channel by channel, cls 0, mean 0, cls 1, ... (DINO ViT-B's linear head)."""

WIDTHS: dict[Pool, int] = {"cls": 0, "cls_avg": 1, "cls_avg_interleaved": 1}
"""Vectors of D besides the [CLS] tokens, for those rules that read [CLS] tokens; all others give one vector of D."""

READ_OFF_THE_FIRST: dict[Pool, int] = {"cls": 1, "cls_dist": 2}
"""How many tokens of an image a rule reads that needs nothing of its patches."""


def pooled_width(pool: Pool, layers: int) -> int:
    """How many times D the pooled vector is wide."""
    return layers + WIDTHS[pool] if pool in WIDTHS else 1


def first_tokens(x: Tensor, packing: Packing, place: int = 0) -> Tensor:
    """(T, D) -> (B, D): the prefix token that stands in this place of every image."""
    return torch.cat([run.of(x)[:, place] for run in packing.runs])


def patch_mean(x: Tensor, packing: Packing, prefix: int) -> Tensor:
    """(T, D) -> (B, D): the mean over every image's patch tokens."""
    return torch.cat([run.of(x)[:, prefix:].mean(1) for run in packing.runs])


def pool(rule: Pool, x: Tensor, earlier: Sequence[Tensor], packing: Packing, prefix: int) -> Tensor:
    """Pool by the rule: (T, D), and (B, D) for each earlier block -> (B, n * D)."""
    if rule in ("cls", "cls_avg", "cls_avg_interleaved"):
        parts = [*earlier, first_tokens(x, packing)]
        if rule != "cls":
            parts.append(patch_mean(x, packing, prefix))
        return torch.stack(parts, -1).flatten(1) if rule == "cls_avg_interleaved" else torch.cat(parts, -1)
    if rule == "cls_dist":
        return (first_tokens(x, packing) + first_tokens(x, packing, place=1)) / 2
    over = OVER_TOKENS[rule]
    start = 0 if rule == "avg_all" else prefix
    return torch.cat([over(run.of(x)[:, start:]) for run in packing.runs])


OVER_TOKENS: dict[Pool, Callable[[Tensor], Tensor]] = {  # (images, N, D) -> (images, D)
    "avg": lambda tokens: tokens.mean(1),
    "avg_all": lambda tokens: tokens.mean(1),
    "max": lambda tokens: tokens.amax(1),
    "avgmax": lambda tokens: 0.5 * (tokens.amax(1) + tokens.mean(1)),
}
