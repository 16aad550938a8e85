"""Implementations of self-attention inside each image of a pack.

In: queries, keys and values of the packed tokens, and a `Packing` that says which rows belong to which image.
Out: the attention output of each query.
Knows nothing of blocks, weights or configs.

`grouped_attention` makes one call of torch's fused attention for each image length; it runs on every device, and can
add a bias.
`varlen_attention` makes one call of FlashAttention (Dao 2023, arXiv 2307.08691) for all images; it needs CUDA, compute
capability 8.0 and half precision.
`ProductAttention` is for processors: it reads the lengths of images from a table, so that TorchScript can record it,
and writes the attention matrices of short images out, which torch computes faster in bfloat16 on many processors.

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

from models.network.kernels.script import scripted
from models.network.packing import Packing
from models.network.positions.relative import Bias

AttentionFunction = Callable[[Tensor, Tensor, Tensor, Packing, Packing], Tensor]
"""Queries (t, H, d), keys and values (T, H, d), the packing of the keys, the packing of the queries -> (t, D)."""

Biases = Sequence[Bias]
"""What is added to the attention logits of the images of each run."""

MAX_MATRIX = 2**20
"""Numbers of the attention matrices in memory at a time, unless those of one image are more: 2 MiB in bfloat16. With
four times as many, images of 257 and more tokens take up to a tenth longer: the matrices leave the nearer caches."""

PRECISE = 128
"""For images of fewer tokens the weights of a query are added up in float32. In bfloat16 the sum is off by up to 2^-9,
and with it a whole row of a head; but for more tokens that costs 5 to 30% of attention, and for fewer 1 to 7%.

The number of queries does not decide: a lone [CLS] is rounded as beside the other queries, which another image of the
batch may need.
"""


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
    """`grouped_attention`, with two batched products and powers of 2 between for images of up to `longest` tokens.

    torch's fused attention multiplies bfloat16 slowly on processors without AMX. The matrices of a few images are in
    memory at a time. The scale is applied to the products before they are rounded. It reads the runs from their table,
    so that TorchScript can record it for images of any lengths.
    """

    longest: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, packing: Packing, query_packing: Packing) -> Tensor:
        """Attend inside each image: (t, H, d), (T, H, d) x 2 -> (t, D)."""
        limits = self.longest, MAX_MATRIX, PRECISE
        return scripted(_attend_by_table)(q, k, v, packing.table, query_packing.table, *limits)


def _attend_by_table(  # noqa: PLR0913, PLR0917 - TorchScript reads no globals
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    query_table: Tensor,
    longest: int,
    max_matrix: int,
    precise: int,
) -> Tensor:
    """Attend inside each image: (t, H, d), (T, H, d) x 2, runs (R, 3) of keys and of queries -> (t, D)."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)  # (t, H, d)
    heads, head_dim = q.shape[1], q.shape[2]
    runs: list[list[int]] = table.tolist()
    query_runs: list[list[int]] = query_table.tolist()
    for i, run in enumerate(runs):
        start, images, tokens = run[0], run[1], run[2]
        first, queries = query_runs[i][0], query_runs[i][2]
        keys = k[start : start + images * tokens].view(images, tokens, heads, head_dim)
        values = v[start : start + images * tokens].view(images, tokens, heads, head_dim)
        asked = q[first : first + images * queries].view(images, queries, heads, head_dim)
        found = out[first : first + images * queries].view(images, queries, heads, head_dim).transpose(1, 2)
        if tokens <= longest:
            _attend_by_products(asked, keys, values, found, max_matrix, tokens < precise)
        else:
            each = asked.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)  # (images, H, n, d)
            found.copy_(F.scaled_dot_product_attention(each[0], each[1], each[2]))
    return out.flatten(1)


def _attend_by_products(  # noqa: PLR0913, PLR0917 - as above
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, max_matrix: int, precise: bool
) -> None:
    """Compute softmax(q k^T / sqrt(d)) v: (images, n, H, d), (images, N, H, d) x 2 -> `out` (images, H, n, d)."""
    images, queries, heads, head_dim = q.shape
    tokens = k.shape[1]
    step = max(1, max_matrix // (heads * queries * tokens))
    # Copies, (images * H, n, d), also of one image: the product would make slower ones.
    q = q.transpose(1, 2).contiguous().view(-1, queries, head_dim)
    k = k.transpose(1, 2).contiguous().view(-1, tokens, head_dim)
    v = v.transpose(1, 2).contiguous().view(-1, tokens, head_dim)
    for start in range(0, images, step):
        begin, end = start * heads, (start + step) * heads
        weights, sums = _exponentials(q[begin:end], k[begin:end], precise)
        weighted = torch.bmm(weights, v[begin:end]).view(-1, heads, queries, head_dim)
        torch.div(weighted, sums.view(-1, heads, queries, 1), out=out[start : start + step])


def _scaled_products(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Return scale * q k^T: (m, n, d), (m, N, d) -> (m, n, N)."""
    unread = torch.empty([1], dtype=q.dtype, device=q.device).expand(1, q.shape[1], k.shape[1])  # stands for a shape
    return torch.baddbmm(unread, q, k.mT, beta=0, alpha=scale)


def _exponentials(q: Tensor, k: Tensor, precise: bool) -> tuple[Tensor, Tensor]:
    """Return weights and their sums, in float32 if `precise`, whose quotients are softmax(q k^T / sqrt(d)).

    The softmax of torch subtracts the largest logit of each row first and divides each weight, in passes that take
    twice the time of the exponentials alone. Here the output of attention is divided, which has fewer numbers. Powers
    of 2, in the memory of the logits, take three quarters of the time of those of e. Where the powers of a row may
    leave the range of the dtype, torch's softmax computes that row; its sum is then 1. Sums between 2^-96 and 2^96 are
    right: bfloat16 and float32 reach from 2^-126 to 2^127.

    Shapes: (m, n, d), (m, N, d) -> (m, n, N), (m, n, 1).
    """
    scale = q.shape[-1] ** -0.5
    weights = _scaled_products(q, k, scale * 1.4426950408889634).exp2_()  # log2(e): 2^(x log2(e)) = e^x
    sums = weights.sum(-1, keepdim=True, dtype=torch.float32 if precise else weights.dtype)
    least, largest = sums.aminmax()
    low, high = 2.0**-96, 2.0**96
    if not (float(least) > low and float(largest) < high):  # also where one is not a number
        near = (sums > low) & (sums < high)  # (m, n, 1)
        weights = torch.where(near, weights, _scaled_products(q, k, scale).softmax(-1))
        sums = torch.where(near, sums, torch.ones_like(sums))
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
