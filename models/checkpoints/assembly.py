"""From a layout's `Reading` to the network's config and weights: the code that all layouts share.

Position embeddings of prefix tokens are added to those tokens, biases that a family lacks become zeros, and the config
is derived from tensor shapes wherever possible. Every tensor is used exactly once; a missing or an unexpected one is an
error that names it.
Shapes: P prefix tokens, D embedding dimension, K classes, F features that the head reads.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from models.checkpoints.classes import name_classes
from models.checkpoints.defaults import default_preprocess
from models.checkpoints.heads import attach_head, clean_head
from models.checkpoints.weights import take_weights
from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.geometry import count_heads, relative_rule, split_positions
from models.layouts.profiles import PROFILES, Profile, profile_named
from models.layouts.source import Choices, Converted, Reading, Source
from models.layouts.tensors import Tensors
from models.network.config import ViTConfig
from models.network.pooling import Pool
from models.network.positions.learned import Grid
from models.network.positions.relative import Relative
from models.network.positions.rotary import Rotary

PREFIX = ("cls_token", "dist_token", "reg_token")
BLOCK = re.compile(r"blocks\.(\d+)\.")


def assemble(reading: Reading, source: Source, choices: Choices) -> Converted:
    """Return the network's config and weights, with preprocessing, labels and the reasons for each choice.

    Raises CheckpointUnsupported for an architecture that is not supported, CheckpointBroken for inconsistent tensors.
    """
    if choices.profile is None and reading.contradiction:
        raise CheckpointUnsupported(reading.contradiction)
    reading = _with_profile(reading, choices)
    reading = attach_head(reading, choices.head) if choices.head else reading
    reading = clean_head(reading)
    tensors = Tensors(reading.tensors)
    _check_patch(tensors)
    prefix = _prefix_tokens(tensors)
    heads, heads_reason = count_heads(reading, choices.num_heads)
    prefix, table, grid, relative = _positions(reading, tensors, prefix)
    config = replace(_config(reading, tensors, prefix, grid, heads), relative=relative)
    config = _with_head(config, reading, tensors)
    _check_expected(reading.expected, config)
    _check_pool(config)
    weights = take_weights(tensors, config) | {"prefix_tokens": prefix} | table
    tensors.finish()
    preprocess, preprocess_reason = default_preprocess(reading, config, source.path.name)
    labels, labels_reason = name_classes(reading, config, choices.labels)
    reasons = dict(reading.reasons) | {
        "assumed": "" if choices.profile else reading.reasons.get("assumed", ""),
        "container": _container(source),
        "num_heads": heads_reason,
        "preprocess": reading.reasons.get("preprocess") or preprocess_reason,
        "labels": labels_reason,
    }
    return Converted(
        layout=reading.layout,
        profile=reading.profile,
        config=config,
        weights=weights,
        preprocess=preprocess,
        labels=labels,
        reasons={key: reason for key, reason in reasons.items() if reason},
    )


def _container(source: Source) -> str:
    """Return where in the file the weights are, and which other networks of the file are left out."""
    if not source.wrappers:
        return ""
    left_out = f"; other networks in the file are left out: {', '.join(source.left_out)}" if source.left_out else ""
    return f"the weights are under {' / '.join(source.wrappers)}{left_out}"


def _with_profile(reading: Reading, choices: Choices) -> Reading:
    """Return the reading with the chosen profile, whose activation and epsilon then override the checkpoint's."""
    if choices.profile is None or choices.profile == reading.profile:
        return reading
    chosen = profile_named(choices.profile)
    reasons = dict(reading.reasons) | {"profile": f"set by profile; without it: {reading.profile!r}"}
    return replace(
        reading,
        profile=choices.profile,
        act=chosen.act or reading.act,
        norm_eps=chosen.norm_eps or reading.norm_eps,
        rotary=_rotary(reading.rotary, chosen),
        reasons=reasons,
    )


def _rotary(rotary: Rotary | None, profile: Profile) -> Rotary | None:
    """Return the rotary positions with the rounding, which only those of DINOv3 have, and the scaling of a profile."""
    if rotary is None:
        return None
    if profile.rounded is not None and rotary.coordinates == "centred":
        rotary = replace(rotary, rounded=profile.rounded)
    return replace(rotary, reference=None) if profile.unscaled else rotary


def _check_patch(tensors: Tensors) -> None:
    shape = tensors.shape("patch_embed.proj.weight")
    if len(shape) != 4:
        raise CheckpointBroken(
            f"tensor 'patch_embed.proj.weight' has shape {shape}; the kernel of a convolution has 4 dimensions"
        )
    if shape[1] != 3:
        raise CheckpointUnsupported(f"the network reads {shape[1]} channels; only 3 (RGB) are supported")


def _prefix_tokens(tensors: Tensors) -> Tensor:
    """Return the tokens before the patch tokens, in their order: (P, D)."""
    dim = tensors.shape("patch_embed.proj.weight")[0]
    tokens = {name: tensors.take(name) for name in PREFIX if name in tensors}
    for name, token in tokens.items():
        if token.shape[-1] != dim:
            raise CheckpointBroken(f"tensor {name!r} has shape {tuple(token.shape)}; its last dimension must be {dim}")
    return torch.cat([torch.empty(0, dim), *(token.reshape(-1, dim) for token in tokens.values())])


def _positions(
    reading: Reading, tensors: Tensors, prefix: Tensor
) -> tuple[Tensor, dict[str, Tensor], Grid, Relative | None]:
    """Return the prefix tokens (P, D), the position embeddings if there are any, the native grid, relative biases."""
    resampling = PROFILES[reading.profile].offsets
    if "pos_embed" in tensors:
        class_token = "cls_token" in reading.tensors
        prefix, table = split_positions(tensors, prefix, reading.image_size, class_token)
        learned = (table.shape[0], table.shape[1])
        relative = relative_rule(reading.tensors, learned, resampling)
        return prefix, {"pos_embed.table": table.contiguous()}, learned, relative
    patch = tensors.shape("patch_embed.proj.weight")[2:]
    size = reading.image_size
    native = (size[0] // patch[0], size[1] // patch[1]) if size else None
    relative = relative_rule(reading.tensors, native, resampling)
    if reading.rotary is None and relative is None and reading.sincos is None:
        raise CheckpointUnsupported(
            "tensor 'pos_embed' is missing, and nothing says which other positions the network has"
        )
    grid = native or (relative.window if relative else None)
    if grid is None:
        raise CheckpointUnsupported("no config says the input size, and the network has no position embeddings")
    return prefix, {}, grid, relative


def _config(reading: Reading, tensors: Tensors, prefix: Tensor, grid: Grid, heads: int) -> ViTConfig:
    """Return the config without the fields of the head."""
    profile, read = PROFILES[reading.profile], reading.tensors
    depth = _depth(read)
    dim, _, *patch = tensors.shape("patch_embed.proj.weight")
    fc1, fc2 = tensors.shape("blocks.0.mlp.fc1.weight"), tensors.shape("blocks.0.mlp.fc2.weight")
    if reading.norm_type == "layer" and "blocks.0.norm1.bias" not in read:
        raise CheckpointUnsupported(
            "the norms have no bias, as in RMSNorm, but nothing says that they are of that kind"
        )
    class_token = "cls_token" in read
    return ViTConfig(
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_hidden_dim=fc2[1],
        patch_size=(patch[0], patch[1]),
        grid_size=grid,
        position=profile.resampling if "pos_embed" in read else reading.sincos,
        rotary=reading.rotary,
        class_token=class_token,
        num_extra_tokens=prefix.shape[0] - int(class_token),
        act=reading.act or profile.act or "gelu",
        swiglu=fc1[0] == 2 * fc2[1],
        norm_type=reading.norm_type,
        norm_eps=reading.norm_eps or profile.norm_eps or 1e-6,
        embed_norm="embed_norm.weight" in read,
        norm_pre="norm_pre.weight" in read,
        norm_post=reading.norm_post,
        qk_norm="blocks.0.attn.q_norm.weight" in read,
        attn_norm="blocks.0.attn.norm.weight" in read,
        mlp_norm="blocks.0.mlp.norm.weight" in read,
        layer_scale="blocks.0.ls1.gamma" in read,
        norm="norm.weight" in read,
    )


def _with_head(config: ViTConfig, reading: Reading, tensors: Tensors) -> ViTConfig:
    """Return the config with the fields that describe pooling and what follows it."""
    read = reading.tensors
    latent = "attn_pool.latent" in read
    return replace(
        config,
        pool=reading.pool or _pool(read),
        pool_heads=(reading.pool_heads or config.num_heads) if latent else 0,
        pool_hidden_dim=tensors.shape("attn_pool.fc1.weight")[0] if "attn_pool.fc1.weight" in read else 0,
        pool_act=(reading.pool_act or config.act) if latent else "gelu",
        pool_prefix=reading.pool_prefix or not (latent and config.num_prefix_tokens),
        pool_layers=reading.pool_layers,
        pool_norm=reading.pool_norm,
        fc_norm="fc_norm.weight" in read,
        projection_dim=tensors.shape("projection.weight")[0] if "projection.weight" in read else 0,
        projection_tanh=reading.projection_tanh and "projection.weight" in read,
        num_classes=tensors.shape("head.weight")[0] if "head.weight" in read else 0,
        head_dist="head_dist.weight" in read,
    )


def _depth(read: Mapping[str, Tensor]) -> int:
    """Return the number of blocks."""
    blocks = sorted({int(match[1]) for key in read if (match := BLOCK.match(key))})
    if blocks != list(range(len(blocks))) or not blocks:
        raise CheckpointBroken(f"the blocks are numbered {blocks}; expected 0, 1, 2, ... without gaps")
    return len(blocks)


def _pool(read: Mapping[str, Tensor]) -> Pool:
    """Return the pooling that the tensors imply, where the config does not name one."""
    if "dist_token" in read:
        return "cls_dist"
    if "attn_pool.latent" in read:
        return "attention"
    return "avg" if "fc_norm.weight" in read or "cls_token" not in read else "cls"


def _check_expected(expected: Mapping[str, Any], config: ViTConfig) -> None:
    for name, value in expected.items():
        found = getattr(config, name)
        if value is not None and found != value:
            raise CheckpointBroken(
                f"config.json says that {name} is {value}, but the tensors say {found}: they are of different models"
            )


def _check_pool(config: ViTConfig) -> None:
    if config.pool.startswith("cls") and not config.class_token:
        raise CheckpointBroken(f"tensor 'cls_token' is missing; the head reads it (pool {config.pool!r})")
    if config.head_dist and not (config.num_classes and config.pool == "cls_dist"):
        raise CheckpointBroken("tensor 'head_dist.weight' is unexpected: 'head.weight' or 'dist_token' is missing")
