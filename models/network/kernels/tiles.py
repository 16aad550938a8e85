"""Linear layers of native/ on processors with AMX, of 16 or 8 bits, with the activation in the same pass.

In: a linear layer, and the activation that follows it. Out: a layer that computes both.
Knows nothing of networks.

Each output is summed in one order, whatever the number of tokens, so an image gets the same bits alone and in company.
What uses these layers is chosen in layers.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network.kernels.linear import Quantize, folded
from models.network.kernels.operators import multiplies
from models.network.kernels.quantized import Grid8, QuantizedLinear

ACTIVATIONS = ("none", "gelu", "gelu_tanh")
"""In the order of `Activation` in native/linear.c."""

PANEL = 32
"""Outputs that are computed at a time."""

STEP_BYTES = 64
"""Of the inputs that are read at a time."""

BITS = {torch.uint8: 8, torch.bfloat16: 16, torch.float32: 32}
"""Of the dtypes that a layer of 8 bits can answer in."""


class TiledLinear(nn.Module):
    """x W^T + b, and an activation of `ACTIVATIONS`, in bfloat16: (T, D) -> (T, F).

    Args:
        layer: the linear layer.
        activation: applied to the result.

    Raises RuntimeError where the processor, the dtype or the width does not fit.
    """

    packed: Tensor  # bfloat16 (F / 32, 32 * D)
    bias: Tensor  # float32, F rounded up to a multiple of 32

    def __init__(self, layer: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        if layer.weight.dtype != torch.bfloat16:
            raise RuntimeError(f"expected weights of bfloat16, got {layer.weight.dtype}")
        self._outputs, self._activation = layer.out_features, ACTIVATIONS.index(activation)
        self.register_buffer("packed", pack(layer.weight.detach()), persistent=False)
        self.register_buffer("bias", _whole_panels(layer.bias.detach().float()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of the linear layer."""
        return torch.ops.vitrine.linear(x, self.packed, self.bias, self._outputs, self._activation)


class TiledQuantizedLinear(nn.Module):
    """What a `QuantizedLinear` computes: (T, D) -> (T, F).

    Args:
        layer: the layer, with its `output` as it stays.
        quantize: rounds inputs of more than 8 bits.

    Raises RuntimeError where the processor, the width or the dtype of the outputs does not fit.
    """

    packed: Tensor  # uint8 (F / 32, 32 * D)
    scales: Tensor  # float32, F rounded up to a multiple of 32
    bias: Tensor  # float32, the same

    def __init__(self, layer: QuantizedLinear, quantize: Quantize = Grid8.quantize) -> None:
        super().__init__()
        output = layer.output
        self._quantize, self._grid = quantize, layer.grid
        self._outputs, self._activation = layer.out_features, ACTIVATIONS.index(output.activation)
        scales, bias = folded(layer)
        self.register_buffer("packed", pack(layer.weight), persistent=False)
        self.register_buffer("scales", _whole_panels(scales), persistent=False)
        self.register_buffer("bias", _whole_panels(bias), persistent=False)
        scale, zero = output.grid or (1.0, 0)
        dtype = torch.uint8 if output.grid else output.dtype
        if dtype not in BITS:
            raise RuntimeError(f"expected outputs of 8 bits, bfloat16 or float32, got {dtype}")
        self._answer = BITS[dtype], 1 / scale, float(zero)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of the linear layer."""
        q = x if x.dtype == torch.uint8 else self._quantize(self._grid, x)
        weights = self.packed, self.scales, self.bias
        return torch.ops.vitrine.linear8(q, *weights, self._outputs, self._activation, *self._answer)


def pack(weight: Tensor) -> Tensor:
    """Return weights in the order in which tiles are read: bfloat16 or int8 (F, D) -> bfloat16 or uint8 (P, 32 * D).

    P panels of 32 outputs. In each step of 64 bytes of the inputs there are two tiles of 16 outputs, whose rows have 32
    bits of each output. Raises RuntimeError.
    """
    if not multiplies():
        raise RuntimeError("this processor has no AMX, or there are no compiled operators")
    outputs, inputs = weight.shape
    together = 4 // weight.element_size()  # numbers in 32 bits
    if inputs * weight.element_size() % STEP_BYTES:
        raise RuntimeError(f"rows of {inputs} inputs are not whole tiles")
    whole = F.pad(weight, (0, 0, 0, -outputs % PANEL))
    tiles = whole.unflatten(0, (-1, 2, 16)).unflatten(3, (-1, 16, together))  # panel, tile, output, step, row, number
    packed = tiles.permute(0, 3, 1, 4, 2, 5).flatten(1).contiguous()
    return packed if weight.dtype == torch.bfloat16 else packed.view(torch.uint8)


def _whole_panels(values: Tensor) -> Tensor:
    return F.pad(values, (0, -len(values) % PANEL)).contiguous()
