"""Linear layers with weights and inputs of 8 bits, and norms before them, in the plain way that runs everywhere.

In: values of 32 or 16 bits, or of 8 bits from the layer or the norm before. Out: the same.
Knows nothing of networks, or of how scales are found.

The scales of the inputs are fixed, so that the answer of an image does not depend on the other images of its batch.
Weights are signed and have a scale for each output; inputs are unsigned and have one scale and one zero point. That is
what processors multiply fastest (VNNI, AMX). Source of the scheme: Jacob et al. 2018 (arXiv 1712.05877).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 255
"""The largest unsigned number of 8 bits."""

LARGEST_WEIGHT = 127
"""The largest weight; -128 is not used, so that the range is symmetric."""

HALF = 0.5
"""What is added before fractions are cut off, so that the nearest number remains."""

PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
"""What the activations of a packed layer have to agree with."""


def cut_off(x: Tensor) -> Tensor:
    """Return numbers of 8 bits without their fractions: float32 (T, D), which is changed -> uint8 (T, D)."""
    # torch converts to uint8 one number at a time, and in vectors by way of 16 bits: a third of the time.
    return x.clamp_(0, LEVELS + HALF).to(torch.int16).to(torch.uint8)


class Grid8(NamedTuple):
    """Numbers of 8 bits: q stands for scale * (q - zero)."""

    scale: float
    zero: int

    @classmethod
    def over(cls, low: float, high: float) -> "Grid8":
        """Return the grid whose 256 numbers reach from `low` to `high`, with 0 among them."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / LEVELS or 1.0
        return cls(scale, round(-low / scale))

    def quantize(self, x: Tensor) -> Tensor:
        """Return the nearest numbers of the grid: (T, D) -> uint8 (T, D)."""
        shift = x.new_full((), self.zero + HALF, dtype=torch.float32)
        return cut_off(torch.add(shift, x.float(), alpha=1 / self.scale))

    def restore(self, q: Tensor) -> Tensor:
        """Return what numbers of the grid stand for: uint8 (T, D) -> float32 (T, D)."""
        return (q.float() - self.zero) * self.scale


@dataclass(frozen=True)
class Output:
    """What a layer does with its sums.

    activation: of `PLAIN`.
    grid: of the layer that alone reads the result, which is then of 8 bits; None: the result is of `dtype`.
    dtype: of the result.
    """

    activation: str = "none"
    grid: Grid8 | None = None
    dtype: torch.dtype = torch.float32


class QuantizedLinear(nn.Module):
    """An activation of x W^T + b: (T, D) -> (T, F), for x of 8 bits, or of more bits, which are rounded to 8.

    Products and sums are of whole numbers; float32 holds them exactly up to 2^24 and to seven digits beyond.
    """

    weight: Tensor  # int8 (F, D)
    weight_scale: Tensor  # (F,)
    bias: Tensor  # (F,)
    input_scale: Tensor  # ()
    input_zero: Tensor  # ()

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.empty(out_features))
        self.register_buffer("bias", torch.empty(out_features))
        self.register_buffer("input_scale", torch.empty(()))
        self.register_buffer("input_zero", torch.empty(()))
        self.output = Output()

    @property
    def grid(self) -> Grid8:
        """The numbers that inputs are rounded to."""
        return Grid8(float(self.input_scale), int(self.input_zero))

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of the linear layer, as `output` says."""
        grid = self.grid
        q = x if x.dtype == torch.uint8 else grid.quantize(x)
        sums = F.linear(q.float() - grid.zero, self.weight.float())
        result = PLAIN[self.output.activation](sums * (self.weight_scale * grid.scale) + self.bias)
        return self.output.grid.quantize(result) if self.output.grid else result.to(self.output.dtype)

    def rows(self, chosen: slice) -> "QuantizedLinear":
        """Return a layer of some of the outputs, which shares the weights."""
        part = QuantizedLinear(0, 0)
        part.in_features = self.in_features
        for name in ("weight", "weight_scale", "bias"):
            setattr(part, name, getattr(self, name)[chosen])
        part.out_features = len(part.bias)
        part.input_scale, part.input_zero, part.output = self.input_scale, self.input_zero, self.output
        return part


class QuantizedNorm(nn.Module):
    """A LayerNorm whose output is rounded to 8 bits: (T, D) -> uint8 (T, D).

    The grid's scale and zero point are in its weight and bias, so that the norm does what `Grid8.quantize` begins with.

    Args:
        norm: the LayerNorm.
        grid: of the layer that alone reads the result.
    """

    weight: Tensor  # (D,)
    bias: Tensor  # (D,)

    def __init__(self, norm: nn.LayerNorm, grid: Grid8) -> None:
        super().__init__()
        self.eps, self.grid = norm.eps, grid
        self.register_buffer("weight", norm.weight.detach() / grid.scale)
        self.register_buffer("bias", norm.bias.detach() / grid.scale + (grid.zero + HALF))

    def forward(self, x: Tensor) -> Tensor:
        """Return the rounded norm of each row."""
        return cut_off(F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps))


class NarrowLinear(nn.Module):
    """A linear layer that computes in half precision within a network of float32: (T, D) -> (T, F).

    layer: in that precision, or packed; `dtype` is its name.
    """

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.dtype = layer, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, in half precision."""
        return self.layer(x.to(self.dtype))
