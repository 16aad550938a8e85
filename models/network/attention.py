"""Attention maps: how much [CLS] attends to each token, for the images that request it.

In: the inputs of the blocks, for those images only. Out: one weight per token.
Knows nothing of requests or of how the network computes attention.

The queries and keys of the requested layers are computed a second time from the recorded inputs. So the blocks run
the same for every image, and the fused attention never has to return its matrix.

Sources: one layer as `visualize_attention.py` of facebookresearch/dino shows it, softmax(q k^T / sqrt(d)) of [CLS]
over all tokens; the rollout of Abnar & Zuidema 2020 (arXiv 2005.00928).
Shapes: N tokens of one image, T tokens of all images together, D embedding dimension, H heads, d = D / H.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.network.packing import Packing

Projection = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""The input of a block (N, D) -> its queries, keys and values (N, H, d)."""

MAX_MATRIX = 2**22
"""Numbers of an attention matrix (H, N, N) in memory at a time: 16 MiB, independent of the size of the image."""


@dataclass(frozen=True)
class AttentionSpec:
    """Which attention of [CLS] to return for an image.

    Args:
        layer: counted from 0.
        head: counted from 0; None is the mean over the heads.
        rollout: the rollout from the first layer through this one, with the mean over the heads of each layer,
            instead of this layer's attention.
    """

    layer: int
    head: int | None = None
    rollout: bool = False

    @property
    def layers(self) -> range:
        """The layers whose attention is needed."""
        return range(0 if self.rollout else self.layer, self.layer + 1)


class AttentionRecorder:
    """Records the block inputs that the requested attention maps need, and computes the maps from them.

    Args:
        specs: the requested attention, by the image's index.
        packing: of all images of the batch.
    """

    def __init__(self, specs: Mapping[int, AttentionSpec], packing: Packing) -> None:
        slices = packing.slices() if specs else {}
        self._requests = [(spec, slices[image]) for image, spec in specs.items()]
        self._inputs: list[list[Tensor]] = [[] for _ in specs]

    def record(self, layer: int, x: Tensor) -> None:
        """Keep the rows of a layer's input (T, D) that will be needed."""
        for (spec, rows), inputs in zip(self._requests, self._inputs, strict=True):
            if layer in spec.layers:
                inputs.append(x[rows].clone())  # (N, D); a view would keep the whole pack of every layer in memory

    def weights(self, projections: Sequence[Projection]) -> Iterator[Tensor]:
        """Yield the attention of [CLS] in each image of `specs`, in that order: float32 (N,).

        Args:
            projections: of every block, in order.
        """
        for (spec, _), inputs in zip(self._requests, self._inputs, strict=True):
            q_k = [projections[layer](x)[:2] for layer, x in zip(spec.layers, inputs, strict=True)]
            yield rollout(q_k) if spec.rollout else cls_attention(*q_k[0], spec.head)


def cls_attention(q: Tensor, k: Tensor, head: int | None) -> Tensor:
    """Return the attention of [CLS], the first token, in one head or averaged over heads: (N, H, d) x 2 -> (N,)."""
    row = _softmax(q[:1], k)[:, 0]  # (H, N)
    return row.mean(0) if head is None else row[head]


def rollout(q_k: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the row of [CLS] in the product of (A + I) / 2 over the layers, last layer leftmost.

    A is the attention matrix averaged over heads; I stands for the residual connection. Only one row of the product is
    needed, so it is computed as row times matrix, from the last layer to the first.

    Args:
        q_k: the queries and keys of each layer, (N, H, d) each.

    Returns: (N,).
    """
    q, k = q_k[-1]
    row = (_one_hot_cls(k) + cls_attention(q, k, None)) / 2
    for q, k in reversed(q_k[:-1]):
        row = (row + _times_attention(row, q, k)) / 2
    return row


def _one_hot_cls(k: Tensor) -> Tensor:
    """Return the row of [CLS] in I: (N,)."""
    row = torch.zeros(len(k), dtype=torch.float32, device=k.device)
    row[0] = 1
    return row


def _times_attention(row: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """Multiply (N,) by the mean of the heads' attention matrices -> (N,), a few rows of the matrices at a time."""
    tokens, heads, _ = k.shape
    step = max(1, MAX_MATRIX // (heads * tokens))
    product = torch.zeros_like(row)
    for factors, queries in zip(row.split(step), q.split(step), strict=True):
        product += torch.einsum("n,hnm->m", factors, _softmax(queries, k)) / heads
    return product


def _softmax(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) in float32: (n, H, d), (N, H, d) -> (H, n, N)."""
    q, k = q.float().transpose(0, 1), k.float().transpose(0, 1)  # (H, n, d), (H, N, d)
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
