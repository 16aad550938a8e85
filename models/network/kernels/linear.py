"""Linear layers of oneDNN with weights in its own order, and the activation in the same pass.

In: a linear layer, and the activation that follows it. Out: a layer that computes both.
Knows nothing of networks.

torch's own layer reorders the weights in every call, and writes the hidden values of an MLP out before their
activation reads them again. The operators are private to torch: they are what its compiler turns linear layers into
on a CPU (torch/_inductor/mkldnn_lowerings.py). So they are tried before they are used.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

FUSED: dict[str, tuple[str, str]] = {"none": ("none", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")}
"""Activations that oneDNN computes in the same pass: the operator's name and algorithm."""


class PackedLinear(nn.Module):
    """x W^T + b, and an activation of `FUSED`: (T, D) -> (T, F).

    Args:
        layer: the linear layer.
        rows: a typical T; the order of the weights is chosen for it, and right for every other.
        activation: applied to the result.

    Raises RuntimeError or AttributeError where this torch, processor or dtype has no such operator.
    """

    def __init__(self, layer: nn.Linear, rows: int, activation: str = "none") -> None:
        super().__init__()
        operators = torch.ops.mkldnn
        self._weight: Tensor = operators._reorder_linear_weight(layer.weight.detach(), rows)
        self._bias = layer.bias
        self._activation = FUSED[activation]
        self._run = cast(Callable[..., Tensor], operators._linear_pointwise.default)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of the linear layer."""
        name, algorithm = self._activation
        return self._run(x, self._weight, self._bias, name, [], algorithm)
