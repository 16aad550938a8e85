"""A checkpoint as it lies on disk, and what a layout makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from models.errors import CheckpointBroken
from models.preprocess import Labels, Preprocess
from models.vit import ViTConfig


@dataclass(frozen=True)
class Source:
    """A checkpoint that was opened and not yet understood."""

    path: Path
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]  # config.json, empty where there is none


@dataclass(frozen=True)
class Converted:
    """A checkpoint that was understood: the network's config and weights under its own names, and the rest.

    reasons: for each thing that was recognised or assumed, why; shown by `GET /model`.
    """

    layout: str
    profile: str
    config: ViTConfig
    weights: Mapping[str, Tensor]
    preprocess: Preprocess
    labels: Labels | None
    reasons: Mapping[str, str] = field(default_factory=dict)


class Tensors:
    """The tensors of a checkpoint, each to be taken exactly once.

    What was asked for and is not there, and what is there and was never asked for, is an error that names it: nothing
    is left random and nothing is ignored in silence.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._left = dict(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str) -> Tensor:
        """The tensor of this name, in float32."""
        if name not in self._left:
            raise CheckpointBroken(f"tensor {name!r} is missing")
        return self._left.pop(name).float()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that stays to be taken."""
        if name not in self._left:
            raise CheckpointBroken(f"tensor {name!r} is missing")
        return tuple(self._left[name].shape)

    def finish(self) -> None:
        """Raise CheckpointBroken if any tensor was not taken."""
        if self._left:
            names = sorted(self._left)
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise CheckpointBroken(f"unexpected tensors: {', '.join(map(repr, names[:3]))}{more}")
