"""The tensors of a checkpoint, each to be taken exactly once."""

from collections.abc import Mapping

from torch import Tensor

from models.errors import CheckpointBroken


class Tensors:
    """The tensors of a checkpoint under the network's names.

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
            raise CheckpointBroken(f"unexpected tensors: {some_names(self._left)}")


def some_names(names: Mapping[str, object] | set[str] | list[str]) -> str:
    """The first names of many, quoted, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(map(repr, ordered[:3])) + more
