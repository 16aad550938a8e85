"""Tokens after chosen blocks, for the images that request them.

In: the outputs of the blocks. Out: the tokens of each image, for each chosen block.
Knows nothing of requests or of what a block computes.

Source: `get_intermediate_layers` of facebookresearch/dinov2, which applies the final norm to every chosen block.
Shapes: L chosen blocks, N tokens of one image, P prefix tokens, h x w the grid of patches, T tokens of all images
together, D embedding dimension.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.network.packing import Packing
from models.network.positions.learned import Grid


@dataclass(frozen=True)
class TokenSpec:
    """Which tokens to return for an image.

    Args:
        layers: blocks, counted from 0, in the order of the answer.
        norm: apply the network's final norm to the output of each block.
        prefix: return the prefix tokens too, before the patch tokens.
    """

    layers: tuple[int, ...]
    norm: bool = True
    prefix: bool = False


class TokenRecorder:
    """Records the outputs of the blocks that images ask for.

    Args:
        specs: the requested tokens, by the image's index.
        packing: of all images of the batch.
    """

    def __init__(self, specs: Mapping[int, TokenSpec], packing: Packing) -> None:
        slices = packing.slices() if specs else {}
        self._specs = specs
        self._rows = {image: slices[image] for image in specs}
        self._outputs: dict[tuple[int, int], Tensor] = {}  # (N, D) by image and layer

    def record(self, layer: int, x: Tensor) -> None:
        """Keep the rows of a block's output (T, D) that are wanted; a view would keep the pack of every layer."""
        for image, spec in self._specs.items():
            if layer in spec.layers:
                self._outputs[image, layer] = x[self._rows[image]].clone()

    def tokens(self, norm: Callable[[Tensor], Tensor], grids: Sequence[Grid], prefix: int) -> dict[int, Tensor]:
        """Return the tokens of each image in `specs`: (L, h, w, D), or (L, N, D) with prefix tokens.

        Args:
            norm: the network's final norm.
            grids: of all images of the batch.
            prefix: P.
        """
        found: dict[int, Tensor] = {}
        for image, spec in self._specs.items():
            outputs = torch.stack([self._outputs[image, layer] for layer in spec.layers])  # (L, N, D)
            outputs = norm(outputs) if spec.norm else outputs
            found[image] = outputs if spec.prefix else outputs[:, prefix:].unflatten(1, grids[image])
        return found
