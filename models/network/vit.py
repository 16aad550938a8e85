"""The Vision Transformer, for inference on images of any mix of sizes in one forward pass.

In: normalised images (3, height, width) and the readouts to return. Out: `Features`.
Knows nothing of checkpoints, preprocessing, labels or requests.

Sources: Dosovitskiy et al. 2020 (arXiv 2010.11929); module and parameter names follow timm's `vision_transformer`.
Packing images of different sizes into one sequence: Dehghani et al. 2023 (arXiv 2307.06304), who train that way.

Shapes: B images, N tokens of one image, T tokens of all images together, P prefix tokens ([CLS], distillation token,
registers), D embedding dimension, h x w the grid of patches of an image, K classes, F features that the head reads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from itertools import groupby
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network.attention import AttentionRecorder, AttentionSpec
from models.network.attention_pool import AttentionPool
from models.network.block import Block, Fuse, Pack, compile_blocks, linear_of
from models.network.config import ViTConfig
from models.network.intermediate import TokenRecorder, TokenSpec
from models.network.kernels.attention import AttentionFunction
from models.network.kernels.graphs import Capture, Graphs, ladder
from models.network.kernels.script import Script, Stack
from models.network.norm import make_norm
from models.network.packing import Packing
from models.network.pooling import LEADING_TOKENS, patch_mean, pool, prefix_token
from models.network.positions.learned import Grid, PositionEmbedding
from models.network.positions.places import PackedPlaces, Places
from models.network.positions.relative import RelativeBias
from models.network.positions.rotary import RotaryEmbedding
from models.network.positions.sincos import SinCos, SinCosEmbedding


class Readout(Flag):
    """What the network can return for an image."""

    CLS = auto()  # the [CLS] token after the final norm
    MEAN = auto()  # the mean of the patch tokens after the final norm
    NATIVE = auto()  # the vector that the head reads: pooled and, where there is a projection, projected
    LOGITS = auto()  # the output of the head
    PATCHES = auto()  # the patch tokens after the final norm
    ATTENTION = auto()  # of [CLS] over the patches, by the image's `AttentionSpec`
    TOKENS = auto()  # the tokens after chosen blocks, by the image's `TokenSpec`


@dataclass(frozen=True)
class Features:
    """The readouts of a list of images, in their order; None for a readout that was not requested."""

    cls: Tensor | None = None  # (B, D)
    mean: Tensor | None = None  # (B, D)
    native: Tensor | None = None  # (B, F)
    logits: Tensor | None = None  # (B, K)
    patches: list[Tensor] | None = None  # B of (h, w, D)
    attention: Mapping[int, Tensor] = field(default_factory=dict)  # (h, w) by the image's index, where requested
    tokens: Mapping[int, Tensor] = field(default_factory=dict)  # (L, h, w, D) or (L, N, D), likewise


class PatchEmbed(nn.Module):
    """The patch projection: images -> (sum of h * w, D).

    A convolution with kernel = stride, computed as one matrix product for images of all sizes.
    """

    def __init__(self, patch_size: tuple[int, int], embed_dim: int, in_chans: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.linear: nn.Module | None = None
        """A layer that computes the product faster: (sum of h * w, C * ph * pw) -> (sum of h * w, D)."""
        self.reads: torch.dtype | None = None
        """The dtype that `linear` converts pixels to, where that is not the network's."""
        self.apart = False
        """Project image by image. oneDNN adds up in an order that depends on the number of rows (with AMX), and layers
        of 8 bits after it would make more of the last place: an image would get other numbers in company."""

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Cut each (C, height, width) image into patches, row by row, and project all at once, unless `apart`."""
        if self.apart:
            return torch.cat([self._project(self.patchify(image[None])) for image in images])
        batches = [torch.stack(list(group)) for _, group in groupby(images, key=lambda image: image.shape)]
        patches = [self.patchify(batch) for batch in batches]
        rows = patches[0] if len(patches) == 1 else torch.cat(patches)  # (sum of h * w, C * ph * pw)
        return self._project(rows)

    def as_linear(self) -> nn.Linear:
        """Return the projection as a linear layer, which shares the weights."""
        return linear_of(self.proj.weight.flatten(1), cast(Tensor, self.proj.bias))

    def _project(self, rows: Tensor) -> Tensor:
        if self.linear is not None:
            return cast(Tensor, self.linear(rows))
        return F.linear(rows, self.proj.weight.flatten(1), self.proj.bias)

    def patchify(self, images: Tensor) -> Tensor:
        """Cut images of one size into patches whose values are in the order of the kernel's weights.

        (n, C, height, width) -> (n * h * w, C * ph * pw), for patches of ph x pw pixels.
        """
        n, _, height, width = images.shape
        ph, pw = self.proj.weight.shape[2:]
        h, w = height // ph, width // pw
        tiles = images[:, :, : h * ph, : w * pw].unflatten(3, (w, pw)).unflatten(2, (h, ph))  # (n, C, h, ph, w, pw)
        return tiles.permute(0, 2, 4, 1, 3, 5).reshape(n * h * w, -1)


def position_embedding(config: ViTConfig) -> PositionEmbedding | SinCosEmbedding | None:
    """Return what is added to the patches for their places; None for a network without position embeddings."""
    if config.position is None:
        return None
    if isinstance(config.position, SinCos):
        return SinCosEmbedding(config.position, config.embed_dim)
    return PositionEmbedding(config.grid_size, config.embed_dim, config.position)


Recorded = Callable[[Tensor, Packing, Places], Tensor | None]
"""Packed tokens (T, D), their packing and their places -> (T, D), or None for what it does not take."""


def run_blocks(  # noqa: PLR0913, PLR0917 - the state of one forward pass
    blocks: Sequence[Block],
    x: Tensor,
    packing: Packing,
    places: PackedPlaces,
    recorders: tuple[AttentionRecorder, TokenRecorder],
    leading: int | None,
    pool_layers: int,
    recorded: Recorded | None = None,
) -> tuple[Tensor, list[Tensor], Packing]:
    """Run the blocks over the packed tokens (T, D).

    All blocks but the last run in one call where they are recorded for this packing; nothing is read between them then.

    Returns: the output of the last block, for the leading tokens only unless that is None; [CLS] of the blocks before
    it that the head reads, (B, D) each; the packing of the output.
    """
    inputs, outputs = recorders
    earlier: list[Tensor] = []
    replayed = recorded(x, packing, places.of_block(0)) if recorded else None
    x = x if replayed is None else replayed
    for i, block in enumerate(blocks[:-1] if replayed is None else ()):
        inputs.record(i, x)
        x = block(x, packing, places.of_block(i))
        outputs.record(i, x)
        if i >= len(blocks) - pool_layers:
            earlier.append(prefix_token(x, packing))
    last = len(blocks) - 1
    inputs.record(last, x)
    if leading is not None:
        x = blocks[-1].forward_leading(x, packing, places.of_block(last), leading)  # (B * leading, D)
        return x, earlier, packing.leading(leading)
    x = blocks[-1](x, packing, places.of_block(last))
    outputs.record(last, x)
    return x, earlier, packing


class VisionTransformer(nn.Module):
    """One network for every family of checkpoints: images of any sizes -> `Features`.

    The tokens of all images share one (T, D) tensor, so every linear layer is one matrix product without padding.
    Attention stays inside each image, so an image's answer does not depend on the other images of the batch.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.config = config
        self.patch_embed = PatchEmbed(config.patch_size, dim)
        self.embed_norm = make_norm(config, dim, config.embed_norm)
        self.prefix_tokens = nn.Parameter(torch.empty(config.num_prefix_tokens, dim))
        self.pos_embed = position_embedding(config)
        heads = (config.depth, config.num_heads)
        rotated = (*heads, config.head_dim, config.num_prefix_tokens)
        self.rotary = RotaryEmbedding(config.rotary, *rotated) if config.rotary else None
        self.relative = RelativeBias(config.relative, *heads, config.num_prefix_tokens) if config.relative else None
        self.norm_pre = make_norm(config, dim, config.norm_pre)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = make_norm(config, dim, config.norm)
        self.attn_pool = AttentionPool(config) if config.pool == "attention" else None
        self.fc_norm = make_norm(config, config.pooled_dim, config.fc_norm)
        projected = config.projection_dim
        self.projection = nn.Linear(config.pooled_dim, projected) if projected else nn.Identity()
        self.head = nn.Linear(config.native_dim, config.num_classes) if config.num_classes else None
        self.head_dist = nn.Linear(dim, config.num_classes) if config.head_dist else None
        self.recorded: Recorded | None = None
        """All blocks but the last, in one call; only where all `blocks_share_places`."""

    @property
    def readouts(self) -> Readout:
        """The readouts that this network has: CLS and ATTENTION need a [CLS] token, LOGITS a head."""
        readouts = Readout.MEAN | Readout.NATIVE | Readout.PATCHES | Readout.TOKENS
        if self.config.class_token:
            readouts |= Readout.CLS | Readout.ATTENTION
        if self.head is not None:
            readouts |= Readout.LOGITS
        return readouts

    def forward(
        self,
        images: Sequence[Tensor],
        readout: Readout | None = None,
        specs: Mapping[int, AttentionSpec] | None = None,
        tokens: Mapping[int, TokenSpec] | None = None,
    ) -> Features:
        """Run normalised images (3, height, width) through the network.

        Args:
            images: of any sizes.
            readout: the readouts to return for every image; None is all that the network has and that needs no spec.
            specs: the attention map to return, by the image's index in `images`; other images get none.
            tokens: the tokens of chosen blocks to return, likewise.

        Raises ValueError for a readout that the network does not have, and for an image smaller than one patch.
        """
        specs, tokens = specs or {}, tokens or {}
        readout = self.readouts if readout is None else readout
        readout |= (Readout.ATTENTION if specs else Readout(0)) | (Readout.TOKENS if tokens else Readout(0))
        if readout & ~self.readouts:
            raise ValueError(f"this network has no {readout & ~self.readouts}")
        grids = [self.config.grid(image.shape[1], image.shape[2]) for image in images]
        if not all(h and w for h, w in grids):
            raise ValueError(f"an image is smaller than one patch of {self.config.patch_size}")
        packing = self.packing_of(grids)
        x = self.embed([images[i] for i in packing.order], [grids[i] for i in packing.order])  # (T, D)
        places = PackedPlaces(packing, grids, self.rotary, self.relative, x)
        recorder, outputs = AttentionRecorder(specs, packing), TokenRecorder(tokens, packing)
        leading, blocks = self._leading_tokens(readout), [cast(Block, block) for block in self.blocks]
        recorded = None if specs or tokens else self.recorded
        state = x, packing, places, (recorder, outputs), leading
        x, earlier, kept = run_blocks(blocks, *state, self.config.pool_layers, recorded)
        return replace(
            self._read(x, earlier, kept, grids, readout),
            attention=self._attention(recorder, specs, grids, places),
            tokens=outputs.tokens(self.norm, grids, self.config.num_prefix_tokens),
        )

    def fold(self) -> None:
        """Change weights for inference, so that the same function takes fewer operations."""
        for block in self.blocks:
            cast(Block, block).fold()
        if self.attn_pool is not None:
            self.attn_pool.fold()

    def set_attention(self, attend: AttentionFunction) -> None:
        """Use this implementation of attention in all blocks."""
        for block in self.blocks:
            cast(Block, block).attn.attend = attend
        if self.attn_pool is not None:
            self.attn_pool.attend = attend

    def pack(self, pack: Pack) -> None:
        """Replace the linear layers by packed ones, after `fold` and after the last change of dtype."""
        self.patch_embed.linear = pack(self.patch_embed.as_linear())
        for number, block in enumerate(self.blocks):
            cast(Block, block).pack(pack, last=number == self.config.depth - 1)

    def fuse_norms(self, fuse: Fuse) -> None:
        """Replace the norms of the blocks by those that compute the same in fewer passes, likewise."""
        for block in self.blocks:
            cast(Block, block).fuse_norms(fuse)

    def compile_blocks(self) -> None:
        """Compile the blocks except attention; the first forward passes after this take seconds to minutes."""
        compile_blocks(cast(Block, block) for block in self.blocks)

    def _leading_tokens(self, readout: Readout) -> int | None:
        """Return how many leading tokens of each image the readouts need from the last block; None is all tokens."""
        if readout & (Readout.MEAN | Readout.PATCHES | Readout.TOKENS):
            return None
        if readout & (Readout.NATIVE | Readout.LOGITS):
            return LEADING_TOKENS.get(self.config.pool)
        return 1

    def packing_of(self, grids: Sequence[Grid]) -> Packing:
        """Return the packing of images with these grids; a relative bias is the same only for images of one grid."""
        lengths = [self.config.num_prefix_tokens + h * w for h, w in grids]
        return Packing.from_lengths(lengths, grids if self.relative is not None else None)

    def embed(self, images: Sequence[Tensor], grids: Sequence[Grid]) -> Tensor:
        """Return the input of the first block for images in packed order: (T, D)."""
        patches = self.embed_norm(self.patch_embed(images))  # (sum of h * w, D)
        if self.pos_embed is not None:
            target = (patches.device, patches.dtype)
            pixels = [(image.shape[1], image.shape[2]) for image in images]
            positions = [self.pos_embed(grid, size, *target) for grid, size in zip(grids, pixels, strict=True)]
            patches = patches + torch.cat(positions)
        pieces: list[Tensor] = []
        for image_patches in patches.split([h * w for h, w in grids]):
            pieces += [self.prefix_tokens, image_patches]  # (P, D), (h * w, D)
        return self.norm_pre(torch.cat(pieces))  # (T, D)

    def _read(
        self, x: Tensor, earlier: Sequence[Tensor], packing: Packing, grids: Sequence[Grid], readout: Readout
    ) -> Features:
        """Return the readouts of the last block's output (T, D), in the order of the images."""
        cls = mean = native = logits = None
        if readout & Readout.CLS:
            cls = packing.unpack(self.norm(prefix_token(x, packing)))
        if readout & Readout.MEAN:
            mean = packing.unpack(patch_mean(self.norm(x), packing, self.config.num_prefix_tokens))
        if readout & (Readout.NATIVE | Readout.LOGITS):
            native = packing.unpack(self._native(x, earlier, packing))
        if readout & Readout.LOGITS and native is not None:
            logits = self._logits(native, x, packing)
        return Features(
            cls=cls,
            mean=mean,
            native=native if readout & Readout.NATIVE else None,
            logits=logits,
            patches=self._patches(self.norm(x), packing, grids) if readout & Readout.PATCHES else None,
        )

    def _native(self, x: Tensor, earlier: Sequence[Tensor], packing: Packing) -> Tensor:
        """Return the vector that the head reads: (T, D) -> (B, F), in packed order."""
        config = self.config
        if config.pool_norm:
            x, earlier = self.norm(x), [self.norm(cls) for cls in earlier]
        if self.attn_pool is not None:
            pooled = self.attn_pool(x, packing)  # (B, D)
        else:
            pooled = pool(config.pool, x, earlier, packing, config.num_prefix_tokens)  # (B, n * D)
        projected = self.projection(self.fc_norm(pooled))
        return projected.tanh() if config.projection_tanh else projected

    def _logits(self, native: Tensor, x: Tensor, packing: Packing) -> Tensor | None:
        """Return the head's output, or the mean of both heads' with a distillation token (DeiT): (B, F) -> (B, K)."""
        if self.head is None or self.head_dist is None:
            return self.head(native) if self.head is not None else None
        cls, dist = (packing.unpack(self.norm(prefix_token(x, packing, index))) for index in (0, 1))  # (B, D) each
        return (self.head(cls) + self.head_dist(dist)) / 2

    def _patches(self, x: Tensor, packing: Packing, grids: Sequence[Grid]) -> list[Tensor]:
        """Return the patch tokens of each image, in the order of the images: (T, D) -> B of (h, w, D)."""
        patches: dict[int, Tensor] = {}
        order: Iterator[int] = iter(packing.order)
        for run in packing.runs:
            for tokens in run.view(x)[:, self.config.num_prefix_tokens :]:
                image = next(order)
                patches[image] = tokens.unflatten(0, grids[image])
        return [patches[image] for image in range(len(grids))]

    def _attention(
        self,
        recorder: AttentionRecorder,
        specs: Mapping[int, AttentionSpec],
        grids: Sequence[Grid],
        places: PackedPlaces,
    ) -> dict[int, Tensor]:
        """Return the attention map (h, w) of each image in `specs`, or (H, h, w) of all heads.

        The weights of the prefix tokens are cut off and not redistributed, so a map does not add up to 1.
        """
        projections = [cast(Block, block).pre_attention for block in self.blocks]
        rows = recorder.weights(projections, places.of_block)  # (N,) or (H, N) each
        prefix = self.config.num_prefix_tokens
        return {image: row[..., prefix:].unflatten(-1, grids[image]) for image, row in zip(specs, rows, strict=True)}


def graphs_of(network: VisionTransformer, image: Tensor, most: int, capture: Capture) -> Graphs:
    """Return graphs of all blocks but the last, for up to so many tokens; `network.recorded` may be set to them.

    Args:
        network: its `config.blocks_share_places`, and its attention reads bounds from memory.
        image: a typical one, (3, height, width), normalised.
        most: tokens of the largest batch.
        capture: how a graph is recorded.
    """
    like, _, places = _example(network, image)
    return Graphs(_stack(network), ladder(len(like), most), capture, like, places)


def script_of(network: VisionTransformer, image: Tensor) -> Script:
    """Return all blocks but the last as one call of TorchScript; `network.recorded` may be set to it.

    Args:
        network: its `config.blocks_share_places`, and its attention reads the table of a packing.
        image: any, (3, height, width), normalised.

    Raises whatever torch raises where TorchScript cannot record them.
    """
    return Script(_stack(network), *_example(network, image))


def _stack(network: VisionTransformer) -> Stack:
    return Stack(list(network.blocks[:-1]))


def _example(network: VisionTransformer, image: Tensor) -> tuple[Tensor, Packing, Places]:
    """Return the input of the blocks for an image."""
    grid = network.config.grid(image.shape[1], image.shape[2])
    tokens, packing = network.embed([image], [grid]), network.packing_of([grid])
    return tokens, packing, PackedPlaces(packing, [grid], network.rotary, None, tokens).of_block(0)
