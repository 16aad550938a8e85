"""A transformer block over the packed tokens of images of any mix of sizes.

In: the packed tokens (T, D), their `Packing` and their `Places`. Out: (T, D).
Knows nothing of images, position embeddings or heads.

Source: Dosovitskiy et al. 2020 (arXiv 2010.11929); module and parameter names follow timm's `vision_transformer`.
Shapes: N tokens of one image, T tokens of all images together, B images, D embedding dimension, H heads, d = D / H.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network.config import Activation, ViTConfig
from models.network.kernels.attention import AttentionFunction, biased_attention, grouped_attention
from models.network.kernels.operators import NativeNorm
from models.network.kernels.quantized import QuantizedLinear
from models.network.norm import make_norm
from models.network.packing import Packing
from models.network.positions.places import NOWHERE, Places
from models.network.positions.rotary import deinterleaved, rotate

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),  # OpenAI CLIP
    "silu": F.silu,
}


Pack = Callable[..., nn.Module | None]
"""A linear layer, and the name of the activation after it -> a layer that computes both faster, or None."""

Fuse = Callable[[nn.Module], nn.Module | None]
"""A norm -> one that computes the same in fewer passes, or None."""


class Attention(nn.Module):
    """Multi-head self-attention inside each image of the pack, with optional norms on queries, keys and the output.

    It holds the weights and the projections; `Block` puts them together. `attend` is the implementation to use.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.num_heads = config.num_heads
        self.interleaved = config.rotary is not None and config.rotary.interleaved
        self.key_bias_cancels = config.rotary is None and not config.qk_norm
        self.attend: AttentionFunction = grouped_attention
        self.qkv = nn.Linear(dim, 3 * dim)
        self.parts: nn.ModuleList | None = None
        """Layers for queries, and for keys and values, where they are not the rows of `qkv`; the last block's."""
        self.q_norm = make_norm(config, config.head_dim, config.qk_norm)
        self.k_norm = make_norm(config, config.head_dim, config.qk_norm)
        self.norm = make_norm(config, dim, config.attn_norm)
        self.proj = nn.Linear(dim, dim)

    def project(self, x: Tensor, places: Places = NOWHERE) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values: (T, D) -> (T, H, d) each."""
        q, k, v = self.qkv(x).unflatten(1, (3, self.num_heads, -1)).unbind(1)
        q, k = self.q_norm(q), self.k_norm(k)
        if places.rotation is not None:
            q, k = (rotate(each, places.rotation, self.interleaved) for each in (q, k))
        return q, k, v

    def attend_all(self, q: Tensor, k: Tensor, v: Tensor, packing: Packing, places: Places) -> Tensor:
        """Return the attention output of every token: (T, H, d) x 3 -> (T, D)."""
        return self._implementation(places)(q, k, v, packing, packing)

    def attend_leading(self, x: Tensor, packing: Packing, places: Places, count: int) -> Tensor:
        """Return the attention output of the first `count` tokens of each image: (T, D) -> (B * count, D).

        Those tokens are the only queries; all tokens of their image are keys and values. They are prefix tokens, which
        are not rotated.
        """
        leading = packing.leading_tokens(x, count)  # (B * count, D)
        projected, pairs = self._project_parts(leading, x)
        q = projected.unflatten(1, (self.num_heads, -1))  # (B * count, H, d)
        k, v = pairs.unflatten(1, (2, self.num_heads, -1)).unbind(1)  # (T, H, d)
        q, k = self.q_norm(q), self.k_norm(k)
        if places.rotation is not None:
            k = rotate(k, places.rotation, self.interleaved)
        return self._implementation(places)(q, k, v, packing, packing.leading(count))

    def _project_parts(self, leading: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries of some tokens, keys and values of others: (t, D), (T, D) -> (t, D), (T, 2 * D)."""
        if self.parts is not None:
            queries, pairs = self.parts
            return queries(leading), pairs(x)
        dim = x.shape[1]
        weight, bias = self.qkv.weight, self.qkv.bias  # (3 * D, D), (3 * D,): queries, keys, values
        return F.linear(leading, weight[:dim], bias[:dim]), F.linear(x, weight[dim:], bias[dim:])

    def split(self) -> None:
        """Let `attend_leading` use layers of its own; these share the weights of `qkv` until they are packed."""
        dim = self.qkv.in_features
        self.parts = nn.ModuleList(rows_of(self.qkv, chosen) for chosen in (slice(dim), slice(dim, None)))

    def fold(self) -> None:
        """Change weights so that the same function takes fewer operations, and smaller numbers.

        Interleaved channels of queries and keys are reordered as `rotate` expects them. A bias of the keys adds one
        number to all logits of a query, which the softmax cancels, unless it is normalised or rotated first. In trained
        networks that number is large: in the default model it is up to 240 where the rest is at most 36, and in half
        precision the rest then loses its digits.
        """
        if self.interleaved:
            self._deinterleave()
        if self.key_bias_cancels:
            bias, dim = self.qkv.bias.detach().clone(), self.qkv.in_features
            bias[dim : 2 * dim] = 0
            self.qkv.bias = nn.Parameter(bias, requires_grad=False)

    def _deinterleave(self) -> None:
        head_dim = self.qkv.out_features // 3 // self.num_heads
        for layer, rows in ((self.qkv, 2 * self.qkv.in_features), (self.q_norm, head_dim), (self.k_norm, head_dim)):
            for name, tensor in layer.named_parameters():
                reordered = torch.cat([deinterleaved(tensor[:rows], head_dim), tensor[rows:]])
                setattr(layer, name, nn.Parameter(reordered, requires_grad=False))
        self.interleaved = False

    def _implementation(self, places: Places) -> AttentionFunction:
        return self.attend if places.bias is None else biased_attention(places.bias)


class Mlp(nn.Module):
    """The feed-forward part of a block, plain or gated (SwiGLU, Shazeer 2020, arXiv 2002.05202): (T, D) -> (T, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.swiglu = config.swiglu
        self.activation: Activation = config.act
        self.act = ACTIVATIONS[config.act]
        self.fc1 = nn.Linear(config.embed_dim, config.mlp_hidden_dim * (2 if config.swiglu else 1))
        self.norm = make_norm(config, config.mlp_hidden_dim, config.mlp_norm)
        self.fc2 = nn.Linear(config.mlp_hidden_dim, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """fc2(norm(act(fc1(x)))), or fc2(norm(silu(gate) * value)) with fc1(x) = [gate; value]."""
        hidden = self.fc1(x)
        if self.swiglu:
            gate, value = hidden.chunk(2, dim=-1)
            return self.fc2(self.norm(F.silu(gate) * value))
        return self.fc2(self.norm(self.act(hidden)))

    def pack(self, pack: Pack) -> None:
        """Replace the layers by packed ones that compute the same, with the activation where that is possible."""
        _replace(self, "fc2", pack(self.fc2))
        if self.swiglu:
            _replace(self, "fc1", pack(self.fc1))
        elif (packed := pack(self.fc1, self.activation)) is not None:
            self.fc1, self.act = cast(nn.Linear, packed), nn.Identity()


class LayerScale(nn.Module):
    """A learned factor for each channel (Touvron et al. 2021, arXiv 2103.17239): (T, D) -> (T, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return x * gamma."""
        return x * self.gamma


class Block(nn.Module):
    """A transformer block: (T, D) -> (T, D).

    x + scale(f(norm(x))), for attention and feed-forward in turn; with `norm_post`, x + norm(f(x)).
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.norm_post = config.norm_post
        self.norm1 = make_norm(config, dim)
        self.attn = Attention(config)
        self.ls1: nn.Module = LayerScale(dim) if config.layer_scale else nn.Identity()
        self.norm2 = make_norm(config, dim)
        self.mlp = Mlp(config)
        self.ls2: nn.Module = LayerScale(dim) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor, packing: Packing, places: Places = NOWHERE) -> Tensor:
        """Run the block. Only attention depends on the packing; the code before and after it can be compiled."""
        q, k, v = self.pre_attention(x, places)
        return self.post_attention(x, self.attn.attend_all(q, k, v, packing, places))

    def pre_attention(self, x: Tensor, places: Places = NOWHERE) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values: (T, D) -> (T, H, d) each."""
        return self.attn.project(x if self.norm_post else self.norm1(x), places)

    def post_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Apply both residual connections: the block's input and the attention output, (T, D) each -> (T, D)."""
        attended = self.attn.proj(self.attn.norm(attended))
        if self.norm_post:
            x = _sum(x, self.norm1(attended))
            return _sum(x, self.norm2(self.mlp(x)))
        x, normed = _sum_and_norm(x, self.ls1(attended), self.norm2)
        return _sum(x, self.ls2(self.mlp(normed)))

    def forward_leading(self, x: Tensor, packing: Packing, places: Places, count: int) -> Tensor:
        """Return `forward` for the first `count` tokens of each image only: (T, D) -> (B * count, D), packed order.

        For the last block, when only those tokens are read. Earlier blocks must output every token, because the next
        block reads them as keys and values.
        """
        attended = self.attn.attend_leading(x if self.norm_post else self.norm1(x), packing, places, count)
        return self.post_attention(packing.leading_tokens(x, count), attended)

    def fold(self) -> None:
        """Change weights for inference; layer scales are multiplied into the layers before them."""
        for scale, layer in ((self.ls1, self.attn.proj), (self.ls2, self.mlp.fc2)):
            if isinstance(scale, LayerScale):
                layer.weight = nn.Parameter(scale.gamma[:, None] * layer.weight, requires_grad=False)
                layer.bias = nn.Parameter(scale.gamma * layer.bias, requires_grad=False)
        self.ls1, self.ls2 = nn.Identity(), nn.Identity()
        self.attn.fold()

    def pack(self, pack: Pack, *, last: bool) -> None:
        """Replace linear layers by packed ones; `attend_leading` of the last block has its own."""
        if last:
            self.attn.split()
            for name, part in cast(nn.ModuleList, self.attn.parts).named_children():
                _replace(cast(nn.Module, self.attn.parts), name, pack(part))
        _replace(self.attn, "qkv", pack(self.attn.qkv))
        _replace(self.attn, "proj", pack(self.attn.proj))
        self.mlp.pack(pack)

    def fuse_norms(self, fuse: Fuse) -> None:
        """Replace norms over the tokens by those that compute the same in fewer passes."""
        for owner, name in ((self, "norm1"), (self, "norm2"), (self.attn, "norm"), (self.mlp, "norm")):
            _replace(owner, name, fuse(getattr(owner, name)))


def rows_of(layer: nn.Linear | QuantizedLinear, chosen: slice) -> nn.Module:
    """Return a layer of some of the outputs, which shares the weights."""
    if isinstance(layer, QuantizedLinear):
        return layer.rows(chosen)
    return linear_of(layer.weight[chosen], layer.bias[chosen])


def linear_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a layer with these parameters: (F, D), (F,).

    Not by way of torch's `skip_init`, which imports sympy: the image leaves that out.
    """
    layer = nn.Linear(1, 1)
    layer.out_features, layer.in_features = weight.shape
    layer.weight, layer.bias = (nn.Parameter(each, requires_grad=False) for each in (weight, bias))
    return layer


def _sum(x: Tensor, branch: Tensor) -> Tensor:
    """Return x + branch, in the branch's memory, which is read no more, unless it is of another precision."""
    return branch.add_(x) if branch.dtype == x.dtype else x + branch


def _sum_and_norm(x: Tensor, branch: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return `_sum` and its norm."""
    if isinstance(norm, NativeNorm):
        return norm.of_sum(x, branch)
    x = _sum(x, branch)
    return x, norm(x)


def _replace(owner: nn.Module, name: str, layer: nn.Module | None) -> None:
    if layer is not None:
        setattr(owner, name, layer)


def compile_blocks(blocks: Iterable[Block]) -> None:
    """Compile `pre_attention` and `post_attention`, once for all blocks and for any number of tokens.

    Attention is not compiled: its runs differ from batch to batch, and it already is one fused kernel.
    """
    pre = torch.compile(Block.pre_attention, dynamic=True)
    post = torch.compile(Block.post_attention, dynamic=True)
    for block in blocks:
        block.pre_attention, block.post_attention = partial(pre, block), partial(post, block)  # type: ignore[method-assign]
