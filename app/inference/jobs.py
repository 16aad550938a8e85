"""What the engine is asked for one image, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import Fatal
from models.network.attention import AttentionSpec
from models.network.intermediate import TokenSpec
from models.network.vit import Readout
from models.preprocess import Pixels


@dataclass(frozen=True)
class Job:
    """One image, and what to read off the network for it.

    pixels: (3, height, width), from 0 to 255; or, in float32, normalised already, as the network takes them.
    normalize: scale a vector to length 1.
    top_k: for logits, the number of best classes; None is the probabilities of all classes in their order.
    attention_spec: for attention, which layer and head.
    token_spec: for the tokens of chosen blocks, which.
    """

    pixels: Pixels
    readout: Readout
    normalize: bool = False
    top_k: int | None = None
    attention_spec: AttentionSpec | None = None
    token_spec: TokenSpec | None = None


@dataclass(frozen=True)
class Ranking:
    """The best classes of one image, highest score first."""

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]

    def named(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return each class with its label, index and score."""
        pairs = zip(self.indices.tolist(), self.scores, strict=True)
        return [{"label": names[index], "index": index, "score": score} for index, score in pairs]


Answer = NDArray[np.float32] | Ranking
"""A vector (D,), probabilities (K,), patch tokens (h, w, D), attention (h, w) or (H, h, w), tokens of blocks
(L, h, w, D) or (L, N, D), or the best classes."""


class OutputInvalid(Exception):
    """The network's output for an image is not finite."""


class OutOfMemory(Exception):
    """The device has too little memory for a batch."""


class DeviceLost(Fatal):
    """The device is in a state that only a new process can leave: an illegal access, a hardware error."""
