"""Derive the number of attention heads and the grid of the position embeddings, which tensor shapes show only in part.

Shapes: P prefix tokens, D embedding dimension, gh x gw the native grid.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.source import Reading
from models.layouts.tensors import Tensors
from models.network.positions.learned import Grid
from models.network.positions.relative import OffsetResampling, Relative

PUBLISHED_HEADS = {
    (1280, 32): 16,  # ViT-H
    (1408, 40): 16,  # g
    (1664, 48): 16,  # G
    (1792, 56): 16,
    (1152, 27): 16,  # So400m
    (1536, 40): 16,  # SigLIP giantopt; DINOv2's giant of the same size has SwiGLU, and 24
    (768, 8): 8,  # timm's first vit_small
}
"""(dimension, depth) -> heads, for published networks whose heads are not 64 wide."""


def count_heads(reading: Reading, choice: int | None) -> tuple[int, str]:
    """Return the number of attention heads, which the shapes of fused weights do not show, and the reason.

    Args:
        reading: the checkpoint.
        choice: the number that the user set, or None.
    """
    dim = reading.tensors["patch_embed.proj.weight"].shape[0]
    depth = len([key for key in reading.tensors if key.endswith(".attn.proj.weight")])
    q_norm = reading.tensors.get("blocks.0.attn.q_norm.weight")
    table = reading.tensors.get("blocks.0.relative.table", reading.tensors.get("relative.table"))
    if choice is not None:
        heads, reason = choice, "set by num_heads"
    elif reading.num_heads is not None:
        heads, reason = reading.num_heads, reading.reasons.get("num_heads", "")
    elif q_norm is not None:
        heads, reason = dim // q_norm.shape[0], "from the width of the norm on the queries"
    elif table is not None:
        heads, reason = table.shape[1], "from the width of the tables of relative positions"
    else:
        heads, reason = _published_heads(reading, dim, depth), "assumed, as in published networks of this size"
    if heads < 1 or dim % heads:
        raise CheckpointUnsupported(f"{heads} heads do not divide {dim} dimensions; set num_heads")
    return heads, reason


def _published_heads(reading: Reading, dim: int, depth: int) -> int:
    read = reading.tensors
    if (dim, depth) == (1536, 40) and read["blocks.0.mlp.fc1.weight"].shape[0] == 2 * read[
        "blocks.0.mlp.fc2.weight"
    ].shape[1]:
        return 24
    if (dim, depth) in PUBLISHED_HEADS:
        return PUBLISHED_HEADS[dim, depth]
    if (dim, depth) == (768, 12) and "cls_token" not in read and "norm.weight" in read:
        raise CheckpointUnsupported(
            "networks of this shape have 12 or 16 heads, and the tensors do not show which; set num_heads"
        )
    if dim % 64:
        raise CheckpointUnsupported(
            f"the number of attention heads is unknown: no config says it, and {dim} dimensions do not show it; "
            "set num_heads"
        )
    return dim // 64


def split_positions(
    tensors: Tensors, prefix: Tensor, image_size: tuple[int, int] | None, class_token: bool
) -> tuple[Tensor, Tensor]:
    """Add the position embeddings of prefix tokens to those tokens; return the tokens (P, D) and the rest (gh, gw, D).

    The number of rows shows which prefix tokens have position embeddings: all, only [CLS] (DINOv2 with registers), or
    none (timm's `no_embed_class`). A table that is already a grid is of patches alone (NaFlex).
    """
    patch = tensors.shape("patch_embed.proj.weight")[2:]
    dim = prefix.shape[1]
    if tensors.shape("pos_embed")[-1] != dim:
        raise CheckpointBroken(
            f"tensor 'pos_embed' has shape {tensors.shape('pos_embed')}; its last dimension must be {dim}"
        )
    if len(tensors.shape("pos_embed")) == 4:  # (1, gh, gw, D)
        return prefix, tensors.take("pos_embed")[0]
    rows = tensors.take("pos_embed").reshape(-1, dim)
    native = (image_size[0] // patch[0], image_size[1] // patch[1]) if image_size else None
    leading, grid = _grid(rows.shape[0], prefix.shape[0], class_token, native)
    folded = prefix.clone()
    folded[:leading] += rows[:leading]
    return folded, rows[leading:].unflatten(0, grid)


def _grid(rows: int, count: int, class_token: bool, native: Grid | None) -> tuple[int, Grid]:
    """Return how many rows belong to prefix tokens, and the grid of the other rows."""
    candidates = list(dict.fromkeys((count, 1 if class_token else 0, 0)))
    for leading in candidates:
        if native and math.prod(native) == rows - leading:
            return leading, native
    square = [leading for leading in candidates if rows > leading and math.isqrt(rows - leading) ** 2 == rows - leading]
    if len(square) == 1:
        side = math.isqrt(rows - square[0])
        return square[0], (side, side)
    configured = f"the {native[0]} x {native[1]} patches of the config nor " if native else ""
    if square:
        raise CheckpointUnsupported(
            f"tensor 'pos_embed' has {rows} rows, which fit several grids; add a config.json with input_size"
        )
    raise CheckpointBroken(
        f"tensor 'pos_embed' has {rows} rows: neither {configured}a square grid, with or without {count} prefix tokens"
    )


def relative_rule(tensors: Mapping[str, Tensor], native: Grid | None, resampling: OffsetResampling) -> Relative | None:
    """Return how the network computes its relative biases, or None: it has none.

    Args:
        tensors: under the network's names.
        native: the grid by the config or by the position embeddings; None: unknown, so it is square.
        resampling: of tables.
    """
    found = next((name for name in ("blocks.0.relative", "relative") if f"{name}.table" in tensors), None)
    if found is not None:
        rows, shared = len(tensors[f"{found}.table"]), found == "relative"
        class_token = "cls_token" in tensors
        window = _window(rows - 3 * class_token, native, f"{found}.table")
        return Relative(window, class_token=class_token, shared=shared, resampling=resampling)
    for name in ("blocks.0.relative", "relative"):
        if f"{name}.fc1.weight" in tensors:
            return Relative(hidden_dim=len(tensors[f"{name}.fc1.weight"]), shared=name == "relative")
    return None


def _window(offsets: int, native: Grid | None, name: str) -> Grid:
    """Return the grid that has this many offsets between patches."""
    side = (math.isqrt(max(offsets, 0)) + 1) // 2
    height, width = native or (side, side)
    if (2 * height - 1) * (2 * width - 1) != offsets:
        grid = f"the {height} x {width} patches of the network" if native else "a square grid"
        raise CheckpointBroken(f"tensor {name!r} has numbers for {offsets} offsets of patches, which do not fit {grid}")
    return height, width


def sincos_table(grid: Grid, dim: int) -> Tensor:
    """Return big_vision's fixed position embeddings, which its files do not contain: (gh * gw, D).

    Source: google-research/big_vision, `models/vit.py`, `posemb_sincos_2d`.
    """
    omega = 10_000.0 ** -(torch.arange(dim // 4) / (dim // 4 - 1))
    y, x = (axis.flatten()[:, None] * omega for axis in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)
