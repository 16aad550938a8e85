"""The tensors of a checkpoint: each must be taken exactly once, and holds real, finite numbers."""

from collections.abc import Mapping

from torch import Tensor

from models.errors import CheckpointBroken, CheckpointUnsupported


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


def refuse_integers(tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointUnsupported for weights that are not real numbers, such as quantised ones."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointUnsupported(
                f"tensor {name!r} is of type {dtype}, as in quantised weights, and nothing says how to turn it into "
                "real numbers; save the weights in float32, float16 or bfloat16"
            )


def is_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite."""
    # One pass without a copy: a sum is finite only if every value is. Only a sum that overflows needs the second test.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def abbreviate(names: Mapping[str, object] | set[str] | list[str]) -> str:
    """Return the first three names, quoted and sorted, and the number of the others."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(map(repr, ordered[:3])) + more
