"""From what a layout read to the network's config and weights: the part that all layouts share.

Position rows of prefix tokens are added to the tokens, biases that a family lacks become zeros, and the config follows
from shapes wherever shapes show it. Everything is taken exactly once, or is an error that names it.
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
from models.checkpoints.heads import attach, tidy
from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.geometry import count_heads, split_positions
from models.layouts.profiles import PROFILES, profile_named
from models.layouts.source import Choices, Converted, Reading, Source
from models.layouts.tensors import Tensors
from models.network.config import ViTConfig
from models.network.pooling import Pool

PREFIX = ("cls_token", "dist_token", "reg_token")
PARTS = ("weight", "bias")
BLOCK = re.compile(r"blocks\.(\d+)\.")


def assemble(reading: Reading, source: Source, choices: Choices) -> Converted:
    """Make the network's config and weights of what was read.

    Raises CheckpointUnsupported for a network of another kind, CheckpointBroken for one that contradicts itself.
    """
    reading = _with_profile(reading, choices)
    reading = attach(reading, choices.head) if choices.head else reading
    reading = tidy(reading)
    tensors = Tensors(reading.tensors)
    _check_patch(tensors)
    prefix = _prefix(tensors)
    heads, why_heads = count_heads(reading, choices.num_heads)
    prefix, table = split_positions(tensors, prefix, reading.image_size, "cls_token" in reading.tensors)
    config = _config(reading, tensors, prefix, table, heads)
    _check_expected(reading.expected, config)
    _check_pool(config)
    weights = _weights(tensors, config) | {"prefix_tokens": prefix, "pos_embed.table": table.contiguous()}
    tensors.finish()
    preprocess, why_preprocess = default_preprocess(reading, config, source.path.name)
    labels, why_labels = name_classes(reading, config, choices.labels)
    reasons = dict(reading.reasons) | {
        "container": f"the weights under {' / '.join(source.wrappers)}" if source.wrappers else "",
        "num_heads": why_heads,
        "preprocess": reading.reasons.get("preprocess") or why_preprocess,
        "labels": why_labels,
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


def _with_profile(reading: Reading, choices: Choices) -> Reading:
    """The reading under the profile that was chosen; its numerics then go before what the checkpoint says."""
    if choices.profile is None or choices.profile == reading.profile:
        return reading
    chosen = profile_named(choices.profile)
    reasons = dict(reading.reasons) | {"profile": f"chosen; of itself it would be {reading.profile!r}"}
    return replace(
        reading,
        profile=choices.profile,
        act=chosen.act or reading.act,
        norm_eps=chosen.norm_eps or reading.norm_eps,
        reasons=reasons,
    )


def _check_patch(tensors: Tensors) -> None:
    shape = tensors.shape("patch_embed.proj.weight")
    if len(shape) != 4:
        raise CheckpointBroken(f"'patch_embed.proj.weight' has shape {shape}, not that of a convolution")
    if shape[1] != 3:
        raise CheckpointUnsupported(f"the network takes {shape[1]} channels; pictures have three")


def _prefix(tensors: Tensors) -> Tensor:
    """The tokens in front of the patches, in their order: (P, D)."""
    dim = tensors.shape("patch_embed.proj.weight")[0]
    tokens = [tensors.take(name) for name in PREFIX if name in tensors]
    for name, token in zip(PREFIX, tokens, strict=False):
        if token.shape[-1] != dim:
            raise CheckpointBroken(f"tensor {name!r} has shape {tuple(token.shape)}, the network wants {dim} channels")
    return torch.cat([token.reshape(-1, dim) for token in tokens]) if tokens else torch.empty(0, dim)


def _config(reading: Reading, tensors: Tensors, prefix: Tensor, table: Tensor, heads: int) -> ViTConfig:
    profile, read = PROFILES[reading.profile], reading.tensors
    blocks = sorted({int(match[1]) for key in read if (match := BLOCK.match(key))})
    if blocks != list(range(len(blocks))) or not blocks:
        raise CheckpointBroken(f"the blocks are numbered {blocks}, not from 0 without gaps")
    dim, _, *patch = tensors.shape("patch_embed.proj.weight")
    fc1, fc2 = tensors.shape("blocks.0.mlp.fc1.weight"), tensors.shape("blocks.0.mlp.fc2.weight")
    if "blocks.0.norm1.bias" not in read:
        raise CheckpointUnsupported("the norms have no bias (RMSNorm, as AIMv2's), which is not supported")
    class_token = "cls_token" in read
    return ViTConfig(
        embed_dim=dim,
        depth=len(blocks),
        num_heads=heads,
        mlp_hidden_dim=fc2[1],
        patch_size=(patch[0], patch[1]),
        grid_size=(table.shape[0], table.shape[1]),
        position=profile.resampling,
        class_token=class_token,
        num_extra_tokens=prefix.shape[0] - int(class_token),
        act=reading.act or profile.act or "gelu",
        swiglu=fc1[0] == 2 * fc2[1],
        norm_eps=reading.norm_eps or profile.norm_eps or 1e-6,
        norm_pre="norm_pre.weight" in read,
        qk_norm="blocks.0.attn.q_norm.weight" in read,
        layer_scale="blocks.0.ls1.gamma" in read,
        norm="norm.weight" in read,
        pool=reading.pool or _pool(read),
        pool_layers=reading.pool_layers,
        pool_norm=reading.pool_norm,
        fc_norm="fc_norm.weight" in read,
        projection_dim=tensors.shape("projection.weight")[0] if "projection.weight" in read else 0,
        projection_tanh=reading.projection_tanh and "projection.weight" in read,
        num_classes=tensors.shape("head.weight")[0] if "head.weight" in read else 0,
        head_dist="head_dist.weight" in read,
    )


def _pool(read: Mapping[str, Tensor]) -> Pool:
    """What the head reads, where only the tensors can tell."""
    if "dist_token" in read:
        return "cls_dist"
    return "avg" if "fc_norm.weight" in read or "cls_token" not in read else "cls"


def _check_expected(expected: Mapping[str, Any], config: ViTConfig) -> None:
    for name, value in expected.items():
        found = getattr(config, name)
        if value is not None and found != value:
            raise CheckpointBroken(f"the config says that {name} is {value}, the tensors say {found}")


def _check_pool(config: ViTConfig) -> None:
    if config.pool.startswith("cls") and not config.class_token:
        raise CheckpointBroken(f"tensor 'cls_token' is missing: the head reads it (pool {config.pool!r})")
    if config.head_dist and not (config.num_classes and config.pool == "cls_dist"):
        raise CheckpointBroken("there is a second head, 'head_dist', without the first or without its token")


def _weights(tensors: Tensors, config: ViTConfig) -> dict[str, Tensor]:
    """All weights under the network's names."""
    layers = ["patch_embed.proj"]
    layers += [norm for norm in ("norm_pre", "norm", "fc_norm") if getattr(config, norm)]
    layers += ["projection"] if config.projection_dim else []
    layers += ["head"] if config.num_classes else []
    layers += ["head_dist"] if config.head_dist else []
    inner = ["norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    inner += ["attn.q_norm", "attn.k_norm"] if config.qk_norm else []
    layers += [f"blocks.{i}.{layer}" for i in range(config.depth) for layer in inner]
    weights = {f"{layer}.weight": tensors.take(f"{layer}.weight") for layer in layers}
    lacking = _layers_without_bias(tensors, config)
    for layer in layers:
        # A bias that the family lacks is zero; one that only some blocks lack is damage, and missing.
        rows = weights[f"{layer}.weight"].shape[0]
        weights[f"{layer}.bias"] = torch.zeros(rows) if layer in lacking else tensors.take(f"{layer}.bias")
    scales = [
        f"blocks.{i}.{scale}.gamma" for i in range(config.depth) for scale in ("ls1", "ls2") if config.layer_scale
    ]
    return weights | {name: tensors.take(name) for name in scales}


def _layers_without_bias(tensors: Tensors, config: ViTConfig) -> set[str]:
    """Layers whose family knows no bias and that have none: CLIP's, and attention's where no block has one."""
    clip = {"patch_embed.proj": config.norm_pre, "projection": not config.projection_tanh}
    lacking = {name for name, may in clip.items() if may and f"{name}.bias" not in tensors}
    for layer in ("attn.qkv", "attn.proj"):
        of_blocks = {f"blocks.{i}.{layer}" for i in range(config.depth)}
        if not any(f"{name}.bias" in tensors for name in of_blocks):
            lacking |= of_blocks
    return lacking
