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
from typing import Literal

import torch
from torch import Tensor

from models.network.packing import Packing
from models.network.positions.places import Places
from models.network.positions.relative import Bias

Projection = Callable[[Tensor, Places], tuple[Tensor, Tensor, Tensor]]
"""The input of a block (N, D), and the places of its tokens -> its queries, keys and values (N, H, d)."""

Logits = tuple[Tensor, Tensor, Bias | None]
"""Queries and keys of an image, (N, H, d) each, and what is added to their products."""

MAX_MATRIX = 2**22
"""Numbers of an attention matrix (H, N, N) in memory at a time: 16 MiB, independent of the size of the image."""


@dataclass(frozen=True)
class AttentionSpec:
    """Which attention of [CLS] to return for an image.

    Args:
        layer: counted from 0.
        head: counted from 0; None is the mean over the heads, `all` each head by itself.
        rollout: the rollout from the first layer through this one, with the mean over the heads of each layer,
            instead of this layer's attention.
    """

    layer: int
    head: int | Literal["all"] | None = None
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
        self._requests = [(spec, slices[image], packing.run_of(image)) for image, spec in specs.items()]
        self._inputs: list[list[Tensor]] = [[] for _ in specs]

    def record(self, layer: int, x: Tensor) -> None:
        """Keep the rows of a layer's input (T, D) that will be needed."""
        for (spec, rows, _), inputs in zip(self._requests, self._inputs, strict=True):
            if layer in spec.layers:
                inputs.append(x[rows].clone())  # (N, D); a view would keep the whole pack of every layer in memory

    def weights(self, projections: Sequence[Projection], places: Callable[[int], Places]) -> Iterator[Tensor]:
        """Yield the attention of [CLS] in each image of `specs`, in that order: float32 (N,), or (H, N) of all heads.

        Args:
            projections: of every block, in order.
            places: of the packed tokens, for a block.
        """
        for (spec, rows, run), inputs in zip(self._requests, self._inputs, strict=True):
            layers: list[Logits] = []
            for layer, x in zip(spec.layers, inputs, strict=True):
                of_image = places(layer).of_image(rows, run)
                q, k, _ = projections[layer](x, of_image)
                layers.append((q, k, of_image.bias[0] if of_image.bias else None))
            yield rollout(layers) if spec.rollout else cls_attention(layers[0], spec.head)


def cls_attention(logits: Logits, head: int | Literal["all"] | None) -> Tensor:
    """Return the attention of [CLS], the first token: in one head or averaged over heads (N,), or in all (H, N)."""
    q, k, bias = logits
    row = _softmax(q[:1], k, bias.leading(slice(None), 1) if bias else None)[:, 0]  # (H, N)
    if head == "all":
        return row
    return row.mean(0) if head is None else row[head]


def rollout(layers: Sequence[Logits]) -> Tensor:
    """Return the row of [CLS] in the product of (A + I) / 2 over the layers, last layer leftmost.

    A is the attention matrix averaged over heads; I stands for the residual connection. Only one row of the product is
    needed, so it is computed as row times matrix, from the last layer to the first.

    Args:
        layers: the first layer first.

    Returns: (N,).
    """
    _, k, _ = layers[-1]
    row = (_one_hot_cls(k) + cls_attention(layers[-1], None)) / 2
    for logits in reversed(layers[:-1]):
        row = (row + _times_attention(row, logits)) / 2
    return row


def _one_hot_cls(k: Tensor) -> Tensor:
    """Return the row of [CLS] in I: (N,)."""
    row = torch.zeros(len(k), dtype=torch.float32, device=k.device)
    row[0] = 1
    return row


def _times_attention(row: Tensor, logits: Logits) -> Tensor:
    """Multiply (N,) by the mean of the heads' attention matrices -> (N,), a few rows of the matrices at a time."""
    q, k, bias = logits
    tokens, heads, _ = k.shape
    step = max(1, MAX_MATRIX // (heads * tokens))
    product = torch.zeros_like(row)
    for group in bias.head_groups() if bias else [slice(heads)]:
        added = bias.matrix(group) if bias else None
        for start in range(0, tokens, step):
            rows = slice(start, start + step)
            matrix = _softmax(q[rows, group], k[:, group], None if added is None else added[:, rows])
            product += torch.einsum("n,hnm->m", row[rows], matrix) / heads
    return product


def _softmax(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) in float32: (n, H, d), (N, H, d), (H, n, N) -> (H, n, N)."""
    q, k = q.float().transpose(0, 1), k.float().transpose(0, 1)  # (H, n, d), (H, N, d)
    logits = q @ k.mT * q.shape[-1] ** -0.5
    return (logits if bias is None else logits + bias.float()).softmax(-1)
