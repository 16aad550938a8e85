"""Write any supported checkpoint as a directory in timm's layout: `model.safetensors` and `config.json`.

timm builds the network from arguments of its `vision_transformer`, and Vitrine reads the same directory. Numerics that
timm has no argument for (another epsilon, another resampling rule) go into the section `vitrine` of config.json, which
timm ignores. An architecture that timm cannot build is refused, and the error names the difference.
Source: huggingface/pytorch-image-models, `timm/models/vision_transformer.py`, `_hub.py` and `_builder.py`.
"""

import json
import re
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.checkpoints.checkpoint import Checkpoint
from models.errors import CheckpointUnsupported
from models.layouts.profiles import PROFILES
from models.layouts.source import Converted
from models.layouts.timm.config import POOLS, SECTION
from models.network.config import ViTConfig
from models.network.positions.learned import Resampling
from models.preprocess import Preprocess

CROP_MODES = {"crop": "center", "squash": "squash", "border": "border", "fit": "center"}
NAFLEX_RULES = [PROFILES[name].resampling for name in ("siglip2", "timm-par", "timm-parfac")]
NAFLEX_EMBEDS = re.compile(r"^(?:patch_embed\.)?(proj\.weight|proj\.bias|pos_embed|cls_token|reg_token)$")
GLOBAL_POOLS = {pool: name for name, pool in POOLS.items()} | {"avg_all": "avg", "cls_dist": "token"}
PLAIN, CLIP, GATED, DISTILLED, RMS, NAFLEX = (
    "vit_base_patch16_224",
    "vit_base_patch16_clip_224",
    "vit_giant_patch14_dinov2",
    "deit_base_distilled_patch16_224",
    "aimv2_large_patch14_224",
    "naflexvit_base_patch16_gap",
)
"""Architectures of timm, for what its arguments cannot express: epsilon, types of norm and of feed-forward, two heads,
and rules for position embeddings."""


def convert(checkpoint: Checkpoint, folder: Path) -> list[str]:
    """Write the checkpoint into a new or empty directory.

    Returns a sentence for each way in which timm will answer differently from the original.

    Raises CheckpointUnsupported for an architecture that timm cannot build, FileExistsError for a directory that is not
    empty.
    """
    content = checkpoint.content
    _check(content)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: already exists and is not an empty directory")
    config, weights = timm_config(content), timm_weights(content)
    folder.mkdir(parents=True, exist_ok=True)
    _save(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return _differences(content)


def _save(weights: dict[str, Tensor], path: Path) -> None:
    """Write the file with the permissions of the umask; safetensors alone would keep its temporary file's 0600."""
    path.touch()
    mode = path.stat().st_mode
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(mode)


def _check(content: Converted) -> None:
    """Raise CheckpointUnsupported for what timm's architectures and arguments cannot express."""
    config = content.config
    unsupported = {
        f"a head on {config.pool!r} of the last {config.pool_layers} blocks": config.pool not in GLOBAL_POOLS
        or config.pool_layers > 1,
        "a representation layer (tanh) after pooling": config.projection_tanh,
        "a projection and a classifier on top of it": bool(config.projection_dim and config.num_classes),
        "a head that reads tokens before the final norm": config.norm and not config.pool_norm,
        "two norms, one before and one after pooling": config.norm and config.fc_norm,
        "a bias in the patch projection with a norm before the blocks": config.norm_pre and _has_patch_bias(content),
        "a distillation token in this form": config.pool == "cls_dist" and _architecture(config) != DISTILLED,
        "preprocessing that keeps the aspect ratio without a crop": content.preprocess.steps not in CROP_MODES,
        "position embeddings that are computed": not isinstance(config.position, Resampling),
        "an attention pooling of this form": config.pool == "attention" and not _usual_pooling(config),
        "RMSNorm in this form": (config.norm_type == "rms") != config.embed_norm
        or config.embed_norm != _is_rms(config),
    }
    if feature := next((name for name, present in unsupported.items() if present), None):
        raise CheckpointUnsupported(
            f"timm cannot express {feature}, so this checkpoint cannot be converted to its layout"
        )


def _usual_pooling(config: ViTConfig) -> bool:
    """Return whether attention pooling has the heads, the activation and the width of the blocks, as timm's has."""
    pooling = (config.pool_heads, config.pool_act, config.pool_hidden_dim)
    return pooling == (config.num_heads, config.act, config.mlp_hidden_dim) and not config.swiglu


def _is_rms(config: ViTConfig) -> bool:
    """Return whether the network has the parts of AIMv2."""
    return config.norm_type == "rms" and config.swiglu and not config.norm_pre and not config.num_prefix_tokens


def _has_patch_bias(content: Converted) -> bool:
    return bool(content.weights["patch_embed.proj.bias"].any())


def _architecture(config: ViTConfig) -> str:
    if config.pool == "cls_dist":
        plain = not config.swiglu and config.num_extra_tokens == 1 and config.norm and not config.norm_pre
        return DISTILLED if plain and not config.qk_norm else PLAIN
    if config.position in NAFLEX_RULES:
        return NAFLEX
    if config.norm_type == "rms":
        return RMS
    if config.swiglu:
        return GATED
    return CLIP if config.norm_eps == 1e-5 else PLAIN


def _timm_eps(config: ViTConfig) -> float:
    return 1e-5 if _architecture(config) in (CLIP, RMS) else 1e-6


def timm_weights(content: Converted) -> dict[str, Tensor]:
    """Return the weights under timm's names.

    The position embeddings of the prefix tokens are zeros, because they are already added to those tokens.
    """
    config, weights = content.config, dict(content.weights)
    prefix, table = weights.pop("prefix_tokens"), weights.pop("pos_embed.table")
    naflex = _architecture(config) == NAFLEX
    rows = torch.cat([torch.zeros_like(prefix), table.flatten(0, 1)])
    tokens = [row[None, None] for row in prefix]
    weights["pos_embed"] = table[None] if naflex else rows[None]
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
    _rename_pooling(weights)
    if config.norm_type == "rms":
        _split_gates(weights)
    if naflex:
        weights["patch_embed.proj.weight"] = weights["patch_embed.proj.weight"].permute(0, 2, 3, 1).flatten(1)
        weights = {NAFLEX_EMBEDS.sub(r"embeds.\1", name): tensor for name, tensor in weights.items()}
    return {name: tensor.contiguous().clone() for name, tensor in weights.items()}


def _rename_pooling(weights: dict[str, Tensor]) -> None:
    """Give the attention pooling timm's names, in place."""
    for name in [name for name in weights if name.startswith("attn_pool.fc")]:
        weights[name.replace("attn_pool.fc", "attn_pool.mlp.fc")] = weights.pop(name)
    if "attn_pool.latent" in weights:
        weights["attn_pool.latent"] = weights["attn_pool.latent"][None, None]


def _split_gates(weights: dict[str, Tensor]) -> None:
    """Split the first layer of a gated feed-forward, and name the norm of the patches, as in AIMv2, in place."""
    for name in [name for name in weights if ".mlp.fc1." in name]:
        gate, value = weights.pop(name).chunk(2)
        weights[name.replace("fc1", "fc1_g")], weights[name.replace("fc1", "fc1_x")] = gate, value
    weights["patch_embed.norm.weight"] = weights.pop("embed_norm.weight")


def timm_config(content: Converted) -> dict[str, Any]:
    """Return the content of config.json: what timm reads, and the section that only Vitrine reads."""
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
    """Return the arguments of timm's constructor; all of them, so that no default of the architecture is used."""
    rows = config.mlp_hidden_dim * (2 if config.swiglu and _architecture(config) != RMS else 1)
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
    if _architecture(config) == NAFLEX:
        return _naflex_arguments(config, arguments)
    arguments |= {
        "class_token": config.class_token,
        "no_embed_class": False,
        "reg_tokens": config.num_extra_tokens,
        "global_pool": GLOBAL_POOLS[config.pool],
        "pool_include_prefix": config.pool == "avg_all" or (config.pool == "attention" and config.pool_prefix),
        "pre_norm": config.norm_pre,
        "final_norm": config.norm or config.fc_norm,
        "fc_norm": config.fc_norm,
        "qk_norm": config.qk_norm,
    }
    if _architecture(config) == RMS:
        arguments |= {"qkv_bias": True, "proj_bias": True}
    return arguments if config.swiglu else arguments | {"act_layer": config.act}


def _naflex_arguments(config: ViTConfig, arguments: dict[str, Any]) -> dict[str, Any]:
    rule = cast(Resampling, config.position)
    del arguments["dynamic_img_size"]
    return arguments | {
        "pos_embed_grid_size": list(config.grid_size),
        "pos_embed_interp_mode": rule.mode,
        "pos_embed_antialias": rule.antialias,
        "pos_embed_ar_preserving": rule.square,
        "class_token": config.class_token,
        "reg_tokens": config.num_extra_tokens,
        "global_pool": GLOBAL_POOLS[config.pool],
        "pool_include_prefix": config.pool == "avg_all" or (config.pool == "attention" and config.pool_prefix),
        "final_norm": config.norm or config.fc_norm,
        "fc_norm": config.fc_norm,
        "qk_norm": config.qk_norm,
        "act_layer": config.act,
    }


def _ratio(rows: int, dim: int) -> float:
    """Return `mlp_ratio`: timm multiplies the width by it and truncates."""
    return rows / dim if int(dim * (rows / dim)) == rows else (rows + 0.5) / dim


def _pretrained(preprocess: Preprocess, outputs: int) -> dict[str, Any]:
    side = preprocess.input_size[0]
    scaled = int(side // preprocess.crop_pct)
    crop_pct = float(preprocess.crop_pct)
    if int(side // crop_pct) != scaled:
        crop_pct = side / (scaled + 0.5)  # timm rounds this down to the same side
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
    """Return what timm's config has no field for."""
    return {
        "profile": content.profile,
        "norm_eps": content.config.norm_eps,
        "head": "projection" if content.config.projection_dim else "classes",
        "multi_label": content.labels is not None and content.labels.multi_label,
        "crop_rounding": content.preprocess.crop_rounding,
    } | ({} if content.preprocess.max_patches is None else {"max_patches": content.preprocess.max_patches})


def _differences(content: Converted) -> list[str]:
    """Return how timm differs from the checkpoint's original, which Vitrine follows."""
    config, found = content.config, []
    eps = _timm_eps(config)
    if config.norm_eps != eps:
        found.append(f"LayerNorm: timm uses the epsilon {eps:g}, the original {config.norm_eps:g}")
    if config.position not in (PROFILES["timm"].resampling, *NAFLEX_RULES):
        rule = PROFILES[content.profile].summary.split(":")[0]
        found.append(
            f"position embeddings at other sizes: timm resamples by its own rule, the original by another ({rule})"
        )
    if content.preprocess.max_patches is not None:
        found.append("preprocessing: timm crops the centre, the original keeps the picture's shape")
    if content.preprocess.crop_rounding == "floor":
        found.append("center crop: timm may cut one pixel further right or down than the original")
    return found
