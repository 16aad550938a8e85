"""The tensors of a checkpoint, each of which must be taken exactly once."""

from collections.abc import Mapping

from torch import Tensor

from models.errors import CheckpointBroken


class Tensors:
    """The tensors of a checkpoint under the network's names.

    A tensor that is requested but missing, and a tensor that is never requested, is an error that names it. So no
    parameter keeps random values, and no tensor is ignored silently.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._left = dict(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str) -> Tensor:
        """Return the tensor of this name in float32 and mark it as taken. Raises CheckpointBroken."""
        if name not in self._left:
            raise CheckpointBroken(f"tensor {name!r} is missing")
        return self._left.pop(name).float()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without taking it. Raises CheckpointBroken."""
        if name not in self._left:
            raise CheckpointBroken(f"tensor {name!r} is missing")
        return tuple(self._left[name].shape)

    def finish(self) -> None:
        """Raise CheckpointBroken if any tensor was not taken."""
        if self._left:
            raise CheckpointBroken(f"unexpected tensors: {abbreviate(self._left)}")


def abbreviate(names: Mapping[str, object] | set[str] | list[str]) -> str:
    """Return the first three names, quoted and sorted, and the number of the others."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(map(repr, ordered[:3])) + more
