"""Linear layers of oneDNN with weights in its own order, of 16 or 8 bits, and the activation in the same pass.

In: a linear layer, and the activation that follows it. Out: a layer that computes both.
Knows nothing of networks.

torch's own layer reorders the weights in every call, and writes the hidden values of an MLP out before their
activation reads them again. The operators are private to torch: they are what its compiler turns linear layers into
on a CPU (torch/_inductor/mkldnn_lowerings.py). So they are tried before they are used.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.network.kernels.quantized import Grid8, QuantizedLinear
from models.network.kernels.script import scripted

FUSED: dict[str, tuple[str, str]] = {"none": ("none", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")}
"""Activations that oneDNN computes in the same pass: the operator's name and algorithm."""

Quantize = Callable[[Grid8, Tensor], Tensor]
"""The numbers of a grid nearest to tokens: (T, D) -> uint8 (T, D)."""


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
        packed = operators._reorder_linear_weight(layer.weight.detach(), rows)
        self.register_buffer("packed", packed, persistent=False)
        self._bias = layer.bias
        self._activation = FUSED[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of the linear layer."""
        return scripted(_pointwise)(x, self.packed, self._bias, *self._activation)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, name: str, algorithm: str) -> Tensor:
    arguments: list[int | float | complex | None] = []
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, arguments, algorithm)


class PackedQuantizedLinear(nn.Module):
    """What a `QuantizedLinear` computes, in whole numbers of the processor: (T, D) -> (T, F).

    Args:
        layer: the layer, with its `output` as it stays.
        rows: a typical T; the order of the weights is chosen for it, and right for every other.
        quantize: rounds inputs of more than 8 bits.

    Raises RuntimeError or AttributeError where this torch or processor has no such operator.
    """

    def __init__(self, layer: QuantizedLinear, rows: int, quantize: Quantize = Grid8.quantize) -> None:
        super().__init__()
        self._quantize = quantize
        operators = torch.ops.onednn
        packed = operators.qlinear_prepack(layer.weight.contiguous(), [rows, layer.in_features])
        self.register_buffer("packed", packed, persistent=False)
        self._grid, output = layer.grid, layer.output
        self._scales, self._bias = folded(layer)
        self._zeros = torch.zeros(layer.out_features, dtype=torch.int64)
        scale, zero = output.grid or (1.0, 0)
        self._answer = scale, zero, torch.uint8 if output.grid else output.dtype, *FUSED[output.activation]

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of the linear layer."""
        q = x if x.dtype == torch.uint8 else self._quantize(self._grid, x)
        return scripted(_quantized_pointwise)(q, self.packed, self._scales, self._zeros, self._bias, *self._answer)


def folded(layer: QuantizedLinear) -> tuple[Tensor, Tensor]:
    """Return scales and biases for sums of products of the inputs as they are: float32 (F,) x 2.

    The inputs' scale is in those of the outputs and their zero point in the bias, where they cost nothing:
    (q - zero) W = q W - zero sum(W).
    """
    grid = layer.grid
    scales = layer.weight_scale * grid.scale
    shift = layer.weight.sum(1).double() * scales * grid.zero
    return scales, (layer.bias - shift).float()


def _quantized_pointwise(  # noqa: PLR0913, PLR0917 - the operator's own
    q: Tensor,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor,
    scale: float,
    zero: int,
    dtype: torch.dtype,
    name: str,
    algorithm: str,
) -> Tensor:
    arguments: list[int | float | complex | None] = []
    return torch.ops.onednn.qlinear_pointwise(
        q, 1.0, 0, weight, scales, zeros, bias, scale, zero, dtype, name, arguments, algorithm
    )
