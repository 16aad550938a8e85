"""A network whose blocks compute linear layers in 8 bits.

In: a network, and the names of those layers. Out: the same network with other layers.
Knows nothing of files, or of how scales are found.

Outside of the linear layers and of attention everything is float32: it is a small part of the work, and the residual
stream keeps its digits.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from models.network.block import Attention, Block, Mlp
from models.network.kernels.attention import AttentionFunction
from models.network.kernels.quantized import PLAIN, NarrowLinear, Output, QuantizedLinear, QuantizedNorm
from models.network.kernels.tiles import TiledLinear
from models.network.packing import Packing
from models.network.vit import VisionTransformer

Pack = Callable[[QuantizedLinear], nn.Module | None]
"""A layer of 8 bits -> one that computes the same faster, or None."""

PackFloat = Callable[..., nn.Module | None]
"""A linear layer in half precision -> one that computes the same faster, or None."""

INNER = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
"""The linear layers of a block."""


def linear_layers(depth: int) -> list[str]:
    """Return the names of the layers that can be quantised: those of the blocks, in order."""
    return [f"blocks.{block}.{layer}" for block in range(depth) for layer in INNER]


def replace_layers(network: VisionTransformer, names: Iterable[str]) -> None:
    """Put empty layers of 8 bits in the place of linear layers, to load weights into."""
    for name in names:
        layer = cast(nn.Linear, network.get_submodule(name))
        network.set_submodule(name, QuantizedLinear(layer.in_features, layer.out_features))


def connect(network: VisionTransformer) -> None:
    """Let layers of 8 bits compute the activations after them.

    They and norms answer in 8 bits where only a layer of 8 bits reads them. The last block gets its `parts`.

    Call it once, after the weights are loaded.
    """
    for block in _blocks(network):
        mlp = block.mlp
        if isinstance(mlp.fc1, QuantizedLinear) and not mlp.swiglu and mlp.activation in PLAIN:
            direct = isinstance(mlp.norm, nn.Identity) and isinstance(mlp.fc2, QuantizedLinear)
            grid = cast(QuantizedLinear, mlp.fc2).grid if direct else None
            mlp.fc1.output = Output(mlp.activation, grid)
            mlp.act = nn.Identity()
        _round_after_norms(block)
    _blocks(network)[-1].attn.split()


def _round_after_norms(block: Block) -> None:
    """Let the norms before layers of 8 bits answer in 8 bits; without `norm_post` no other layer reads them."""
    attention, mlp = block.attn, block.mlp
    readers: list[tuple[nn.Module, str, nn.Module]] = [(attention, "norm", attention.proj), (mlp, "norm", mlp.fc2)]
    if not block.norm_post:
        readers += [(block, "norm1", attention.qkv), (block, "norm2", mlp.fc1)]
    for owner, name, reader in readers:
        norm = owner.get_submodule(name)
        if isinstance(norm, nn.LayerNorm) and isinstance(reader, QuantizedLinear):
            owner.set_submodule(name, QuantizedNorm(norm, reader.grid))


def compute_inside_in(network: VisionTransformer, dtype: torch.dtype, pack: PackFloat) -> None:
    """Compute attention, the patch projection, and the layers that are not of 8 bits, in half precision.

    Args:
        network: after `connect` and after the choice of its attention.
        dtype: bfloat16, where the processor computes it natively.
        pack: for the layers that are not of 8 bits.
    """
    patches = _narrow(network.patch_embed.as_linear(), dtype, pack)
    network.patch_embed.linear = nn.Sequential(patches, Widen())
    network.patch_embed.reads = dtype
    network.patch_embed.apart = not isinstance(patches.layer, TiledLinear)
    for block in _blocks(network):
        attention = block.attn
        attention.attend = NarrowAttention(attention.attend, dtype, isinstance(attention.norm, nn.Identity))
        for layer in (attention.qkv, *(attention.parts or ())):
            if isinstance(layer, QuantizedLinear) and _goes_straight_on(network, attention):
                layer.output = replace(layer.output, dtype=dtype)
        _narrow_feed_forward(block.mlp, dtype, pack)
        for owner, name in [(attention, "qkv"), (attention, "proj"), *((attention.parts, str(i)) for i in range(2))]:
            layer = getattr(owner, name, None)
            if owner is not None and isinstance(layer, nn.Linear):
                narrow = _narrow(layer, dtype, pack)
                stays = name == "proj" or _goes_straight_on(network, attention)
                owner.set_submodule(name, narrow if stays else nn.Sequential(narrow, Widen()))


def _narrow_feed_forward(mlp: Mlp, dtype: torch.dtype, pack: PackFloat) -> None:
    """Use half precision between the two layers, unless a norm reads it, and in those that are not of 8 bits."""
    first, second = cast(nn.Module, mlp.fc1), cast(nn.Module, mlp.fc2)
    if isinstance(mlp.norm, nn.Identity):
        if isinstance(first, QuantizedLinear) and first.output.grid is None:
            first.output = replace(first.output, dtype=dtype)
        elif isinstance(first, nn.Linear) and not mlp.swiglu and (fused := pack(first.to(dtype), mlp.activation)):
            mlp.set_submodule("fc1", NarrowLinear(fused, dtype))
            mlp.act = nn.Identity()
        elif isinstance(first, nn.Linear):
            mlp.set_submodule("fc1", _narrow(first, dtype, pack))
    if isinstance(second, nn.Linear):
        mlp.set_submodule("fc2", _narrow(second, dtype, pack))


def _narrow(layer: nn.Linear, dtype: torch.dtype, pack: PackFloat) -> NarrowLinear:
    narrow = layer.to(dtype)
    return NarrowLinear(pack(narrow) or narrow, dtype)


def pack_layers(network: VisionTransformer, pack: Pack) -> None:
    """Replace the layers of 8 bits by those that compute the same faster, after `connect` and `compute_inside_in`."""
    names = [name for name, layer in network.named_modules() if isinstance(layer, QuantizedLinear)]
    for name in names:
        if (packed := pack(cast(QuantizedLinear, network.get_submodule(name)))) is not None:
            network.set_submodule(name, packed)


class Widen(nn.Module):
    """Values of any precision -> float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the same values."""
        return x.float()


@dataclass(frozen=True)
class NarrowAttention:
    """Attention in half precision.

    attend: how it is computed.
    dtype: the precision.
    stays: the output is read by a linear layer alone; otherwise it is returned in float32.
    """

    attend: AttentionFunction
    dtype: torch.dtype
    stays: bool

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, packing: Packing, query_packing: Packing) -> Tensor:
        """Attend inside each image: (t, H, d), (T, H, d) x 2 -> (t, D)."""
        out = self.attend(q.to(self.dtype), k.to(self.dtype), v.to(self.dtype), packing, query_packing)
        return out if self.stays else out.float()


def _goes_straight_on(network: VisionTransformer, attention: Attention) -> bool:
    """Whether attention reads queries, keys and values as they are projected."""
    return network.rotary is None and network.relative is None and isinstance(attention.q_norm, nn.Identity)


def _blocks(network: VisionTransformer) -> list[Block]:
    return [cast(Block, block) for block in network.blocks]
