"""timm's `vision_transformer`: a hub directory of `config.json` and `model.safetensors`.

Source: huggingface/pytorch-image-models, `timm/models/vision_transformer.py`, `timm/data/config.py` and `_hub.py`.
The keys give most of the network. What they do not show (activation, eps, head width, where the norm stands) follows
the architecture's name.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.source import Converted, Source, Tensors
from models.position import Resampling
from models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Labels, Preprocess, Steps, unnamed
from models.vit import ViTConfig

PREFIX = ("cls_token", "dist_token", "reg_token")
PARTS = ("weight", "bias")
SYNSET = re.compile(r"n\d{8}")
BLOCK = re.compile(r"blocks\.(\d+)\.")

# Keys that mean another network under the same outer names, and what that network is.
FOREIGN = {
    "attn_pool.latent": "attention pooling (SigLIP)",
    "blocks.0.attn.q_proj.weight": "separate q, k, v projections (EVA)",
    "blocks.0.attn.q_bias": "relative positions or split biases (BEiT, EVA)",
    "blocks.0.in_proj.weight": "parallel blocks",
    "blocks.0.attns.0.qkv.weight": "parallel blocks",
    "blocks.0.attn.norm.weight": "norms inside the attention",
    "blocks.0.attn.gate.weight": "gated attention",
    "blocks.0.mlp.fc1_g.weight": "EVA's SwiGLU",
    "patch_embed.norm.weight": "a norm in the patch embedding",
    "patch_embed.backbone.conv1.weight": "a convolutional stem (hybrid)",
    "patch_embed.proj.0.weight": "a convolutional stem",
}


def recognises(source: Source) -> bool:
    """Whether this is timm's layout: its config names an architecture, its keys are timm's."""
    return "architecture" in source.config and "patch_embed.proj.weight" in source.tensors


def convert(source: Source) -> Converted:
    """Read the network, its weights, preprocessing and labels.

    Raises CheckpointUnsupported for a network of another kind, CheckpointBroken for one that contradicts itself.
    """
    for key, name in FOREIGN.items():
        if key in source.tensors:
            raise CheckpointUnsupported(f"{source.config['architecture']} has {name}, which is not supported ({key!r})")
    architecture = str(source.config["architecture"])
    tensors = Tensors(source.tensors)
    arguments: Mapping[str, Any] = source.config.get("model_args") or {}
    # Old configs are flat: what newer ones keep in `pretrained_cfg` lies at the top.
    pretrained: Mapping[str, Any] = source.config.get("pretrained_cfg") or source.config
    prefix, table = _positions(tensors, _prefix(tensors), arguments.get("img_size") or pretrained["input_size"][1:])
    config = _config(source, tensors, prefix, table)
    weights = _weights(tensors, config) | {"prefix_tokens": prefix, "pos_embed.table": table}
    tensors.finish()
    return Converted(
        layout="timm",
        profile="timm",
        config=config,
        weights=weights,
        preprocess=_preprocess(pretrained, config),
        labels=_labels(source.config, config.num_classes),
        reasons={
            "layout": f"config.json names timm's architecture {architecture!r} and the tensors have timm's names",
            "profile": "a config.json of timm: its activation, eps and position resampling (bicubic, antialiased)",
            "num_heads": "model_args names it" if "num_heads" in arguments else "the rule of timm: heads of 64",
        },
    )


def _prefix(tensors: Tensors) -> Tensor:
    """The tokens in front of the patches, in their order: (P, D)."""
    dim = tensors.shape("patch_embed.proj.weight")[0]
    tokens = [tensors.take(name).reshape(-1, dim) for name in PREFIX if name in tensors]
    return torch.cat(tokens) if tokens else torch.empty(0, dim)


def _positions(tensors: Tensors, prefix: Tensor, image_size: Any) -> tuple[Tensor, Tensor]:
    """Split the position table into its prefix tokens' rows and the grid; add those to the tokens.

    How many rows belong to prefix tokens is read off the shapes: all of them, or none (`no_embed_class`).
    Returns the tokens (P, D) and the grid (gh, gw, D).
    """
    rows = tensors.take("pos_embed")[0]
    patch = tensors.shape("patch_embed.proj.weight")[2:]
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    native = (height // patch[0], width // patch[1])
    count = prefix.shape[0]
    for leading in dict.fromkeys((count, min(count, 1), 0)):
        left = rows.shape[0] - leading
        side = math.isqrt(max(left, 0))
        grid = native if math.prod(native) == left else (side, side)
        if left > 0 and math.prod(grid) == left:
            folded = prefix.clone()
            folded[:leading] += rows[:leading]
            return folded, rows[leading:].unflatten(0, grid)
    raise CheckpointBroken(
        f"'pos_embed' has {rows.shape[0]} rows: neither the {native[0]} x {native[1]} patches that config.json names "
        f"nor a square grid, with or without {count} rows for prefix tokens"
    )


def _config(source: Source, tensors: Tensors, prefix: Tensor, table: Tensor) -> ViTConfig:
    architecture = str(source.config["architecture"])
    arguments: Mapping[str, Any] = source.config.get("model_args") or {}
    blocks = sorted({int(match[1]) for key in source.tensors if (match := BLOCK.match(key))})
    if blocks != list(range(len(blocks))) or not blocks:
        raise CheckpointBroken(f"the blocks are numbered {blocks}, not from 0 without gaps")
    dim, _, *patch = tensors.shape("patch_embed.proj.weight")
    fc1, fc2 = tensors.shape("blocks.0.mlp.fc1.weight"), tensors.shape("blocks.0.mlp.fc2.weight")
    class_token = "cls_token" in source.tensors
    pool = arguments.get("global_pool") or source.config.get("global_pool") or "token"
    if pool not in ("token", "avg"):
        raise CheckpointUnsupported(f"{architecture} pools by {pool!r}; 'token' and 'avg' are supported")
    return ViTConfig(
        embed_dim=dim,
        depth=len(blocks),
        num_heads=_num_heads(architecture, arguments, dim),
        mlp_hidden_dim=fc2[1],
        patch_size=(patch[0], patch[1]),
        grid_size=(table.shape[0], table.shape[1]),
        position=Resampling(mode="bicubic", antialias=True, skip="grid"),
        class_token=class_token,
        num_extra_tokens=prefix.shape[0] - int(class_token),
        act="quick_gelu" if "_clip_quickgelu_" in architecture else "gelu",
        swiglu=fc1[0] == 2 * fc2[1],
        norm_eps=1e-5 if "_clip_" in architecture else 1e-6,
        norm_pre="norm_pre.weight" in source.tensors,
        qk_norm="blocks.0.attn.q_norm.weight" in source.tensors,
        layer_scale="blocks.0.ls1.gamma" in source.tensors,
        norm="norm.weight" in source.tensors,
        fc_norm="fc_norm.weight" in source.tensors,
        pool="avg" if pool == "avg" else "cls",
        num_classes=tensors.shape("head.weight")[0] if "head.weight" in tensors else 0,
    )


def _num_heads(architecture: str, arguments: Mapping[str, Any], dim: int) -> int:
    """Heads cannot be read off the weights; nearly all of timm's networks have heads of 64."""
    heads = int(arguments.get("num_heads") or dim // 64)
    if not heads or dim % heads:
        raise CheckpointUnsupported(
            f"{architecture} has {dim} dimensions and its number of heads is not known; add num_heads to model_args"
        )
    return heads


def _weights(tensors: Tensors, config: ViTConfig) -> dict[str, Tensor]:
    """All weights under the network's names, which are timm's but for the tokens and the table."""
    names = ["patch_embed.proj.weight"]
    names += [f"{norm}.{part}" for norm in ("norm_pre", "norm", "fc_norm") if getattr(config, norm) for part in PARTS]
    for i in range(config.depth):
        block = f"blocks.{i}"
        layers = ["norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2"]
        layers += ["attn.q_norm", "attn.k_norm"] if config.qk_norm else []
        names += [f"{block}.{layer}.{part}" for layer in layers for part in PARTS]
        names += [f"{block}.attn.qkv.weight"]
        names += [f"{block}.{scale}.gamma" for scale in ("ls1", "ls2") if config.layer_scale]
    names += ["head.weight"] if config.num_classes else []
    weights = {name: tensors.take(name) for name in names}
    # A bias that the whole network lacks is zero; one that only some blocks lack is damage.
    has_qkv_bias = "blocks.0.attn.qkv.bias" in tensors
    for i in range(config.depth):
        bias = f"blocks.{i}.attn.qkv.bias"
        weights[bias] = tensors.take(bias) if has_qkv_bias else torch.zeros(3 * config.embed_dim)
    for bias, size in (("patch_embed.proj.bias", config.embed_dim), ("head.bias", config.num_classes)):
        if size:
            weights[bias] = tensors.take(bias) if bias in tensors else torch.zeros(size)
    return weights


def _preprocess(pretrained: Mapping[str, Any], config: ViTConfig) -> Preprocess:
    """`resolve_data_config` of timm, with its defaults."""
    _, height, width = pretrained.get("input_size") or (3, 224, 224)
    mode = pretrained.get("crop_mode") or "center"
    steps = {"center": "crop", "squash": "squash", "border": "border"}.get(mode)
    if steps is None:
        raise CheckpointUnsupported(f"crop_mode is {mode!r}; center, squash and border are supported")
    if config.grid(height, width) == (0, 0):
        raise CheckpointBroken(f"input_size {height} x {width} is smaller than a patch")
    interpolation = pretrained.get("interpolation") or "bicubic"
    if interpolation not in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"):
        raise CheckpointUnsupported(f"interpolation is {interpolation!r}, which is not a filter of Pillow")
    return Preprocess(
        input_size=(int(height), int(width)),
        steps=cast(Steps, steps),
        crop_pct=float(pretrained.get("crop_pct") or 0.875),
        interpolation=cast(Interpolation, interpolation),
        mean=_channels(pretrained.get("mean"), IMAGENET_MEAN),
        std=_channels(pretrained.get("std"), IMAGENET_STD),
    )


def _channels(values: list[float] | None, default: tuple[float, float, float]) -> tuple[float, float, float]:
    if values is None:
        return default
    if len(values) != 3:
        raise CheckpointBroken(f"mean and std want three numbers, config.json has {values}")
    return float(values[0]), float(values[1]), float(values[2])


def _labels(config: Mapping[str, Any], num_classes: int) -> Labels | None:
    """Class names where config.json has them, plain indices where it has not; None without a head."""
    if not num_classes:
        return None
    names = config.get("label_names") or config.get("labels")
    if not names:
        return unnamed(num_classes)
    if isinstance(names, dict):
        names = [names.get(str(index), str(index)) for index in range(len(names))]
    if len(names) != num_classes:
        raise CheckpointBroken(f"config.json names {len(names)} labels, 'head.weight' has {num_classes} classes")
    # Where the names are WordNet ids, the descriptions are what a person calls them.
    descriptions: Mapping[str, str] = config.get("label_descriptions") or {}
    return Labels(tuple(str(descriptions.get(name, name) if SYNSET.fullmatch(str(name)) else name) for name in names))
