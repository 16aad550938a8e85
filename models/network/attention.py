"""What [CLS] attends to, for the images that ask for it; nobody's answer is touched by it.

In: what entered the blocks, of those images alone. Out: a weight for each token. Queries and keys are computed from it
a second time, so that the blocks run the same for everybody and the fused attention never has to give out its matrix.

Sources: a layer as `visualize_attention.py` of facebookresearch/dino shows it, softmax(q k^T / sqrt(d)) of [CLS] over
all tokens; the rollout of Abnar & Zuidema 2020 (arXiv 2005.00928).
Shapes: N tokens of one image, T tokens of all images together, D embedding dimension, H heads, d = D / H.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.network.packing import Packing

Project = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""What enters a block (N, D) -> its queries, keys and values (N, H, d)."""

MATRIX = 2**22
"""Numbers of a layer's attention (H, N, N) that are held at a time: 16 MiB, whatever the image's size."""


@dataclass(frozen=True)
class AttentionSpec:
    """Which attention of [CLS] is wanted of an image.

    layer: counted from 0.
    head: counted from 0; None is the mean over the heads.
    rollout: through all layers up to this one, each the mean over its heads, instead of this one's alone.
    """

    layer: int
    head: int | None = None
    rollout: bool = False

    @property
    def layers(self) -> range:
        """The layers that it takes."""
        return range(0 if self.rollout else self.layer, self.layer + 1)


class AttentionRecorder:
    """Keeps what enters the layers that are looked at, of the images that are looked at."""

    def __init__(self, specs: Mapping[int, AttentionSpec], packing: Packing) -> None:
        places = packing.places() if specs else {}
        self._looks = [(attention_spec, places[image]) for image, attention_spec in specs.items()]
        self._entered: list[list[Tensor]] = [[] for _ in specs]

    def see(self, layer: int, x: Tensor) -> None:
        """Keep the rows of what enters this layer (T, D) that will be needed."""
        for (attention_spec, place), entered in zip(self._looks, self._entered, strict=True):
            if layer in attention_spec.layers:
                entered.append(x[place].clone())  # a view would keep the whole pack alive, of every layer

    def read(self, project: Sequence[Project]) -> Iterator[Tensor]:
        """The attention of [CLS] in each image that is looked at: float32 (N,), in the order of the looks."""
        for (attention_spec, _), entered in zip(self._looks, self._entered, strict=True):
            layers = [project[layer](x)[:2] for layer, x in zip(attention_spec.layers, entered, strict=True)]
            yield rollout(layers) if attention_spec.rollout else one_layer(*layers[0], attention_spec.head)


def one_layer(q: Tensor, k: Tensor, head: int | None) -> Tensor:
    """The row of [CLS], the first token, of one head or of their mean: (N, H, d) each -> (N,)."""
    row = _weights(q[:1], k)[:, 0]  # (H, N)
    return row.mean(0) if head is None else row[head]


def rollout(layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The row of [CLS] of the product of all layers' (A + I) / 2, the last one's first: queries and keys -> (N,).

    A is the mean over the heads, I what the residual connection hands on. Only a row is ever multiplied.
    """
    q, k = layers[-1]
    row = (_first(k) + one_layer(q, k, None)) / 2
    for q, k in reversed(layers[:-1]):
        row = (row + _times(row, q, k)) / 2
    return row


def _first(k: Tensor) -> Tensor:
    """The row of [CLS] of I."""
    row = torch.zeros(len(k), dtype=torch.float32, device=k.device)
    row[0] = 1
    return row


def _times(row: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """(N,) times the mean of the heads' matrices -> (N,), a few rows of the matrices at a time."""
    tokens, heads, _ = k.shape
    step = max(1, MATRIX // (heads * tokens))
    product = torch.zeros_like(row)
    for some, theirs in zip(row.split(step), q.split(step), strict=True):
        product += torch.einsum("n,hnm->m", some, _weights(theirs, k)) / heads
    return product


def _weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) in float32: (n, H, d), (N, H, d) -> (H, n, N)."""
    q, k = q.float().transpose(0, 1), k.float().transpose(0, 1)
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
