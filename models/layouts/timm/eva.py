"""timm's `Eva`, the class of its networks with rotary positions: what a network is called there, and its arguments.

Only the name of an architecture says which rotary positions it has, so a network gets a name with its positions, and
arguments for everything else.
Source: huggingface/pytorch-image-models, `timm/models/eva.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from models.errors import CheckpointBroken
from models.layouts.timm.architectures import ARCHITECTURES
from models.network.config import ViTConfig
from models.network.positions.rotary import Rotary

PREFERRED = (
    "eva02_base_patch14_224",
    "vit_base_patch16_rope_224",
    "vit_base_patch16_rope_mixed_224",
    "vit_pe_core_base_patch16_224",
    "vit_pe_core_large_patch14_336",
    "vit_pe_spatial_base_patch16_512",
    "vit_pe_core_gigantic_patch14_448",
    "vit_base_patch16_dinov3_qkvb",
    "vit_base_patch16_sapiens2",
)
"""One name for each kind of rotary positions and of norm."""

CHANGES = ("reference", "rounded")
"""What the section of `vitrine convert` says of rotary positions: timm computes them in another way."""


def architecture(config: ViTConfig) -> str | None:
    """Return an architecture whose rotary positions equal the network's on its own grid, or None."""
    for name in PREFERRED:
        family = ARCHITECTURES[name].family
        if config.norm_type == family.norm_type and config.rotary in _kinds(config, family.rotary):
            return name
    return None


def _kinds(config: ViTConfig, known: Rotary | None) -> list[Rotary]:
    """Return the rotary positions that equal those of an architecture on the network's own grid, up to rounding."""
    if known is None:
        return []
    unscaled = [replace(known, reference=None)] if known.reference == config.grid_size else []
    return [known, replace(known, rounded=True), *unscaled]


def changes(config: ViTConfig) -> dict[str, Any]:
    """Return the fields of the network's rotary positions that differ from its architecture's."""
    name = architecture(config)
    known = ARCHITECTURES[name].family.rotary if name else None
    return {
        field: getattr(config.rotary, field)
        for field in CHANGES
        if getattr(config.rotary, field) != getattr(known, field)
    }


def changed(rotary: Rotary | None, fields: Mapping[str, Any]) -> Rotary | None:
    """Return the rotary positions of an architecture with the fields that `changes` returned."""
    if not fields or rotary is None:
        return rotary
    if unknown := set(fields) - set(CHANGES):
        raise CheckpointBroken(f"config.json: the field {min(unknown)!r} of rotary in the section 'vitrine' is unknown")
    reference = fields.get("reference", rotary.reference)
    return replace(
        rotary, reference=reference and (reference[0], reference[1]), rounded=fields.get("rounded", rotary.rounded)
    )


def unsupported(config: ViTConfig) -> dict[str, bool]:
    """Return what `Eva` cannot express, and whether the network has it."""
    return {
        "these rotary positions with this norm": architecture(config) is None,
        "rotary positions with another activation than GELU": config.act != "gelu" and not config.swiglu,
        "rotary positions with norms after the residual branch": config.norm_post,
        "rotary positions with a norm on the patches": config.embed_norm,
        "rotary positions with a mean over all tokens": config.pool == "avg_all",
        "rotary positions and an attention pooling without the prefix tokens": config.pool == "attention"
        and not config.pool_prefix,
        "rotary positions and a pooling with another activation than GELU": config.pool == "attention"
        and config.pool_act != "gelu",
    }


def arguments(config: ViTConfig) -> dict[str, Any]:
    """Return the arguments of `Eva` that `vision_transformer` does not have, or calls otherwise."""
    found: dict[str, Any] = {
        "attn_type": "rope",
        "qkv_fused": True,
        "qkv_bias": True,
        "num_kv_heads": None,
        "qk_norm": config.qk_norm,
        "scale_attn_inner": config.attn_norm,
        "swiglu_mlp": config.swiglu,
        "scale_mlp": config.mlp_norm,
        "attn_only_layer_scale": False,
        "class_token": config.class_token,
        "num_reg_tokens": config.num_extra_tokens,
        "no_embed_class": False,
        "use_abs_pos_emb": config.position is not None,
        "use_pre_transformer_norm": config.norm_pre,
        "use_post_transformer_norm": config.norm,
        "use_fc_norm": config.fc_norm,
    }
    if config.pool == "attention":
        ratio = (config.pool_hidden_dim + 0.5) / config.embed_dim
        found |= {"attn_pool_num_heads": config.pool_heads, "attn_pool_mlp_ratio": ratio}
    return found


def weights(network: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
    """Return the weights under the names that `Eva` has for them."""
    found: dict[str, Tensor] = {}
    for name, tensor in network.items():
        if name == "rotary.frequencies":
            found["rope.freqs"] = tensor
        elif config.swiglu and config.mlp_norm and (match := re.fullmatch(r"(.*\.mlp\.fc1)\.(\w+)", name)):
            found[f"{match[1]}_g.{match[2]}"], found[f"{match[1]}_x.{match[2]}"] = torch.chunk(tensor, 2)
        else:
            found[re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", name)] = tensor
    return found
