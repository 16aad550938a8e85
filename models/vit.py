"""The Vision Transformer, for inference, over images of any mix of sizes in one pass.

Sources: Dosovitskiy et al. 2020 (arXiv 2010.11929); module names follow timm's `vision_transformer`. Packing images of
different sizes into one sequence: Dehghani et al. 2023 (arXiv 2307.06304), who trained that way; here it only serves.

Shapes: B images, N tokens of one image, T tokens of all images together, P prefix tokens ([CLS], distillation,
registers), D embedding dimension, H heads, d = D / H, K classes, F features that the head reads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Look, Watch
from models.packing import Packing, Run
from models.pooling import Pool, first_tokens, patch_mean, pool, pooled_width
from models.position import Grid, PositionEmbedding, Resampling

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),  # OpenAI CLIP
    "silu": F.silu,
}


@dataclass(frozen=True)
class ViTConfig:
    """All that makes one Vision Transformer another.

    Biases that a family does not have are zeros in the weights, and position rows of prefix tokens are added to the
    tokens when a checkpoint is read, so neither needs an option here.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_hidden_dim: int
    patch_size: tuple[int, int]  # height, width in pixels
    grid_size: Grid  # of the position table
    position: Resampling
    class_token: bool = True
    num_extra_tokens: int = 0  # after [CLS]: distillation token, registers
    act: Activation = "gelu"
    swiglu: bool = False  # fc1 holds [gate; value] and its activation is silu(gate) * value
    norm_eps: float = 1e-6
    norm_pre: bool = False  # LayerNorm before the blocks (CLIP)
    qk_norm: bool = False
    layer_scale: bool = False
    norm: bool = True  # LayerNorm over all tokens after the blocks
    pool: Pool = "cls"  # what the head reads
    pool_layers: int = 1  # of how many last blocks it reads [CLS]
    pool_norm: bool = True  # whether it reads tokens after the final norm
    fc_norm: bool = False  # LayerNorm over the pooled vector
    projection_dim: int = 0  # a linear layer after that: CLIP's projection, a representation layer; 0: none
    projection_tanh: bool = False
    num_classes: int = 0  # 0: no head
    head_dist: bool = False  # a second head on the distillation token; the answer is the mean of both (DeiT)

    @property
    def num_prefix_tokens(self) -> int:
        """P: tokens that stand before the patch tokens."""
        return int(self.class_token) + self.num_extra_tokens

    @property
    def pooled_dim(self) -> int:
        """The width of the pooled vector."""
        return self.embed_dim * pooled_width(self.pool, self.pool_layers)

    @property
    def native_dim(self) -> int:
        """F: the width of what the head reads."""
        return self.projection_dim or self.pooled_dim

    def grid(self, height: int, width: int) -> Grid:
        """The grid of patches of an image; pixels beyond the last whole patch are not seen."""
        return height // self.patch_size[0], width // self.patch_size[1]

    def num_tokens(self, height: int, width: int) -> int:
        """N: the tokens of an image, prefix tokens included."""
        h, w = self.grid(height, width)
        return self.num_prefix_tokens + h * w


class Readout(Flag):
    """What can be read off an image's final tokens."""

    CLS = auto()  # the [CLS] token after the final norm
    MEAN = auto()  # the mean of the patch tokens after the final norm
    NATIVE = auto()  # what the head reads
    LOGITS = auto()  # the head's answer
    PATCHES = auto()  # the patch tokens after the final norm
    ATTENTION = auto()  # of [CLS] over the patches, as each image's `Look` says


@dataclass(frozen=True)
class Features:
    """What was read off a list of images, in their order; what was not asked for is None."""

    cls: Tensor | None = None  # (B, D)
    mean: Tensor | None = None  # (B, D)
    native: Tensor | None = None  # (B, F)
    logits: Tensor | None = None  # (B, K)
    patches: list[Tensor] | None = None  # B of (h, w, D)
    attention: Mapping[int, Tensor] = field(default_factory=dict)  # (h, w), of those images that were looked at


class PatchEmbed(nn.Module):
    """The patch projection, a convolution with kernel = stride, as one matrix product: images -> (sum of h * w, D)."""

    def __init__(self, patch_size: tuple[int, int], embed_dim: int, in_chans: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Cut each (C, height, width) image into patches, row by row, and project all of them at once."""
        patches = torch.cat([self.cut(image) for image in images])
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)

    def cut(self, image: Tensor) -> Tensor:
        """(C, height, width) -> (h * w, C * ph * pw), in the order of the kernel's weights."""
        ph, pw = self.proj.weight.shape[2:]
        h, w = image.shape[1] // ph, image.shape[2] // pw
        whole = image[:, : h * ph, : w * pw].unflatten(2, (w, pw)).unflatten(1, (h, ph))  # (C, h, ph, w, pw)
        return whole.permute(1, 3, 0, 2, 4).reshape(h * w, -1)


class Attention(nn.Module):
    """Multi-head self-attention inside each image of the pack: (T, D) -> (T, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.num_heads = config.num_heads
        head_dim = dim // config.num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, runs: Sequence[Run]) -> Tensor:
        """Attend; images of equal length go through one batched call."""
        q, k, v = self.project(x)
        attended = [self._attend(run.of(q), run.of(k), run.of(v)) for run in runs]
        return self.proj(attended[0] if len(attended) == 1 else torch.cat(attended))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values: (T, D) -> (T, H, d) each."""
        q, k, v = self.qkv(x).unflatten(1, (3, self.num_heads, -1)).unbind(1)
        return self.q_norm(q), self.k_norm(k), v

    @staticmethod
    def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(images, N, H, d) each -> (images * N, D)."""
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (images, H, N, d)
        out = F.scaled_dot_product_attention(q, k, v)  # scale 1 / sqrt(d)
        return out.transpose(1, 2).flatten(2).flatten(0, 1)


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
        self.ls1 = LayerScale(dim) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, config.norm_eps)
        self.mlp = Mlp(config)
        self.ls2 = LayerScale(dim) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor, runs: Sequence[Run]) -> Tensor:
        """Two residual steps."""
        x = x + self.ls1(self.attn(self.norm1(x), runs))
        return x + self.ls2(self.mlp(self.norm2(x)))

    def queries_and_keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What its attention compares, of tokens that enter the block: (T, D) -> (T, H, d) each."""
        q, k, _ = self.attn.project(self.norm1(x))
        return q, k


class VisionTransformer(nn.Module):
    """One network for every family: images of any sizes -> `Features`.

    All tokens lie in one (T, D) tensor, so that every linear layer is one product without padding, and attention stays
    inside each image: an image gets the same answer alone or in any company.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.config = config
        self.patch_embed = PatchEmbed(config.patch_size, dim)
        self.prefix_tokens = nn.Parameter(torch.empty(config.num_prefix_tokens, dim))
        self.pos_embed = PositionEmbedding(config.grid_size, dim, config.position)
        self.norm_pre = nn.LayerNorm(dim, config.norm_eps) if config.norm_pre else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim, config.norm_eps) if config.norm else nn.Identity()
        self.fc_norm = nn.LayerNorm(config.pooled_dim, config.norm_eps) if config.fc_norm else nn.Identity()
        self.projection = (
            nn.Linear(config.pooled_dim, config.projection_dim) if config.projection_dim else nn.Identity()
        )
        self.head = nn.Linear(config.native_dim, config.num_classes) if config.num_classes else None
        self.head_dist = nn.Linear(dim, config.num_classes) if config.head_dist else None

    @property
    def readouts(self) -> Readout:
        """All that this network can be asked for."""
        has = Readout.MEAN | Readout.NATIVE | Readout.PATCHES
        if self.config.class_token:
            has |= Readout.CLS | Readout.ATTENTION
        if self.head is not None:
            has |= Readout.LOGITS
        return has

    def forward(
        self, images: Sequence[Tensor], wanted: Readout | None = None, looks: Mapping[int, Look] | None = None
    ) -> Features:
        """Run normalised (3, height, width) images through the network and read off what is wanted (default: all).

        Args:
            images: of any sizes.
            wanted: of every image.
            looks: the attention that is wanted, of those images (by their place in the list) that want it.

        Raises ValueError for a readout that the network does not have and for an image smaller than one patch.
        """
        looks = looks or {}
        wanted = (self.readouts if wanted is None else wanted) | (Readout.ATTENTION if looks else Readout(0))
        if wanted & ~self.readouts:
            raise ValueError(f"this network has no {wanted & ~self.readouts}")
        grids = [self.config.grid(image.shape[1], image.shape[2]) for image in images]
        if not all(h and w for h, w in grids):
            raise ValueError(f"an image is smaller than one patch of {self.config.patch_size}")
        packing = Packing.of([self.config.num_prefix_tokens + h * w for h, w in grids])
        x = self._tokens([images[i] for i in packing.order], [grids[i] for i in packing.order])
        earlier: list[Tensor] = []  # [CLS] tokens of the blocks before the last that the head reads
        watch = Watch(looks, packing)
        for i, block in enumerate(self.blocks):
            watch.see(i, x)
            x = block(x, packing.runs)
            if self.config.depth - self.config.pool_layers <= i < self.config.depth - 1:
                earlier.append(first_tokens(x, packing))
        features = self._read(x, earlier, packing, grids, wanted)
        return replace(features, attention=self._attention(watch, looks, grids)) if looks else features

    def _tokens(self, images: Sequence[Tensor], grids: Sequence[Grid]) -> Tensor:
        """Images in packed order -> the sequence that enters the first block (T, D)."""
        patches = self.patch_embed(images)
        like = (patches.device, patches.dtype)
        pixels = [(image.shape[1], image.shape[2]) for image in images]
        positions = [self.pos_embed(grid, size, *like) for grid, size in zip(grids, pixels, strict=True)]
        patches = patches + torch.cat(positions)
        pieces: list[Tensor] = []
        for of_image in patches.split([h * w for h, w in grids]):
            pieces += [self.prefix_tokens, of_image]
        return self.norm_pre(torch.cat(pieces))

    def _read(
        self, x: Tensor, earlier: Sequence[Tensor], packing: Packing, grids: Sequence[Grid], wanted: Readout
    ) -> Features:
        """The last block's output (T, D) -> what is wanted of it, in the order of the images."""
        cls = mean = native = logits = None
        if wanted & Readout.CLS:
            cls = packing.unpack(self.norm(first_tokens(x, packing)))
        if wanted & Readout.MEAN:
            mean = packing.unpack(patch_mean(self.norm(x), packing, self.config.num_prefix_tokens))
        if wanted & (Readout.NATIVE | Readout.LOGITS):
            native = packing.unpack(self._native(x, earlier, packing))
        if wanted & Readout.LOGITS and native is not None:
            logits = self._logits(native, x, packing)
        return Features(
            cls=cls,
            mean=mean,
            native=native if wanted & Readout.NATIVE else None,
            logits=logits,
            patches=self._patches(self.norm(x), packing, grids) if wanted & Readout.PATCHES else None,
        )

    def _native(self, x: Tensor, earlier: Sequence[Tensor], packing: Packing) -> Tensor:
        """What the head reads: (T, D) -> (B, F), in packed order."""
        config = self.config
        if config.pool_norm:
            x, earlier = self.norm(x), [self.norm(cls) for cls in earlier]
        pooled = self.fc_norm(pool(config.pool, x, earlier, packing, config.num_prefix_tokens))
        projected = self.projection(pooled)
        return projected.tanh() if config.projection_tanh else projected

    def _logits(self, native: Tensor, x: Tensor, packing: Packing) -> Tensor | None:
        """What the head or, with a distillation token, the mean of both heads answers: (B, F) -> (B, K)."""
        if self.head is None or self.head_dist is None:
            return self.head(native) if self.head is not None else None
        cls, dist = (packing.unpack(self.norm(first_tokens(x, packing, place))) for place in (0, 1))
        return (self.head(cls) + self.head_dist(dist)) / 2

    def _patches(self, x: Tensor, packing: Packing, grids: Sequence[Grid]) -> list[Tensor]:
        """(T, D) -> B of (h, w, D), in the order of the images."""
        patches: dict[int, Tensor] = {}
        places: Iterator[int] = iter(packing.order)
        for run in packing.runs:
            for tokens in run.of(x)[:, self.config.num_prefix_tokens :]:
                image = next(places)
                patches[image] = tokens.unflatten(0, grids[image])
        return [patches[image] for image in range(len(grids))]

    def _attention(self, watch: Watch, looks: Mapping[int, Look], grids: Sequence[Grid]) -> dict[int, Tensor]:
        """The weights of the patch tokens, on each looked-at image's own grid; prefix tokens keep theirs."""
        rows = watch.read([cast(Block, block).queries_and_keys for block in self.blocks])
        prefix = self.config.num_prefix_tokens
        return {image: row[prefix:].unflatten(0, grids[image]) for image, row in zip(looks, rows, strict=True)}
