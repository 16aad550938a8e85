"""Any supported checkpoint as a directory in timm's layout: `model.safetensors` and a `config.json`.

timm builds the network from its `vision_transformer` with arguments, and Vitrine reads the same directory. What timm
has no argument for but leaves the network the same (another epsilon, another resampling rule) goes into a section of
its own, `vitrine`, which timm passes over; what would be another network is refused by name.
Source: huggingface/pytorch-image-models, `timm/models/vision_transformer.py`, `_hub.py` and `_builder.py`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.checkpoints.checkpoint import Checkpoint
from models.errors import CheckpointUnsupported
from models.layouts.profiles import PROFILES
from models.layouts.source import Converted
from models.layouts.timm.config import POOLS, SECTION
from models.network.config import ViTConfig
from models.preprocess import Preprocess

CROP_MODES = {"crop": "center", "squash": "squash", "border": "border"}
GLOBAL_POOLS = {pool: name for name, pool in POOLS.items()} | {"avg_all": "avg", "cls_dist": "token"}
PLAIN, CLIP, GATED, DISTILLED = (
    "vit_base_patch16_224",
    "vit_base_patch16_clip_224",
    "vit_giant_patch14_dinov2",
    "deit_base_distilled_patch16_224",
)
"""Architectures of timm that differ in what its arguments cannot say: epsilon, the kind of feed-forward, two heads."""


def convert(checkpoint: Checkpoint, folder: Path) -> list[str]:
    """Write the checkpoint into a new directory; returns a sentence for each thing that timm itself will do otherwise.

    Raises CheckpointUnsupported for a network that timm cannot build, FileExistsError for a directory with files in it.
    """
    content = checkpoint.content
    _check(content)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty directory")
    config, weights = timm_config(content), timm_weights(content)
    folder.mkdir(parents=True, exist_ok=True)
    _save(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return _differences(content)


def _save(weights: dict[str, Tensor], path: Path) -> None:
    """Write the file with the mode that the umask gives: safetensors renames a temporary file of mode 0600."""
    path.touch()
    mode = path.stat().st_mode
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(mode)


def _check(content: Converted) -> None:
    """Raise CheckpointUnsupported for what timm has no name for."""
    config = content.config
    faults = {
        f"a head on {config.pool!r} of the last {config.pool_layers} blocks": config.pool not in GLOBAL_POOLS
        or config.pool_layers > 1,
        "a representation layer (tanh) after pooling": config.projection_tanh,
        "a projection and a classifier on top of it": bool(config.projection_dim and config.num_classes),
        "a head that reads tokens before the final norm": config.norm and not config.pool_norm,
        "two norms, one before and one after pooling": config.norm and config.fc_norm,
        "a bias in the patch projection with a norm before the blocks": config.norm_pre and _has_patch_bias(content),
        "a distillation token in this form": config.pool == "cls_dist" and _architecture(config) != DISTILLED,
        "preprocessing that keeps the picture's shape": content.preprocess.steps == "edge",
    }
    if fault := next((name for name, is_so in faults.items() if is_so), None):
        raise CheckpointUnsupported(f"timm has no {fault}, so this checkpoint cannot be written in its layout")


def _has_patch_bias(content: Converted) -> bool:
    return bool(content.weights["patch_embed.proj.bias"].any())


def _architecture(config: ViTConfig) -> str:
    if config.pool == "cls_dist":
        plain = not config.swiglu and config.num_extra_tokens == 1 and config.norm and not config.norm_pre
        return DISTILLED if plain and not config.qk_norm else PLAIN
    if config.swiglu:
        return GATED
    return CLIP if config.norm_eps == 1e-5 else PLAIN


def _eps_of_timm(config: ViTConfig) -> float:
    return 1e-5 if _architecture(config) == CLIP else 1e-6


def timm_weights(content: Converted) -> dict[str, Tensor]:
    """The weights under timm's names; the prefix tokens' rows of the position table are zero, being in the tokens."""
    config, weights = content.config, dict(content.weights)
    prefix, table = weights.pop("prefix_tokens"), weights.pop("pos_embed.table")
    rows = torch.cat([torch.zeros_like(prefix), table.flatten(0, 1)])
    tokens = [row[None, None] for row in prefix]
    weights["pos_embed"] = rows[None]
    if config.class_token:
        weights["cls_token"] = tokens.pop(0)
    if config.pool == "cls_dist":
        weights["dist_token"] = tokens.pop(0)
    if tokens:
        weights["reg_token"] = torch.cat(tokens, dim=1)
    if config.norm_pre:
        del weights["patch_embed.proj.bias"]
    for part in ("weight", "bias"):
        if f"projection.{part}" in weights:
            weights[f"head.{part}"] = weights.pop(f"projection.{part}")
    return {name: tensor.contiguous().clone() for name, tensor in weights.items()}


def timm_config(content: Converted) -> dict[str, Any]:
    """The config.json that timm reads, and in it what only Vitrine reads."""
    config, outputs = content.config, content.config.num_classes or content.config.projection_dim
    result: dict[str, Any] = {
        "architecture": _architecture(config),
        "num_classes": outputs,
        "num_features": config.embed_dim,
        "global_pool": GLOBAL_POOLS[config.pool],
        "model_args": _arguments(config),
        "pretrained_cfg": _pretrained(content.preprocess, outputs),
    }
    if content.labels is not None:
        result["label_names"] = list(content.labels.names)
    return result | {SECTION: _section(content)}


def _arguments(config: ViTConfig) -> dict[str, Any]:
    """What timm's constructor is told; an architecture's own values are overridden throughout."""
    rows = config.mlp_hidden_dim * (2 if config.swiglu else 1)
    arguments: dict[str, Any] = {
        "img_size": [side * patch for side, patch in zip(config.grid_size, config.patch_size, strict=True)],
        "patch_size": config.patch_size[0] if len(set(config.patch_size)) == 1 else list(config.patch_size),
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": _ratio(rows, config.embed_dim),
        "init_values": 1e-5 if config.layer_scale else None,
        "dynamic_img_size": True,
    }
    if _architecture(config) == DISTILLED:
        return arguments | {"act_layer": config.act}
    arguments |= {
        "class_token": config.class_token,
        "no_embed_class": False,
        "reg_tokens": config.num_extra_tokens,
        "global_pool": GLOBAL_POOLS[config.pool],
        "pool_include_prefix": config.pool == "avg_all",
        "pre_norm": config.norm_pre,
        "final_norm": config.norm or config.fc_norm,
        "fc_norm": config.fc_norm,
        "qk_norm": config.qk_norm,
    }
    return arguments if config.swiglu else arguments | {"act_layer": config.act}


def _ratio(rows: int, dim: int) -> float:
    """What timm multiplies the width by and truncates."""
    return rows / dim if int(dim * (rows / dim)) == rows else (rows + 0.5) / dim


def _pretrained(preprocess: Preprocess, outputs: int) -> dict[str, Any]:
    side = preprocess.input_size[0]
    scaled = int(side // preprocess.crop_pct)
    crop_pct = float(preprocess.crop_pct)
    if int(side // crop_pct) != scaled:
        crop_pct = side / (scaled + 0.5)  # the fraction that timm floors to the same side
    return {
        "custom_load": False,
        "input_size": [3, *preprocess.input_size],
        "fixed_input_size": False,
        "interpolation": preprocess.interpolation,
        "crop_pct": crop_pct,
        "crop_mode": CROP_MODES[preprocess.steps],
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "num_classes": outputs,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


def _section(content: Converted) -> dict[str, Any]:
    """What timm's config has no place for."""
    return {
        "profile": content.profile,
        "norm_eps": content.config.norm_eps,
        "head": "projection" if content.config.projection_dim else "classes",
        "multi_label": content.labels is not None and content.labels.multi_label,
        "crop_rounding": content.preprocess.crop_rounding,
    }


def _differences(content: Converted) -> list[str]:
    """What timm does otherwise than the checkpoint's original, of which Vitrine keeps to the latter."""
    config, found = content.config, []
    eps = _eps_of_timm(config)
    if config.norm_eps != eps:
        found.append(f"timm's LayerNorm adds {eps:g} where the original adds {config.norm_eps:g}")
    if config.position != PROFILES["timm"].resampling:
        rule = PROFILES[content.profile].summary.split(":")[0]
        found.append(f"at other sizes timm resamples positions by its own rule, the original by another ({rule})")
    if content.preprocess.crop_rounding == "floor":
        found.append("timm may cut one pixel further right or down than the original")
    return found
