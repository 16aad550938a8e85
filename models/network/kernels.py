"""Two implementations of self-attention inside each image of a pack.

In: queries, keys and values of the packed tokens, and a `Packing` that says which rows belong to which image.
Out: the attention output of each query.
Knows nothing of blocks, weights or configs.

`grouped_attention` makes one call of torch's fused attention for each image length; it runs on every device, and can
add a bias.
`varlen_attention` makes one call of FlashAttention (Dao 2023, arXiv 2307.08691) for all images; it needs CUDA, compute
capability 8.0 and half precision.

Shapes: t query tokens, T tokens of all images together, D embedding dimension, H heads, d = D / H.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from models.network.packing import Packing
from models.network.positions.relative import Bias

AttentionFunction = Callable[[Tensor, Tensor, Tensor, Packing, Packing], Tensor]
"""Queries (t, H, d), keys and values (T, H, d), the packing of the keys, the packing of the queries -> (t, D)."""

Biases = Sequence[Bias]
"""What is added to the attention logits of the images of each run."""

TEST_LENGTHS = (3, 17, 17, 70)
TOLERANCE = 2e-2
"""Largest difference of two kernels in half precision on values of unit variance: a few last places of bfloat16."""


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


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, packing: Packing, query_packing: Packing) -> Tensor:
    """Attend inside each image, with one call for all lengths: (t, H, d), (T, H, d) x 2 -> (t, D)."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - not in every torch, and for few devices

    cu_seqlens = query_packing.cu_seqlens(q.device), packing.cu_seqlens(k.device)
    # One split: the kernel would choose the number of splits by the longest image, and so one image's answer would
    # depend on the other images of the batch.
    out = varlen_attn(q, k, v, *cu_seqlens, query_packing.longest, packing.longest, num_splits=1)  # (t, H, d)
    return cast(Tensor, out).flatten(1)  # it returns a tuple only with `return_aux`


def select_attention(device: torch.device, dtype: torch.dtype, heads: int, head_dim: int) -> AttentionFunction:
    """Return the fastest implementation that gives correct results here.

    Which GPUs, dtypes and head sizes `varlen_attn` supports changes with the release of torch, so it is tried.
    """
    half = dtype in (torch.bfloat16, torch.float16)
    supported = half and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if supported and matches_grouped(varlen_attention, device, dtype, heads, head_dim):
        return varlen_attention
    return grouped_attention


@torch.inference_mode()
def matches_grouped(
    attend: AttentionFunction, device: torch.device, dtype: torch.dtype, heads: int, head_dim: int
) -> bool:
    """Return whether `attend` runs and agrees with `grouped_attention`: for all queries, and for the first of each."""
    packing = Packing.from_lengths(TEST_LENGTHS)
    q, k, v = torch.randn(3, sum(TEST_LENGTHS), heads, head_dim, device=device).to(dtype)
    for query_packing, queries in ((packing, q), (packing.leading(1), packing.leading_tokens(q, 1))):
        try:
            out = attend(queries, k, v, packing, query_packing)
        except (ImportError, RuntimeError, TypeError):  # this torch, device, dtype or head size has no such kernel
            return False
        expected = grouped_attention(queries, k, v, packing, query_packing)
        if not torch.allclose(out.float(), expected.float(), atol=TOLERANCE):
            return False
    return True
