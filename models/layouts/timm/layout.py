"""timm's Vision Transformers: a hub directory of `config.json` and weights, or what `save_for_hf` wrote.

Source: huggingface/pytorch-image-models, `timm/models/vision_transformer.py`, `deit.py`, `beit.py`, `eva.py`,
`vision_transformer_relpos.py`, `naflexvit.py` and `_hub.py`.
The network uses the same names, and so do facebookresearch's DINO, DINOv2, DeiT and MAE (`models/layouts/facebook/`).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.errors import CheckpointUnsupported
from models.layouts.naming import PARTS, SCALE, Naming, join
from models.layouts.profiles import profile_named
from models.layouts.source import Reading, Source
from models.layouts.timm import config as timm_config
from models.layouts.timm import eva
from models.layouts.timm.family import Architecture

BLOCK = r"blocks\.(?:\d+\.)?(\d+)\."  # DINOv2 trained in chunks has the chunk's number before the block's

KEYS = {
    rf"patch_embed\.proj\.{PARTS}": r"patch_embed.proj.\1",
    r"(cls_token|dist_token|pos_embed)": r"\1",
    r"(?:reg_token|register_tokens)": "reg_token",
    rf"patch_embed\.norm\.{PARTS}": r"embed_norm.\1",
    rf"(norm_pre|norm|fc_norm)\.{PARTS}": r"\1.\2",
    rf"{BLOCK}(norm[12]|attn\.(?:qkv|proj|q_norm|k_norm|norm)|mlp\.(?:fc[12]|norm))\.{PARTS}": r"blocks.\1.\2.\3",
    rf"{BLOCK}attn\.(q|v)_bias": r"blocks.\1.attn.\2.bias",  # of EVA's `qkv`; keys have none
    rf"{BLOCK}attn\.(q|k|v)_proj\.{PARTS}": r"blocks.\1.attn.\2.\3",
    rf"{BLOCK}mlp\.fc1_g\.{PARTS}": r"blocks.\1.mlp.gate.\2",
    rf"{BLOCK}mlp\.fc1_x\.{PARTS}": r"blocks.\1.mlp.value.\2",
    rf"{BLOCK}mlp\.w12\.{PARTS}": r"blocks.\1.mlp.fc1.\2",  # DINOv2's SwiGLU
    rf"{BLOCK}mlp\.w3\.{PARTS}": r"blocks.\1.mlp.fc2.\2",
    rf"{BLOCK}(?:ls([12])\.{SCALE}|gamma_([12]))": r"blocks.\1.ls\2\3.gamma",  # the second pattern is DeiT-III's
    rf"{BLOCK}attn\.(?:rel_pos\.)?relative_position_bias_table": r"blocks.\1.relative.table",
    rf"{BLOCK}attn\.rel_pos\.mlp\.(fc[12])\.{PARTS}": r"blocks.\1.relative.\2.\3",
    r"(?:rel_pos_bias|shared_rel_pos)\.relative_position_bias_table": "relative.table",
    rf"shared_rel_pos\.mlp\.(fc[12])\.{PARTS}": r"relative.\1.\2",
    rf"pre_logits\.fc\.{PARTS}": r"projection.\1",
    r"rope\.freqs": "rotary.frequencies",
    r"attn_pool\.latent": "attn_pool.latent",
    r"embeds\.(cls_token|reg_token|pos_embed(?:_[yx])?)": r"\1",  # NaFlex
    rf"embeds\.proj\.{PARTS}": r"patch_embed.proj.\1",
    rf"attn_pool\.(?:mlp\.)?(q|kv|proj|norm|fc[12])\.{PARTS}": r"attn_pool.\1.\2",
    rf"(head|head_dist)\.{PARTS}": r"\1.\2",
    rf"head\.1\.{PARTS}": r"head.\1",  # MAE's linear probe: a BatchNorm, then the head
    r"head\.0\.(running_mean|running_var)": r"head_norm.\1",
}
IGNORED = {
    r"mask_token": "mask token, used only in training",
    r"decoder_.*": "MAE's decoder",
    r"head\.(?:mlp|last_layer)\..*|(?:dino|ibot)_head\..*": "projection head of self-supervised training",
    r"head\.0\.num_batches_tracked": "counter of batches",
    r".*\.relative_position_index": "indices of relative positions",
    r"lm_head\..*": "head of masked-image training",
}
NAMING = Naming(KEYS, ("patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.proj.weight"), IGNORED)

PROJECTIONS = (512, 640, 768, 1024, 1280)
"""Widths of CLIP's published projections, which timm stores as the head."""


def recognises(source: Source) -> bool:
    """Return whether config.json names an architecture and the tensors have timm's names."""
    return "architecture" in source.config and NAMING.recognises(source.tensors)


def read(source: Source) -> Reading:
    """Read the tensors and config.json."""
    config = source.config
    named = timm_config.architecture(config)
    family, act = named.family, timm_config.act(config, named)
    tensors, left_out = NAMING.translate(source.tensors)
    join_projections(tensors)
    if family.naflex:
        _read_naflex(tensors)
    elif tensors["patch_embed.proj.weight"].dim() == 2:
        raise CheckpointUnsupported(f"{named.name} with linear patches (use_naflex of timm) is not supported")
    names, section = timm_config.names(config), timm_config.section(config)
    unnamed = not section and family.projects and names is None
    if section.get("head") == "projection" or (unnamed and _is_projection(tensors)):
        tensors = {re.sub(r"^head\.", "projection.", key): tensor for key, tensor in tensors.items()}
    profile, reason = _profile(named, section)
    tag = str(timm_config.pretrained(config).get("tag") or "")
    return Reading(
        layout="timm",
        profile=profile,
        tensors=tensors,
        image_size=timm_config.image_size(config),
        num_heads=timm_config.num_heads(config, named),
        act=act,
        norm_type=family.norm_type,
        norm_eps=section.get("norm_eps") or family.norm_eps,
        norm_post=family.norm_post,
        rotary=eva.changed(family.rotary, section.get("rotary") or {}),
        pool=timm_config.pool(config) if "dist_token" not in tensors else None,
        pool_heads=timm_config.arguments(config).get("attn_pool_num_heads") or family.pool_heads,
        pool_prefix=family.pool_prefix or bool(timm_config.arguments(config).get("pool_include_prefix")),
        projection_tanh=not family.projects and not section,
        expected=timm_config.expected(config, named, "head.weight" in tensors),
        preprocess=timm_config.preprocess(config),
        names=names,
        multi_label=bool(section.get("multi_label")),
        label_offset=int(timm_config.pretrained(config).get("label_offset") or 0),
        imagenet=re.search(r"(^|_)in1k($|_)", tag) is not None,
        reasons={"profile": reason, "preprocess": "config.json", "left out": left_out} | _reasons(config, named),
    )


def _reasons(config: Mapping[str, Any], named: Architecture) -> dict[str, str]:
    states_heads = "num_heads" in timm_config.arguments(config)
    return {
        "layout": f"config.json names timm's architecture {named.name!r}, and the tensors have timm's names",
        "num_heads": "model_args in config.json" if states_heads else f"timm's architecture {named.name}",
    }


def join_projections(tensors: dict[str, Tensor]) -> None:
    """Join the parts of projections that EVA, DINOv3 and AIMv2 store separately, in place.

    Keys and values that several heads share (grouped queries, Ainslie et al. 2023, arXiv 2305.13245) are repeated for
    each head.
    """
    for key in [key for key in tensors if re.fullmatch(r"blocks\.\d+\.attn\.[kv]\.(weight|bias)", key)]:
        queries = tensors.get(re.sub(r"\.[kv]\.", ".q.", key), tensors[key])
        if len(queries) > len(tensors[key]) and (width := _head_width(tensors, key)):
            groups = len(queries) // len(tensors[key])
            tensors[key] = tensors[key].unflatten(0, (-1, width)).repeat_interleave(groups, dim=0).flatten(0, 1)
    join(tensors, ("attn.q", "attn.k", "attn.v"), "attn.qkv", zeros="attn.k")
    join(tensors, ("mlp.gate", "mlp.value"), "mlp.fc1")


def _head_width(tensors: Mapping[str, Tensor], key: str) -> int | None:
    """Return the width of a head, by the norm on its queries; None: nothing shows it."""
    norm = tensors.get(re.sub(r"\.[kv]\.\w+$", ".q_norm.weight", key))
    return len(norm) if norm is not None else None


def _read_naflex(tensors: dict[str, Tensor]) -> None:
    """Bring linear patches, in the order (row, column, channel), and tables of rows and of columns into form, in place.

    The two tables are resampled linearly and then added, which is the same as adding them and resampling bilinearly.
    """
    weight = tensors["patch_embed.proj.weight"]
    if weight.dim() == 2:
        side = math.isqrt(weight.shape[1] // 3)
        if weight.shape[1] != 3 * side * side:
            raise CheckpointUnsupported(f"patches of {weight.shape[1]} numbers are not square and RGB")
        tensors["patch_embed.proj.weight"] = weight.unflatten(1, (side, side, 3)).permute(0, 3, 1, 2)
    if "pos_embed_y" in tensors and "pos_embed_x" in tensors:
        rows, columns = tensors.pop("pos_embed_y").float(), tensors.pop("pos_embed_x").float()  # (1, gh, D), (1, gw, D)
        tensors["pos_embed"] = rows[:, :, None] + columns[:, None]


def _profile(named: Architecture, section: Mapping[str, Any]) -> tuple[str, str]:
    """Return the original and the reason."""
    if "profile" in section:
        profile_named(str(section["profile"]))
        return str(section["profile"]), "config.json names it, as `vitrine convert` wrote it"
    if named.family.profile != "timm":
        return (
            named.family.profile,
            f"config.json names a {named.family_name}, which resamples positions by its own rule",
        )
    return "timm", "config.json is in timm's format, so the original is timm"


def _is_projection(tensors: dict[str, Tensor]) -> bool:
    """Return whether the head is CLIP's projection: a published width, and no bias, which every classifier has."""
    head, bias = tensors.get("head.weight"), tensors.get("head.bias")
    return head is not None and head.shape[0] in PROJECTIONS and (bias is None or not bias.any())
