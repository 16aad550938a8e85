"""Observe what linear layers read while a network runs over images.

In: a network, images, names of layers. Out: for each layer the range of each input channel and, where it is asked for,
the sums of products of all pairs of channels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.network.vit import Readout, VisionTransformer

BATCH_TOKENS = 2048
"""Tokens of one forward pass over the images, as far as one image has no more."""

Images = Sequence[Tensor]
"""Normalised images (3, height, width) of any sizes."""


@dataclass
class Inputs:
    """What a layer has read: D channels.

    low, high: (D,), the range of each channel.
    products: (D, D), the sum of x x^T over all tokens, or None if it is not asked for.
    """

    low: Tensor
    high: Tensor
    products: Tensor | None = None


def everything(network: VisionTransformer) -> Readout:
    """Return a readout for which the last block answers every token, and all that can be compared."""
    return Readout.MEAN | Readout.NATIVE | (network.readouts & (Readout.CLS | Readout.LOGITS))


def batches(network: VisionTransformer, images: Images) -> Iterator[Images]:
    """Yield the images a few at a time."""
    batch: list[Tensor] = []
    tokens = 0
    for image in images:
        more = network.config.num_tokens(image.shape[1], image.shape[2])
        if batch and tokens + more > BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(image)
        tokens += more
    if batch:
        yield batch


@torch.inference_mode()
def observe(
    network: VisionTransformer, images: Images, names: Sequence[str], *, products: bool = False
) -> dict[str, Inputs]:
    """Run the network over the images and return what the layers of these names have read."""
    found: dict[str, Inputs] = {}

    def hook(name: str, _layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        x = arguments[0]
        low, high = x.amin(0), x.amax(0)
        if (seen := found.get(name)) is None:
            found[name] = Inputs(low, high, x.T @ x if products else None)
            return
        seen.low, seen.high = torch.minimum(seen.low, low), torch.maximum(seen.high, high)
        if seen.products is not None:
            seen.products += x.T @ x

    with hooked(network, {name: partial(hook, name) for name in names}):
        for batch in batches(network, images):
            network(batch, everything(network))
    return found


@contextmanager
def hooked(network: VisionTransformer, hooks: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Call a function before each layer of these names, with the layer and its arguments."""
    handles = [network.get_submodule(name).register_forward_pre_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
