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
    """Return the network's config and weights, with preprocessing, labels and the reasons for each choice.

    Raises CheckpointUnsupported for an architecture that is not supported, CheckpointBroken for inconsistent tensors.
    """
    reading = _with_profile(reading, choices)
    reading = attach_head(reading, choices.head) if choices.head else reading
    reading = clean_head(reading)
    tensors = Tensors(reading.tensors)
    _check_patch(tensors)
    prefix = _prefix_tokens(tensors)
    heads, heads_reason = count_heads(reading, choices.num_heads)
    prefix, table = split_positions(tensors, prefix, reading.image_size, "cls_token" in reading.tensors)
    config = _config(reading, tensors, prefix, table, heads)
    _check_expected(reading.expected, config)
    _check_pool(config)
    weights = _weights(tensors, config) | {"prefix_tokens": prefix, "pos_embed.table": table.contiguous()}
    tensors.finish()
    preprocess, preprocess_reason = default_preprocess(reading, config, source.path.name)
    labels, labels_reason = name_classes(reading, config, choices.labels)
    reasons = dict(reading.reasons) | {
        "container": f"the weights are under {' / '.join(source.wrappers)}" if source.wrappers else "",
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
        reasons=reasons,
    )


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
    tokens = [tensors.take(name) for name in PREFIX if name in tensors]
    for name, token in zip(PREFIX, tokens, strict=False):
        if token.shape[-1] != dim:
            raise CheckpointBroken(f"tensor {name!r} has shape {tuple(token.shape)}; its last dimension must be {dim}")
    return torch.cat([token.reshape(-1, dim) for token in tokens]) if tokens else torch.empty(0, dim)


def _config(reading: Reading, tensors: Tensors, prefix: Tensor, table: Tensor, heads: int) -> ViTConfig:
    profile, read = PROFILES[reading.profile], reading.tensors
    blocks = sorted({int(match[1]) for key in read if (match := BLOCK.match(key))})
    if blocks != list(range(len(blocks))) or not blocks:
        raise CheckpointBroken(f"the blocks are numbered {blocks}; expected 0, 1, 2, ... without gaps")
    dim, _, *patch = tensors.shape("patch_embed.proj.weight")
    fc1, fc2 = tensors.shape("blocks.0.mlp.fc1.weight"), tensors.shape("blocks.0.mlp.fc2.weight")
    if "blocks.0.norm1.bias" not in read:
        raise CheckpointUnsupported("the norms have no bias (RMSNorm, as in AIMv2), which is not supported")
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
    """Return the pooling that the tensors imply, where the config does not name one."""
    if "dist_token" in read:
        return "cls_dist"
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


def _weights(tensors: Tensors, config: ViTConfig) -> dict[str, Tensor]:
    """Return all weights under the network's names."""
    layers = ["patch_embed.proj"]
    layers += [norm for norm in ("norm_pre", "norm", "fc_norm") if getattr(config, norm)]
    layers += ["projection"] if config.projection_dim else []
    layers += ["head"] if config.num_classes else []
    layers += ["head_dist"] if config.head_dist else []
    inner = ["norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    inner += ["attn.q_norm", "attn.k_norm"] if config.qk_norm else []
    layers += [f"blocks.{i}.{layer}" for i in range(config.depth) for layer in inner]
    weights = {f"{layer}.weight": tensors.take(f"{layer}.weight") for layer in layers}
    without_bias = _layers_without_bias(tensors, config)
    for layer in layers:
        # A bias that the family lacks becomes zeros. A bias that only some blocks lack is reported as missing.
        rows = weights[f"{layer}.weight"].shape[0]
        weights[f"{layer}.bias"] = torch.zeros(rows) if layer in without_bias else tensors.take(f"{layer}.bias")
    scales = [
        f"blocks.{i}.{scale}.gamma" for i in range(config.depth) for scale in ("ls1", "ls2") if config.layer_scale
    ]
    return weights | {name: tensors.take(name) for name in scales}


def _layers_without_bias(tensors: Tensors, config: ViTConfig) -> set[str]:
    """Return the layers that have no bias in this family: CLIP's, and attention's if no block has one."""
    clip = {"patch_embed.proj": config.norm_pre, "projection": not config.projection_tanh}
    without_bias = {name for name, optional in clip.items() if optional and f"{name}.bias" not in tensors}
    for layer in ("attn.qkv", "attn.proj"):
        in_blocks = {f"blocks.{i}.{layer}" for i in range(config.depth)}
        if not any(f"{name}.bias" in tensors for name in in_blocks):
            without_bias |= in_blocks
    return without_bias
