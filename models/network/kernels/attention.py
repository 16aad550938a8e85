"""Implementations of self-attention inside each image of a pack.

In: queries, keys and values of the packed tokens, and a `Packing` that says which rows belong to which image.
Out: the attention output of each query.
Knows nothing of blocks, weights or configs.

`grouped_attention` makes one call of torch's fused attention for each image length; it runs on every device, and can
add a bias.
`varlen_attention` makes one call of FlashAttention (Dao 2023, arXiv 2307.08691) for all images; it needs CUDA, compute
capability 8.0 and half precision.
`ProductAttention` writes the attention matrices out, which torch computes faster in bfloat16 on many processors.

Shapes: t query tokens, T tokens of all images together, D embedding dimension, H heads, d = D / H.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from models.network.packing import Packing
from models.network.positions.relative import Bias

AttentionFunction = Callable[[Tensor, Tensor, Tensor, Packing, Packing], Tensor]
"""Queries (t, H, d), keys and values (T, H, d), the packing of the keys, the packing of the queries -> (t, D)."""

Biases = Sequence[Bias]
"""What is added to the attention logits of the images of each run."""

MAX_MATRIX = 2**22
"""Numbers of the attention matrices in memory at a time, unless those of one image are more: 8 MiB in bfloat16."""

SEPARATELY = 128
"""From so many tokens of an image on, exponentials and division are separate; for fewer, torch's softmax is as fast.

The number of queries does not decide: a lone [CLS] is rounded as beside the other queries, which another image of the
batch may need.
"""

LEAST_SUM, LARGEST_SUM = 2.0**-96, 2.0**96
"""Sums of exponentials between these are right: bfloat16 and float32 reach from 2^-126 to 2^127."""


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, packing: Packing, query_packing: Packing) -> Tensor:
    """Attend inside each image, with one batched call for each run: (t, H, d), (T, H, d) x 2 -> (t, D)."""
    return _attend_by_run((q, k, v), packing, query_packing, None)


def biased_attention(biases: Biases) -> AttentionFunction:
    """Return `grouped_attention` with biases: those of the first n queries, for n query tokens of an image."""

    def attend(q: Tensor, k: Tensor, v: Tensor, packing: Packing, query_packing: Packing) -> Tensor:
        return _attend_by_run((q, k, v), packing, query_packing, biases)

    return attend


def _attend_by_run(
    q_k_v: tuple[Tensor, Tensor, Tensor], packing: Packing, query_packing: Packing, biases: Biases | None
) -> Tensor:
    q, k, v = q_k_v
    outputs = []
    for i, (run, query_run) in enumerate(zip(packing.runs, query_packing.runs, strict=True)):
        # (images, n, H, d) -> (images, H, n, d), as torch expects it
        views = query_run.view(q).transpose(1, 2), run.view(k).transpose(1, 2), run.view(v).transpose(1, 2)
        out = _attend_with_bias(views, biases[i]) if biases else F.scaled_dot_product_attention(*views)
        outputs.append(out.transpose(1, 2).flatten(2).flatten(0, 1))  # (images * n, D)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend_with_bias(views: tuple[Tensor, Tensor, Tensor], bias: Bias) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + bias) v, a group of heads at a time: (images, H, n, d)."""
    parts = []
    for heads in bias.head_groups():
        q, k, v = (view[:, heads] for view in views)
        matrix = bias.leading(heads, q.shape[2])[None]  # (1, heads, n, N)
        parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=matrix))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


@dataclass(frozen=True)
class ProductAttention:
    """`grouped_attention`, with two batched products and a softmax between for images of up to `longest` tokens.

    torch's fused attention multiplies bfloat16 slowly on processors without AMX. The matrices of a few images are in
    memory at a time. The scale is applied to the products before they are rounded.
    """

    longest: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, packing: Packing, query_packing: Packing) -> Tensor:
        """Attend inside each image: (t, H, d), (T, H, d) x 2 -> (t, D)."""
        out = q.new_empty(q.shape)  # (t, H, d)
        for run, query_run in zip(packing.runs, query_packing.runs, strict=True):
            images = query_run.view(q), run.view(k), run.view(v)  # (images, n, H, d), (images, N, H, d) x 2
            found = query_run.view(out).transpose(1, 2)  # (images, H, n, d)
            if run.length <= self.longest:
                _attend_by_products(*images, found)
            else:
                queries, keys, values = (each.transpose(1, 2) for each in images)
                found.copy_(F.scaled_dot_product_attention(queries, keys, values))
        return out.flatten(1)


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
    """Compute softmax(q k^T / sqrt(d)) v: (images, n, H, d), (images, N, H, d) x 2 -> `out` (images, H, n, d).

    Each call of torch hands Python's lock to another thread and waits for it again, so there are few.
    """
    images, queries, heads, head_dim = q.shape
    tokens = k.shape[1]
    step = max(1, MAX_MATRIX // (heads * queries * tokens))
    # Copies, (images * H, n, d), also of one image: the product would make slower ones.
    q, k, v = (each.transpose(1, 2).contiguous().view(-1, each.shape[1], head_dim) for each in (q, k, v))
    unread = q.new_empty(1).expand(1, queries, tokens)  # with beta=0 it only stands for a shape
    for start in range(0, images, step):
        few = slice(start * heads, (start + step) * heads)
        logits = torch.baddbmm(unread, q[few], k[few].mT, beta=0, alpha=head_dim**-0.5)  # (few * H, n, N)
        found = out[start : start + step]  # (few, H, n, d)
        if tokens < SEPARATELY:
            found.copy_(torch.bmm(logits.softmax(-1), v[few]).view(found.shape))
        else:
            weights, sums = _exponentials(logits)
            weighted = torch.bmm(weights, v[few]).view(found.shape)
            torch.div(weighted, sums.view(-1, heads, queries, 1), out=found)


def _exponentials(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights and their sums, whose quotients are the softmax: (m, n, N) -> (m, n, N), (m, n, 1).

    The softmax of torch subtracts the largest logit of each row first and divides each weight, in passes that take
    twice the time of the exponentials alone. Here the output of attention is divided, which has fewer numbers. Where
    the exponentials of a row may leave the range of the dtype, torch's softmax computes that row; its sum is then 1.
    """
    weights = logits.exp()
    sums = weights.sum(-1, keepdim=True)
    least, largest = (float(each) for each in sums.aminmax())
    if not (least > LEAST_SUM and largest < LARGEST_SUM):  # also where one is not a number
        far = ~((sums > LEAST_SUM) & (sums < LARGEST_SUM)).squeeze(-1)  # (m, n)
        weights[far], sums[far] = logits[far].softmax(-1), 1.0
    return weights, sums


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, packing: Packing, query_packing: Packing) -> Tensor:
    """Attend inside each image, with one call for all lengths: (t, H, d), (T, H, d) x 2 -> (t, D)."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - not in every torch, and for few devices

    cu_seqlens = query_packing.cu_seqlens(q.device), packing.cu_seqlens(k.device)
    one_split = _one_split(varlen_attn)
    out = varlen_attn(q, k, v, *cu_seqlens, query_packing.longest, packing.longest, **one_split)  # (t, H, d)
    return cast(Tensor, out).flatten(1)  # it returns a tuple only with `return_aux`


@cache
def _one_split(varlen_attn: Callable[..., object]) -> dict[str, Any]:
    """Return the argument that keeps the keys of an image in one piece.

    Otherwise the kernel chooses the number of pieces by the longest image, and so one image's answer would depend on
    the other images of the batch. torch 2.10 to 2.12 have no such argument: their kernel cuts only a paged cache into
    pieces (`mha_varlen_fwd` in torch's flash_api.cpp).
    """
    return {"num_splits": 1} if "num_splits" in signature(varlen_attn).parameters else {}
