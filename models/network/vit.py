"""The Vision Transformer, for inference, over images of any mix of sizes in one pass.

Sources: Dosovitskiy et al. 2020 (arXiv 2010.11929); module names follow timm's `vision_transformer`. Packing images of
different sizes into one sequence: Dehghani et al. 2023 (arXiv 2307.06304), who trained that way; here it only serves.

Shapes: B images, N tokens of one image, T tokens of all images together, P prefix tokens ([CLS], distillation,
registers), D embedding dimension, K classes, F features that the head reads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from itertools import groupby
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network.attention import AttentionRecorder, AttentionSpec
from models.network.block import Block, compile_dense
from models.network.config import ViTConfig
from models.network.kernels import Attend
from models.network.packing import Packing
from models.network.pooling import READ_OFF_THE_FIRST, first_tokens, patch_mean, pool
from models.network.position import Grid, PositionEmbedding


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
        alike = [torch.stack(list(same)) for _, same in groupby(images, key=lambda image: image.shape)]
        patches = [self.cut(batch) for batch in alike]
        whole = patches[0] if len(patches) == 1 else torch.cat(patches)
        return F.linear(whole, self.proj.weight.flatten(1), self.proj.bias)

    def cut(self, images: Tensor) -> Tensor:
        """(n, C, height, width) -> (n * h * w, C * ph * pw), in the order of the kernel's weights."""
        n, _, height, width = images.shape
        ph, pw = self.proj.weight.shape[2:]
        h, w = height // ph, width // pw
        whole = images[:, :, : h * ph, : w * pw].unflatten(3, (w, pw)).unflatten(2, (h, ph))  # (n, C, h, ph, w, pw)
        return whole.permute(0, 2, 4, 1, 3, 5).reshape(n * h * w, -1)


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
        self, images: Sequence[Tensor], wanted: Readout | None = None, specs: Mapping[int, AttentionSpec] | None = None
    ) -> Features:
        """Run normalised (3, height, width) images through the network and read off what is wanted (default: all).

        Args:
            images: of any sizes.
            wanted: of every image.
            specs: the attention that is wanted, of those images (by their place in the list) that want it.

        Raises ValueError for a readout that the network does not have and for an image smaller than one patch.
        """
        specs = specs or {}
        wanted = (self.readouts if wanted is None else wanted) | (Readout.ATTENTION if specs else Readout(0))
        if wanted & ~self.readouts:
            raise ValueError(f"this network has no {wanted & ~self.readouts}")
        grids = [self.config.grid(image.shape[1], image.shape[2]) for image in images]
        if not all(h and w for h, w in grids):
            raise ValueError(f"an image is smaller than one patch of {self.config.patch_size}")
        packing = Packing.of([self.config.num_prefix_tokens + h * w for h, w in grids])
        x = self._tokens([images[i] for i in packing.order], [grids[i] for i in packing.order])
        earlier: list[Tensor] = []  # [CLS] tokens of the blocks before the last that the head reads
        watch = AttentionRecorder(specs, packing)
        blocks = [cast(Block, block) for block in self.blocks]
        for i, block in enumerate(blocks[:-1]):
            watch.see(i, x)
            x = block(x, packing)
            if self.config.depth - self.config.pool_layers <= i < self.config.depth - 1:
                earlier.append(first_tokens(x, packing))
        watch.see(self.config.depth - 1, x)
        if (count := self._first_tokens_read(wanted)) is None:
            x = blocks[-1](x, packing)
        else:
            x, packing = blocks[-1].first(x, packing, count), packing.firsts(count)
        features = self._read(x, earlier, packing, grids, wanted)
        return replace(features, attention=self._attention(watch, specs, grids)) if specs else features

    def fold(self) -> None:
        """Fold constants into the weights for inference; the answers stay the same."""
        for block in self.blocks:
            cast(Block, block).fold()

    def attend_by(self, attend: Attend) -> None:
        """Compute attention this way in all blocks."""
        for block in self.blocks:
            cast(Block, block).attn.attend = attend

    def compile_blocks(self) -> None:
        """Compile what of the blocks can be; the first passes after this take seconds to minutes."""
        compile_dense(cast(Block, block) for block in self.blocks)

    def _first_tokens_read(self, wanted: Readout) -> int | None:
        """How many tokens of each image are all that is read of the last block; None if patches are."""
        if wanted & (Readout.MEAN | Readout.PATCHES):
            return None
        if wanted & (Readout.NATIVE | Readout.LOGITS):
            return READ_OFF_THE_FIRST.get(self.config.pool)
        return 1

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

    def _attention(
        self, watch: AttentionRecorder, specs: Mapping[int, AttentionSpec], grids: Sequence[Grid]
    ) -> dict[int, Tensor]:
        """The weights of the patch tokens, on each looked-at image's own grid; prefix tokens keep theirs."""
        rows = watch.read([cast(Block, block).before for block in self.blocks])
        prefix = self.config.num_prefix_tokens
        return {image: row[prefix:].unflatten(0, grids[image]) for image, row in zip(specs, rows, strict=True)}
