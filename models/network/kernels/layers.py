"""Choose the fastest linear layers that are right on this machine: each kind is tried, and torch's stay otherwise.

In: a linear layer, of 8 bits or of more. Out: a layer that computes the same faster, or None.
Knows nothing of networks.

Layers of as many inputs are of one kind, whatever their outputs: the first of them is tried. So the last block's
projections to queries, keys and values compute alike, whether one layer or two do it.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from models.network.kernels.linear import PackedLinear, PackedQuantizedLinear
from models.network.kernels.quantized import LARGEST_WEIGHT, LEVELS, PLAIN, QuantizedLinear
from models.network.kernels.selection import is_faster, near, relative_time, select_rounding, tolerance_of
from models.network.kernels.tiles import TiledLinear, TiledQuantizedLinear

Compute = Callable[[Tensor], Tensor]
"""What a linear layer computes: (T, D) -> (T, F)."""

Kind = Callable[..., nn.Module]
"""Makes a faster layer of a linear one. It or its layer raises one of `NOT_HERE` where it does not run."""

NOT_HERE = AttributeError, RuntimeError
"""What torch raises where this torch, processor, dtype or width has no such operator."""


def is_faster_in_the_mean(kernel: Compute, plain: Compute, inputs: Iterable[Tensor]) -> bool:
    """Return whether a kernel takes less time than the plain way, in the geometric mean over the inputs.

    One image and a batch count the same: which of them a service computes is not known. On one machine layers of
    native/ take 0.7 to 0.9 of oneDNN's time for one image, and 0.6 to 1.2 for eight.
    """
    return prod(relative_time(partial(kernel, x), partial(plain, x)) for x in inputs) < 1


class _Packer:
    """Remembers which kind was chosen for layers that are alike, and makes layers of it."""

    def __init__(self) -> None:
        self._chosen: dict[Hashable, Kind | None] = {}
        self.packed: set[type[nn.Module]] = set()
        """The types of the layers that were made."""

    def _make(
        self, alike: Hashable, choose: Callable[[], Kind | None], layer: nn.Module, **arguments: object
    ) -> nn.Module | None:
        """Return what the kind of layers like this one makes of it; None where it makes none."""
        if alike not in self._chosen:
            self._chosen[alike] = choose()
        if (kind := self._chosen[alike]) is None:
            return None
        try:
            packed = kind(layer, **arguments)
        except NOT_HERE:
            return None
        self.packed.add(type(packed))
        return packed


class LinearPacker(_Packer):
    """Replaces the linear layers of a network on a CPU by faster ones.

    Args:
        rows: the numbers of tokens to try; the last is the typical one.
        kinds: what to try; None: oneDNN's layers and those of native/.
    """

    def __init__(self, rows: Sequence[int], kinds: Sequence[Kind] | None = None) -> None:
        super().__init__()
        self._rows = rows
        self._kinds = (partial(PackedLinear, rows=rows[-1]), TiledLinear) if kinds is None else kinds

    @torch.inference_mode()
    def __call__(self, layer: nn.Linear, activation: str = "none") -> nn.Module | None:
        """Return a layer that computes the same, with the activation; None where the plain one is as good."""
        if activation not in PLAIN:
            return None
        alike = layer.in_features, activation
        return self._make(alike, lambda: self._choose(layer, activation), layer, activation=activation)

    def _choose(self, layer: nn.Linear, activation: str) -> Kind | None:
        inputs = [torch.randn(rows, layer.in_features).to(layer.weight.dtype) for rows in self._rows]
        plain, tolerance = PLAIN[activation], tolerance_of(layer.weight.dtype)
        found: Kind | None = None
        fastest: Compute = lambda x: plain(layer(x))  # noqa: E731 - replaced by a layer
        expected = [fastest(x) for x in inputs]
        for kind in self._kinds:
            try:
                packed = kind(layer, activation=activation)
                right = all(near(packed(x), y, None, tolerance) for x, y in zip(inputs, expected, strict=True))
            except NOT_HERE:
                continue
            if right and is_faster_in_the_mean(packed, fastest, inputs):
                found, fastest = kind, packed
        return found


class QuantizedPacker(_Packer):
    """Replaces layers of 8 bits on a CPU by the fastest kind that gives the right numbers, if any does.

    Args:
        rows: the numbers of tokens to try; the last is the typical one.
        dtype: of the layers that 8 bits are compared with: what the processor computes natively.
        kinds: what to try; None: oneDNN's layers and those of native/.
    """

    def __init__(self, rows: Sequence[int], dtype: torch.dtype, kinds: Sequence[Kind] | None = None) -> None:
        super().__init__()
        self._rows, self._dtype = rows, dtype
        packed = partial(PackedQuantizedLinear, rows=rows[-1])
        self._kinds = (packed, TiledQuantizedLinear) if kinds is None else kinds
        self._quantize = select_rounding(rows[-1], dtype)
        self._pack = LinearPacker(rows)
        self._faster: list[bool] = []

    @property
    def pays(self) -> bool:
        """Whether layers of 8 bits take less time than others, for most that were tried."""
        return 2 * sum(self._faster) > len(self._faster)

    @torch.inference_mode()
    def __call__(self, layer: QuantizedLinear) -> nn.Module | None:
        """Return a layer that computes the same; None where the plain one has to do."""
        output = layer.output
        alike = layer.in_features, output.activation, output.grid is None, output.dtype
        return self._make(alike, lambda: self._choose(layer), layer, quantize=self._quantize)

    def _choose(self, layer: QuantizedLinear) -> Kind | None:
        inputs = [torch.randint(LEVELS + 1, (rows, layer.in_features)).to(torch.uint8) for rows in self._rows]
        largest = with_largest_weights(layer)
        tried = (layer, inputs[-1]), (largest, torch.full_like(inputs[-1], LEVELS))
        expected = [one(x) for one, x in tried]
        found: Kind | None = None
        fastest: Compute = layer
        for kind in self._kinds:
            try:
                packed = kind(layer)
                results = packed(inputs[-1]), kind(largest)(tried[1][1])
            except NOT_HERE:
                continue
            right = all(near(y, z, layer.output.grid) for y, z in zip(results, expected, strict=True))
            if right and (found is None or is_faster_in_the_mean(packed, fastest, inputs)):
                found, fastest = kind, packed
        self._faster.append(found is not None and self._is_faster(fastest, layer))
        return found

    def _is_faster(self, packed: Compute, layer: QuantizedLinear) -> bool:
        """Whether a layer of 8 bits takes less time than the fastest one of the other dtype."""
        plain = nn.Linear(layer.in_features, layer.out_features, dtype=self._dtype)
        name = layer.output.activation
        activation = PLAIN[name]
        other = self._pack(plain, name) or (lambda x: activation(plain(x)))
        x = torch.randint(LEVELS + 1, (self._rows[-1], layer.in_features))
        return is_faster(partial(packed, x.to(torch.uint8)), partial(other, x.to(self._dtype)))


def with_largest_weights(layer: QuantizedLinear) -> QuantizedLinear:
    """Return a layer like another, of the largest weights and a zero point of 0.

    Processors without VNNI add two products in 16 bits, which overflow for the largest inputs.
    """
    largest = layer.rows(slice(None))
    largest.weight = torch.full_like(layer.weight, LARGEST_WEIGHT)
    largest.weight_scale = torch.full_like(layer.weight_scale, 1 / layer.in_features)
    largest.input_scale = torch.full_like(layer.input_scale, 1 / (LEVELS * LARGEST_WEIGHT))
    largest.input_zero = torch.zeros_like(layer.input_zero)
    return largest
