"""timm's `vision_transformer`: a hub directory of `config.json` and weights, or what `save_for_hf` wrote.

Source: huggingface/pytorch-image-models, `timm/models/vision_transformer.py`, `deit.py` and `_hub.py`.
The network uses the same names, and so do facebookresearch's DINO, DINOv2, DeiT and MAE (`facebook.py`).
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.layouts.naming import PARTS, Naming
from models.layouts.profiles import profile_named
from models.layouts.source import Reading, Source
from models.layouts.timm import config as timm_config

BLOCK = r"blocks\.(?:\d+\.)?(\d+)\."  # DINOv2 trained in chunks has the chunk's number before the block's

KEYS = {
    rf"patch_embed\.proj\.{PARTS}": r"patch_embed.proj.\1",
    r"(cls_token|dist_token|pos_embed)": r"\1",
    r"(?:reg_token|register_tokens)": "reg_token",
    rf"(norm_pre|norm|fc_norm)\.{PARTS}": r"\1.\2",
    rf"{BLOCK}(norm[12]|attn\.(?:qkv|proj|q_norm|k_norm)|mlp\.fc[12])\.{PARTS}": r"blocks.\1.\2.\3",
    rf"{BLOCK}mlp\.w12\.{PARTS}": r"blocks.\1.mlp.fc1.\2",  # DINOv2's SwiGLU
    rf"{BLOCK}mlp\.w3\.{PARTS}": r"blocks.\1.mlp.fc2.\2",
    rf"{BLOCK}(?:ls([12])\.gamma|gamma_([12]))": r"blocks.\1.ls\2\3.gamma",  # the second pattern is DeiT-III's
    rf"pre_logits\.fc\.{PARTS}": r"projection.\1",
    rf"(head|head_dist)\.{PARTS}": r"\1.\2",
    rf"head\.1\.{PARTS}": r"head.\1",  # MAE's linear probe: a BatchNorm, then the head
    r"head\.0\.(running_mean|running_var)": r"head_norm.\1",
}
IGNORED = {
    r"mask_token": "mask token, used only in training",
    r"decoder_.*": "MAE's decoder",
    r"head\.(?:mlp|last_layer)\..*|(?:dino|ibot)_head\..*": "projection head of self-supervised training",
    r"head\.0\.num_batches_tracked": "counter of batches",
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
    timm_config.check(config)
    architecture, arguments = str(config["architecture"]), timm_config.arguments(config)
    tensors, left_out = NAMING.translate(source.tensors)
    names, section = timm_config.names(config), timm_config.section(config)
    clip = "_clip_" in architecture
    if section.get("head") == "projection" or (not section and clip and names is None and _is_projection(tensors)):
        tensors = {re.sub(r"^head\.", "projection.", key): tensor for key, tensor in tensors.items()}
    heads = arguments.get("num_heads") or timm_config.by_name(timm_config.HEADS_BY_NAME, architecture)
    profile, reason = _profile(architecture, section)
    tag = str(timm_config.pretrained(config).get("tag") or "")
    return Reading(
        layout="timm",
        profile=profile,
        tensors=tensors,
        image_size=timm_config.image_size(config),
        num_heads=int(heads) if heads else None,
        act=timm_config.act(config),
        norm_eps=section.get("norm_eps") or timm_config.by_name(timm_config.EPS_BY_NAME, architecture, 1e-6),
        pool=timm_config.pool(config) if "dist_token" not in tensors else None,
        projection_tanh=not clip and not section,
        expected=timm_config.expected(config, "head.weight" in tensors),
        preprocess=timm_config.preprocess(config),
        names=names,
        multi_label=bool(section.get("multi_label")),
        label_offset=int(timm_config.pretrained(config).get("label_offset") or 0),
        imagenet=re.search(r"(^|_)in1k($|_)", tag) is not None,
        reasons={
            "layout": f"config.json names timm's architecture {architecture!r}, and the tensors have timm's names",
            "profile": reason,
            "num_heads": "model_args in config.json"
            if "num_heads" in arguments
            else f"timm's architecture {architecture}",
            "preprocess": "config.json",
            "left out": left_out,
        },
    )


def _profile(architecture: str, section: Mapping[str, Any]) -> tuple[str, str]:
    """Return the original and the reason."""
    if "profile" in section:
        profile_named(str(section["profile"]))
        return str(section["profile"]), "config.json names it, as `vitrine convert` wrote it"
    if architecture.startswith("flexivit"):
        return "flexivit", "config.json names a flexivit, which resamples positions by its own rule"
    return "timm", "config.json is in timm's format, so the original is timm"


def _is_projection(tensors: dict[str, Tensor]) -> bool:
    """Return whether the head is CLIP's projection: a published width, and no bias, which every classifier has."""
    head, bias = tensors.get("head.weight"), tensors.get("head.bias")
    return head is not None and head.shape[0] in PROJECTIONS and (bias is None or not bias.any())
