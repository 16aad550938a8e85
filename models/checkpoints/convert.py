"""Write any supported checkpoint as a directory in timm's layout: `model.safetensors` and `config.json`.

timm builds the network from the name of an architecture and arguments, and Vitrine reads the same directory. Numerics
that timm has no argument for (another epsilon, another resampling rule) go into the section `vitrine` of config.json,
which timm ignores. An architecture that timm cannot build is refused, and the error names the difference.
Source: huggingface/pytorch-image-models, `timm/models/vision_transformer.py`, `beit.py`, `eva.py`, `naflexvit.py`,
`vision_transformer_relpos.py`, `_hub.py` and `_builder.py`.
"""

import json
import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.relative import BEIT_NAMES, RELPOS_NAMES, timm_relative
from models.errors import CheckpointUnsupported
from models.files.writing import check_empty, write_tensors
from models.layouts.profiles import PROFILES
from models.layouts.source import Converted
from models.layouts.timm import eva
from models.layouts.timm.architectures import ARCHITECTURES
from models.layouts.timm.config import POOLS, SECTION
from models.network.config import ViTConfig
from models.network.positions.learned import Resampling
from models.network.positions.relative import Relative
from models.network.positions.sincos import SinCos
from models.preprocess import Preprocess

CROP_MODES = {"crop": "center", "squash": "squash", "border": "border", "fit": "center"}
NAFLEX_RULES = [PROFILES[name].resampling for name in ("siglip2", "timm-par", "timm-parfac")]
NAFLEX_EMBEDS = re.compile(r"^(?:patch_embed\.)?(proj\.weight|proj\.bias|pos_embed|cls_token|reg_token)$")
GLOBAL_POOLS = {pool: name for name, pool in POOLS.items()} | {"avg_all": "avg", "cls_dist": "token"}
PLAIN, CLIP, GATED, DISTILLED = (
    "vit_base_patch16_224",
    "vit_base_patch16_clip_224",
    "vit_giant_patch14_dinov2",
    "deit_base_distilled_patch16_224",
)
BEIT3, NORM_AFTER = "beit3_base_patch16_224", "vit_base_patch16_rpn_224"
RMS, NAFLEX = "aimv2_large_patch14_224", "naflexvit_base_patch16_gap"
BEIT, RELATIVE, RELATIVE_NORM_AFTER = (
    "beit_base_patch16_224",
    "vit_relpos_base_patch16_224",
    "vit_relpos_base_patch16_rpn_224",
)
"""Architectures of timm, for what its arguments cannot express: epsilon, types of norm, feed-forward and block, two
heads, relative positions, and rules for position embeddings."""


def convert(checkpoint: Checkpoint, folder: Path) -> list[str]:
    """Write the checkpoint into a new or empty directory.

    Returns a sentence for each way in which timm will answer differently from the original.

    Raises CheckpointUnsupported for an architecture that timm cannot build, FileExistsError for a directory that is not
    empty.
    """
    content = checkpoint.content
    if content.quantization is not None:
        raise CheckpointUnsupported(
            "timm cannot express layers of 8 bits; convert the checkpoint that this one was made from"
        )
    _check(content)
    check_empty(folder)
    config, weights = timm_config(content), timm_weights(content)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(weights, folder / "model.safetensors", "pt")
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return _differences(content)


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
        "a distillation token in this form": config.pool == "cls_dist" and _architecture(content) != DISTILLED,
        "norms after the residual branch with a layer scale": config.norm_post and config.layer_scale,
        "preprocessing that keeps the aspect ratio without a crop": content.preprocess.steps not in CROP_MODES,
        "position embeddings that are computed": isinstance(config.position, SinCos),
    }
    if config.rotary is None:
        unsupported |= {
            "an attention pooling of this form": config.pool == "attention" and not _usual_pooling(config),
            "RMSNorm in this form": (config.norm_type == "rms" or config.embed_norm) and not _is_aimv2(config),
        }
    if config.relative is not None:
        unsupported |= _unsupported_with_relative(content)
    if config.rotary is not None:
        unsupported |= eva.unsupported(config)
    if feature := next((name for name, present in unsupported.items() if present), None):
        raise CheckpointUnsupported(
            f"timm cannot express {feature}, so this checkpoint cannot be converted to its layout"
        )


def _unsupported_with_relative(content: Converted) -> dict[str, bool]:
    """Return what timm's two networks with relative positions cannot express."""
    config, beit = content.config, _architecture(content) == BEIT
    return {
        "relative positions with another activation than GELU": config.act != "gelu" or config.swiglu,
        "relative positions with another pooling": config.pool not in ("avg", "cls"),
        "relative positions without a norm after the blocks": not config.norm and not config.fc_norm,
        "relative positions with registers or a norm before the blocks": config.num_extra_tokens > 0 or config.norm_pre,
        "relative positions with a norm inside attention": config.attn_norm or (config.qk_norm and beit),
        "relative positions with a norm in the feed-forward": config.mlp_norm and not beit,
        "relative positions beside position embeddings": config.position is not None and not beit,
    }


def _usual_pooling(config: ViTConfig) -> bool:
    """Return whether attention pooling has the heads, the activation and the width of the blocks, as timm's has."""
    pooling = (config.pool_heads, config.pool_act, config.pool_hidden_dim)
    return pooling == (config.num_heads, config.act, config.mlp_hidden_dim) and not config.swiglu


def _is_aimv2(config: ViTConfig) -> bool:
    gated = config.norm_type == "rms" and config.embed_norm and config.swiglu
    return gated and not (config.norm_pre or config.qk_norm or config.rotary or config.relative)


def _has_patch_bias(content: Converted) -> bool:
    return bool(content.weights["patch_embed.proj.bias"].any())


def _has_key_bias(content: Converted) -> bool:
    biases = (content.weights[f"blocks.{i}.attn.qkv.bias"].chunk(3)[1] for i in range(content.config.depth))
    return any(bool(bias.any()) for bias in biases)


def _architecture(content: Converted) -> str:
    config = content.config
    if config.relative is not None:
        return _relative_architecture(content, config.relative)
    if config.rotary is not None:
        return eva.architecture(config) or PLAIN
    two_heads = config.pool == "cls_dist"
    usual = not (config.swiglu or config.norm_pre or config.qk_norm) and config.num_extra_tokens == 1 and config.norm
    candidates = (
        (NAFLEX, config.position in NAFLEX_RULES),
        (NORM_AFTER, config.norm_post),
        (BEIT3, config.attn_norm or config.mlp_norm),
        (DISTILLED, two_heads and usual),
        (PLAIN, two_heads),
        (RMS, config.norm_type == "rms"),
        (GATED, config.swiglu),
        (CLIP, config.norm_eps == 1e-5),
    )
    return next((name for name, fits in candidates if fits), PLAIN)


def _relative_architecture(content: Converted, rule: Relative) -> str:
    config = content.config
    beit = rule.class_token and not config.norm_post and not _has_key_bias(content)
    return BEIT if beit else RELATIVE_NORM_AFTER if config.norm_post else RELATIVE


def _timm_eps(content: Converted) -> float:
    return ARCHITECTURES[_architecture(content)].family.norm_eps


def timm_weights(content: Converted) -> dict[str, Tensor]:
    """Return the weights under timm's names.

    The position embeddings of the prefix tokens are zeros, because they are already added to those tokens.
    """
    config, weights = content.config, dict(content.weights)
    prefix = weights.pop("prefix_tokens")
    tokens = [row[None, None] for row in prefix]
    if config.position is not None:
        table = weights.pop("pos_embed.table")
        rows = torch.cat([torch.zeros_like(prefix), table.flatten(0, 1)])
        weights["pos_embed"] = (table if _architecture(content) == NAFLEX else rows)[None]
    if config.relative is not None:
        beit = _architecture(content) == BEIT
        weights |= timm_relative(weights, config.relative, BEIT_NAMES if beit else RELPOS_NAMES)
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("relative.")}
        weights = _beit_names(weights) if beit else weights
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
    weights = _renamed(weights, _architecture(content))
    weights = eva.weights(weights, config) if config.rotary is not None else weights
    return {name: tensor.contiguous().clone() for name, tensor in weights.items()}


def _renamed(weights: dict[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """Return the weights of attention pooling, of AIMv2 and of NaFlex under timm's names and in its forms."""
    result = {re.sub(r"^attn_pool\.(fc[12])", r"attn_pool.mlp.\1", name): tensor for name, tensor in weights.items()}
    if "attn_pool.latent" in result:
        result["attn_pool.latent"] = result["attn_pool.latent"][None, None]
    if architecture == RMS:
        result["patch_embed.norm.weight"] = result.pop("embed_norm.weight")
        for name in [name for name in result if ".mlp.fc1." in name]:
            gate, value = result.pop(name).chunk(2)
            result |= {name.replace("fc1", "fc1_g"): gate, name.replace("fc1", "fc1_x"): value}
    if architecture == NAFLEX:
        result["patch_embed.proj.weight"] = result["patch_embed.proj.weight"].permute(0, 2, 3, 1).flatten(1)
        result = {NAFLEX_EMBEDS.sub(r"embeds.\1", name): tensor for name, tensor in result.items()}
    return result


def _beit_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename what timm's BEiT calls otherwise than its other networks; its keys have no bias."""
    result: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith(".attn.qkv.bias"):
            block = name.removesuffix("qkv.bias")
            result[f"{block}q_bias"], _, result[f"{block}v_bias"] = tensor.chunk(3)
        else:
            result[re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", name)] = tensor
    return result


def timm_config(content: Converted) -> dict[str, Any]:
    """Return the content of config.json: what timm reads, and the section that only Vitrine reads."""
    config, outputs = content.config, content.config.num_classes or content.config.projection_dim
    result: dict[str, Any] = {
        "architecture": _architecture(content),
        "num_classes": outputs,
        "num_features": config.embed_dim,
        "global_pool": GLOBAL_POOLS[config.pool],
        "model_args": _arguments(content),
        "pretrained_cfg": _pretrained(content.preprocess, outputs),
    }
    if content.labels is not None:
        result["label_names"] = list(content.labels.names)
    return result | {SECTION: _section(content)}


def _arguments(content: Converted) -> dict[str, Any]:
    """Return the arguments of timm's constructor; all of them, so that no default of the architecture is used."""
    config, architecture = content.config, _architecture(content)
    rows = config.mlp_hidden_dim * (2 if architecture == GATED else 1)
    arguments: dict[str, Any] = {
        "img_size": [side * patch for side, patch in zip(config.grid_size, config.patch_size, strict=True)],
        "patch_size": config.patch_size[0] if len(set(config.patch_size)) == 1 else list(config.patch_size),
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": _ratio(rows, config.embed_dim),
        "init_values": 1e-5 if config.layer_scale else None,
    }
    if config.rotary is not None:
        return arguments | eva.arguments(config) | {"global_pool": GLOBAL_POOLS[config.pool], "dynamic_img_size": True}
    if config.relative is not None:
        return arguments | _relative_arguments(config, config.relative, architecture)
    arguments["dynamic_img_size"] = True
    if architecture == DISTILLED:
        return arguments | {"act_layer": config.act}
    if architecture == NAFLEX:
        return _naflex_arguments(config, arguments)
    arguments |= _token_arguments(config) | {"no_embed_class": False, "pre_norm": config.norm_pre}
    if architecture == BEIT3:
        arguments |= {"scale_attn_norm": config.attn_norm, "scale_mlp_norm": config.mlp_norm}
    if architecture == NORM_AFTER:
        arguments["qkv_bias"] = True
    if architecture == RMS:
        arguments |= {"qkv_bias": True, "proj_bias": True}
    return arguments if config.swiglu else arguments | {"act_layer": config.act}


def _token_arguments(config: ViTConfig) -> dict[str, Any]:
    """Return the arguments of tokens, pooling and norms that timm's networks with and without NaFlex share."""
    return {
        "class_token": config.class_token,
        "reg_tokens": config.num_extra_tokens,
        "global_pool": GLOBAL_POOLS[config.pool],
        "pool_include_prefix": config.pool == "avg_all" or (config.pool == "attention" and config.pool_prefix),
        "final_norm": config.norm or config.fc_norm,
        "fc_norm": config.fc_norm,
        "qk_norm": config.qk_norm,
    }


def _naflex_arguments(config: ViTConfig, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of timm's NaFlex network, which takes any size."""
    rule = cast(Resampling, config.position)
    common = {name: value for name, value in arguments.items() if name != "dynamic_img_size"}
    return (
        common
        | _token_arguments(config)
        | {
            "pos_embed_grid_size": list(config.grid_size),
            "pos_embed_interp_mode": rule.mode,
            "pos_embed_antialias": rule.antialias,
            "pos_embed_ar_preserving": rule.square,
            "act_layer": config.act,
        }
    )


def _relative_arguments(config: ViTConfig, rule: Relative, architecture: str) -> dict[str, Any]:
    """Return the arguments of timm's networks with relative positions; those of BEiT have other names."""
    common = {"global_pool": GLOBAL_POOLS[config.pool], "qkv_bias": True}
    if architecture == BEIT:
        return common | {
            "use_abs_pos_emb": config.position is not None,
            "use_rel_pos_bias": not rule.shared,
            "use_shared_rel_pos_bias": rule.shared,
            "use_fc_norm": config.fc_norm,
            "scale_mlp": config.mlp_norm,
        }
    return common | {
        "class_token": config.class_token,
        "fc_norm": config.fc_norm,
        "qk_norm": config.qk_norm,
        "rel_pos_type": "bias" if rule.window else "mlp",
        "rel_pos_dim": rule.hidden_dim or None,
        "shared_rel_pos": rule.shared,
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
    rotary = {"rotary": changes} if content.config.rotary and (changes := eva.changes(content.config)) else {}
    return rotary | {
        "profile": content.profile,
        "norm_eps": content.config.norm_eps,
        "head": "projection" if content.config.projection_dim else "classes",
        "multi_label": content.labels is not None and content.labels.multi_label,
        "crop_rounding": content.preprocess.crop_rounding,
        "max_patches": content.preprocess.max_patches,
    }


def _differences(content: Converted) -> list[str]:
    """Return how timm differs from the checkpoint's original, which Vitrine follows."""
    config, found = content.config, []
    eps = _timm_eps(content)
    if config.norm_eps != eps:
        found.append(f"LayerNorm: timm uses the epsilon {eps:g}, the original {config.norm_eps:g}")
    if config.position not in (None, PROFILES["timm"].resampling, *NAFLEX_RULES):
        rule = PROFILES[content.profile].summary.split(":")[0]
        found.append(
            f"position embeddings at other sizes: timm resamples by its own rule, the original by another ({rule})"
        )
    if config.relative is not None and config.relative.resampling != PROFILES["timm"].offsets:
        found.append(
            "relative position biases at other sizes: timm resamples them by its own rule, the original by another "
            f"({config.relative.resampling})"
        )
    changes = eva.changes(config) if config.rotary is not None else {}
    if "rounded" in changes:
        found.append("rotary positions: timm computes their periods in float32, the original rounds them to bfloat16")
    if "reference" in changes:
        found.append(
            "rotary positions at other sizes: timm scales them to the network's own size, the original does not"
        )
    if content.preprocess.max_patches is not None:
        found.append("preprocessing: timm crops the centre, the original keeps the picture's shape")
    if content.preprocess.crop_rounding == "floor":
        found.append("center crop: timm may cut one pixel further right or down than the original")
    return found
