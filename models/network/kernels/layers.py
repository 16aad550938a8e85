"""Choose the fastest linear layers that are right on this machine: each kind is tried, and torch's stay otherwise.

In: a linear layer, of 8 bits or of more. Out: a layer that computes the same faster, or None.
Knows nothing of networks.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from models.network.kernels.linear import PackedLinear, PackedQuantizedLinear
from models.network.kernels.quantized import LARGEST_WEIGHT, LEVELS, PLAIN, QuantizedLinear
from models.network.kernels.selection import is_faster, near, relative_time, select_rounding
from models.network.kernels.tiles import TiledLinear, TiledQuantizedLinear

Compute = Callable[[Tensor], Tensor]
"""What a linear layer computes: (T, D) -> (T, F)."""

Kind = Callable[..., nn.Module]
"""Makes a faster layer of a linear one. Raises AttributeError or RuntimeError where it does not run here."""


def takes_less(kernel: Compute, plain: Compute, inputs: Sequence[Tensor]) -> bool:
    """Return whether a kernel takes less time than the plain way, in the mean over the inputs."""
    return prod(relative_time(partial(kernel, x), partial(plain, x)) for x in inputs) < 1


class LinearPacker:
    """Replaces the linear layers of a network on a CPU by faster ones; each shape is tried once.

    Args:
        rows: the numbers of tokens to try; the last is the typical one.
        kinds: what to try in the place of oneDNN's layers and those of native/.
    """

    def __init__(self, rows: Sequence[int], kinds: Sequence[Kind] = ()) -> None:
        self._rows = rows
        self._kinds = kinds or (partial(PackedLinear, rows=rows[-1]), TiledLinear)
        self._chosen: dict[tuple[int, int, str], Kind | None] = {}
        self.packed: set[type[nn.Module]] = set()
        """The types of the layers that were made."""

    @torch.inference_mode()
    def __call__(self, layer: nn.Linear, activation: str = "none") -> nn.Module | None:
        """Return a layer that computes the same, with the activation; None where the plain one is as good."""
        shape = layer.in_features, layer.out_features, activation
        if shape not in self._chosen:
            self._chosen[shape] = self._choose(layer, activation) if activation in PLAIN else None
        if (kind := self._chosen[shape]) is None:
            return None
        packed = kind(layer, activation=activation)
        self.packed.add(type(packed))
        return packed

    def _choose(self, layer: nn.Linear, activation: str) -> Kind | None:
        inputs = [torch.randn(rows, layer.in_features).to(layer.weight.dtype) for rows in self._rows]
        plain = PLAIN[activation]
        found: Kind | None = None
        fastest: Compute = lambda x: plain(layer(x))  # noqa: E731 - replaced by a layer
        expected = [fastest(x) for x in inputs]
        for kind in self._kinds:
            try:
                packed = kind(layer, activation=activation)
                right = all(near(packed(x), y, None) for x, y in zip(inputs, expected, strict=True))
            except (AttributeError, RuntimeError):  # this torch, processor, dtype or width has no such operator
                continue
            if right and takes_less(packed, fastest, inputs):
                found, fastest = kind, packed
        return found


class QuantizedPacker:
    """Replaces layers of 8 bits on a CPU by the fastest ones that give the right numbers; each shape is tried once.

    Args:
        rows: the numbers of tokens to try; the last is the typical one.
        dtype: of the layers that 8 bits are compared with: what the processor computes natively.
        kinds: what to try in the place of oneDNN's layers and those of native/.
    """

    def __init__(self, rows: Sequence[int], dtype: torch.dtype, kinds: Sequence[Kind] = ()) -> None:
        self._rows, self._dtype = rows, dtype
        self._kinds = kinds or (partial(PackedQuantizedLinear, rows=rows[-1]), TiledQuantizedLinear)
        self._quantize = select_rounding(rows[-1], dtype)
        self._chosen: dict[tuple[object, ...], Kind | None] = {}
        self._faster: list[bool] = []
        self.packed: set[type[nn.Module]] = set()
        """The types of the layers that were made."""

    @property
    def pays(self) -> bool:
        """Whether layers of 8 bits take less time than others, for most shapes that were tried."""
        return 2 * sum(self._faster) > len(self._faster)

    @torch.inference_mode()
    def __call__(self, layer: QuantizedLinear) -> nn.Module | None:
        """Return a layer that computes the same; None where the plain one has to do."""
        output = layer.output
        shape = layer.in_features, layer.out_features, output.activation, output.grid is None, output.dtype
        if shape not in self._chosen:
            self._chosen[shape] = self._choose(layer)
        if (kind := self._chosen[shape]) is None:
            return None
        packed = kind(layer, quantize=self._quantize)
        self.packed.add(type(packed))
        return packed

    def _choose(self, layer: QuantizedLinear) -> Kind | None:
        inputs = [torch.randint(LEVELS + 1, (rows, layer.in_features)).to(torch.uint8) for rows in self._rows]
        found: Kind | None = None
        fastest: Compute = layer
        for kind in self._kinds:
            try:
                right, packed = self._agrees(kind, layer), kind(layer)
            except (AttributeError, RuntimeError):  # this torch, processor or width has no such operator
                continue
            if right and (found is None or takes_less(packed, fastest, inputs)):
                found, fastest = kind, packed
        self._faster.append(found is not None and self._is_faster(fastest, layer))
        return found

    def _agrees(self, kind: Kind, layer: QuantizedLinear) -> bool:
        """Whether a packed layer gives the plain one's numbers for its weights and for the largest ones.

        Processors without VNNI add two products in 16 bits, which the largest ones overflow.
        """
        largest = layer.rows(slice(None))
        largest.weight = torch.full_like(layer.weight, LARGEST_WEIGHT)
        largest.weight_scale = torch.full_like(layer.weight_scale, 1 / layer.in_features)
        largest.input_scale = torch.full_like(layer.input_scale, 1 / (LEVELS * LARGEST_WEIGHT))
        largest.input_zero = torch.zeros_like(layer.input_zero)
        x = torch.randint(LEVELS + 1, (self._rows[-1], layer.in_features)).to(torch.uint8)
        inputs = (layer, x), (largest, torch.full_like(x, LEVELS))
        return all(near(kind(one)(few), one(few), one.output.grid) for one, few in inputs)

    def _is_faster(self, packed: Compute, layer: QuantizedLinear) -> bool:
        """Whether a layer of 8 bits takes less time than a plain one of the other dtype, rounding included."""
        x = torch.randn(self._rows[-1], layer.in_features)
        plain, narrow = nn.Linear(layer.in_features, layer.out_features, dtype=self._dtype), x.to(self._dtype)
        activation = PLAIN[layer.output.activation]
        return is_faster(lambda: packed(x), lambda: activation(plain(narrow)))
