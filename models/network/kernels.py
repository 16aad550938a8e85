"""How tokens attend inside their own images: two ways to compute the same, for images of any mix of lengths.

Grouped: the images of each length in one call of torch's fused attention; runs anywhere. Varlen: all images in one call
of FlashAttention (Dao 2023, arXiv 2307.08691), which is told where each begins; on CUDA from compute capability 8.0 on,
in half precision.

Shapes: t tokens that ask, T tokens of all images together, D embedding dimension, H heads, d = D / H.
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from models.network.packing import Packing

Attend = Callable[[Tensor, Tensor, Tensor, Packing, Packing], Tensor]
"""Queries (t, H, d), keys and values (T, H, d), the images, the same images with the tokens that ask -> (t, D)."""

TRIED_LENGTHS = (3, 17, 17, 70)
CLOSE = 2e-2
"""How far two kernels may lie apart in half precision on values of unit variance: a few of bfloat16's last places."""


def grouped(q: Tensor, k: Tensor, v: Tensor, packing: Packing, asking: Packing) -> Tensor:
    """What each query gathers inside its image: one batched call for each length."""
    gathered = []
    for run, few in zip(packing.runs, asking.runs, strict=True):
        of_run = few.of(q).transpose(1, 2), run.of(k).transpose(1, 2), run.of(v).transpose(1, 2)
        out = F.scaled_dot_product_attention(*of_run)  # (images, H, n, d), scale 1 / sqrt(d)
        gathered.append(out.transpose(1, 2).flatten(2).flatten(0, 1))
    return gathered[0] if len(gathered) == 1 else torch.cat(gathered)


def varlen(q: Tensor, k: Tensor, v: Tensor, packing: Packing, asking: Packing) -> Tensor:
    """The same in one call for all lengths."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - not in every torch, and for few devices

    bounds = asking.bounds(q.device), packing.bounds(k.device)
    # Unsplit: how keys were split would depend on the longest image, and so an image's answer on its company.
    gathered = varlen_attn(q, k, v, *bounds, asking.longest, packing.longest, num_splits=1)
    return cast(Tensor, gathered).flatten(1)  # a tuple only when it is asked for more


def best(device: torch.device, dtype: torch.dtype, heads: int, head_dim: int) -> Attend:
    """The faster of the two that answers rightly here: which cards, types and sizes varlen has changes with torch."""
    half = dtype in (torch.bfloat16, torch.float16)
    may = half and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return varlen if may and agrees(varlen, device, dtype, heads, head_dim) else grouped


@torch.inference_mode()
def agrees(attend: Attend, device: torch.device, dtype: torch.dtype, heads: int, head_dim: int) -> bool:
    """Whether it runs, and gives what grouped attention gives: for all tokens, and for the first ones alone."""
    packing = Packing.of(TRIED_LENGTHS)
    q, k, v = torch.randn(3, sum(TRIED_LENGTHS), heads, head_dim, device=device).to(dtype)
    for asking, queries in ((packing, q), (packing.firsts(1), packing.first(q, 1))):
        try:
            found = attend(queries, k, v, packing, asking)
        except (ImportError, RuntimeError, TypeError):  # no such kernel: for this torch, device, type or size
            return False
        if not torch.allclose(found.float(), grouped(queries, k, v, packing, asking).float(), atol=CLOSE):
            return False
    return True
