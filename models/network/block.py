"""A transformer block over the packed tokens of images of any mix of sizes.

Source: Dosovitskiy et al. 2020 (arXiv 2010.11929); module names follow timm's `vision_transformer`.
Shapes: N tokens of one image, T tokens of all images together, B images, D embedding dimension, H heads, d = D / H.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network.config import Activation, ViTConfig
from models.network.kernels import Attend, grouped
from models.network.packing import Packing

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),  # OpenAI CLIP
    "silu": F.silu,
}


class Attention(nn.Module):
    """Multi-head self-attention inside each image of the pack."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.num_heads = config.num_heads
        self.attend: Attend = grouped
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def first(self, x: Tensor, packing: Packing, count: int) -> Tensor:
        """What the first tokens of each image alone gather, which attend to all: (T, D) -> (B * count, D)."""
        dim = x.shape[1]
        weight, bias = self.qkv.weight, self.qkv.bias
        queries = F.linear(packing.first(x, count), weight[:dim], bias[:dim]).unflatten(1, (self.num_heads, -1))
        k, v = F.linear(x, weight[dim:], bias[dim:]).unflatten(1, (2, self.num_heads, -1)).unbind(1)
        q, k = self.q_norm(queries), self.k_norm(k)
        return self.attend(q, k, v, packing, packing.firsts(count))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values: (T, D) -> (T, H, d) each."""
        q, k, v = self.qkv(x).unflatten(1, (3, self.num_heads, -1)).unbind(1)
        return self.q_norm(q), self.k_norm(k), v


class Mlp(nn.Module):
    """The feed-forward half of a block, plain or gated (SwiGLU, Shazeer 2020, arXiv 2002.05202): (T, D) -> (T, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.swiglu = config.swiglu
        self.act = ACTIVATIONS[config.act]
        self.fc1 = nn.Linear(config.embed_dim, config.mlp_hidden_dim * (2 if config.swiglu else 1))
        self.fc2 = nn.Linear(config.mlp_hidden_dim, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """fc2(act(fc1(x))), the activation gated where the config says so."""
        hidden = self.fc1(x)
        if self.swiglu:
            gate, value = hidden.chunk(2, dim=-1)
            return self.fc2(F.silu(gate) * value)
        return self.fc2(self.act(hidden))


class LayerScale(nn.Module):
    """A learned factor for each channel (Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block: (T, D) -> (T, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.norm1 = nn.LayerNorm(dim, config.norm_eps)
        self.attn = Attention(config)
        self.ls1: nn.Module = LayerScale(dim) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, config.norm_eps)
        self.mlp = Mlp(config)
        self.ls2: nn.Module = LayerScale(dim) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """Attention between two dense halves, which see all tokens alike and may be compiled."""
        q, k, v = self.before(x)
        return self.after(x, self.attn.attend(q, k, v, packing, packing))

    def before(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What its attention compares and gathers: (T, D) -> queries, keys, values (T, H, d) each."""
        return self.attn.project(self.norm1(x))

    def after(self, x: Tensor, gathered: Tensor) -> Tensor:
        """Two residual steps: (T, D), and what attention gathered (T, D) -> (T, D)."""
        x = x + self.ls1(self.attn.proj(gathered))
        return x + self.ls2(self.mlp(self.norm2(x)))

    def first(self, x: Tensor, packing: Packing, count: int) -> Tensor:
        """The same as `forward`, for the first tokens of each image alone: (T, D) -> (B * count, D), in packed order.

        For the last block where nothing else is read of it; the others have to answer the patches to the next one.
        """
        return self.after(packing.first(x, count), self.attn.first(self.norm1(x), packing, count))

    def fold(self) -> None:
        """Multiply the layer scales into the layers before them: the same answers without a pass over the tokens."""
        for scale, layer in ((self.ls1, self.attn.proj), (self.ls2, self.mlp.fc2)):
            if isinstance(scale, LayerScale):
                layer.weight = nn.Parameter(scale.gamma[:, None] * layer.weight, requires_grad=False)
                layer.bias = nn.Parameter(scale.gamma * layer.bias, requires_grad=False)
        self.ls1, self.ls2 = nn.Identity(), nn.Identity()


def compile_dense(blocks: Iterable[Block]) -> None:
    """Compile the dense halves of these blocks, once for all of them and for any number of tokens.

    Attention stays as it is: its runs differ from batch to batch, and its kernel is one already.
    """
    before, after = torch.compile(Block.before, dynamic=True), torch.compile(Block.after, dynamic=True)
    for block in blocks:
        block.before, block.after = partial(before, block), partial(after, block)  # type: ignore[method-assign]
