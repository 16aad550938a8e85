"""The vision tower of OpenAI's CLIP and of open_clip, and a timm network inside open_clip.

Sources: openai/CLIP `clip/model.py`, mlfoundations/open_clip `transformer.py`, `timm_model.py` and `transform.py`.
The projection is stored as [in, out] and has no bias.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.naming import PARTS, SCALE, Naming
from models.layouts.profiles import PROFILES
from models.layouts.source import Reading, Source
from models.layouts.timm import layout as timm
from models.layouts.timm.config import channel_values
from models.layouts.timm.file_names import contradiction
from models.preprocess import CLIP_MEAN, CLIP_STD, Interpolation, Preprocess, Steps

BLOCK = r"transformer\.resblocks\.(\d+)\."

TOWER = {
    r"conv1\.weight": "patch_embed.proj.weight",
    r"class_embedding": "cls_token",
    r"positional_embedding": "pos_embed",
    rf"ln_pre\.{PARTS}": r"norm_pre.\1",
    rf"{BLOCK}ln_([12])\.{PARTS}": r"blocks.\1.norm\2.\3",
    rf"{BLOCK}attn\.in_proj_{PARTS}": r"blocks.\1.attn.qkv.\2",
    rf"{BLOCK}attn\.out_proj\.{PARTS}": r"blocks.\1.attn.proj.\2",
    rf"{BLOCK}ls_([12])\.{SCALE}": r"blocks.\1.ls\2.gamma",
    rf"{BLOCK}mlp\.c_fc\.{PARTS}": r"blocks.\1.mlp.fc1.\2",
    rf"{BLOCK}mlp\.c_proj\.{PARTS}": r"blocks.\1.mlp.fc2.\2",
    rf"ln_post\.{PARTS}": r"norm.\1",
    r"proj": "projection.weight",
}
TRUNK = {rf"trunk\.{pattern}": name for pattern, name in timm.KEYS.items()} | {
    rf"head\.proj\.{PARTS}": r"projection.\1",
}
TEXT = {
    r"(?:transformer|token_embedding|ln_final|text)\..*|text_projection|positional_embedding": "text tower",
    r"logit_scale|logit_bias|input_resolution|context_length|vocab_size": "scalars of both towers",
}
SIGNATURE = ("patch_embed.proj.weight", "cls_token", "blocks.0.attn.qkv.weight")
OUTER = ("_orig_mod.", "module.", "model.")


def _with_text_tower(tower: Mapping[str, str]) -> Naming:
    """Return the names for a file of both towers, where keys of the vision tower start with `visual.`."""
    return Naming({rf"visual\.{pattern}": name for pattern, name in tower.items()}, SIGNATURE, TEXT, OUTER)


NAMINGS = (_with_text_tower(TOWER), _with_text_tower(TRUNK), Naming(TOWER, SIGNATURE, {}, OUTER))

TRUNK_PREFIX = "visual.trunk."
MODES: dict[str, Steps] = {"shortest": "crop", "squash": "squash"}


def recognises(source: Source) -> bool:
    """Return whether the names are those of OpenAI's CLIP or open_clip."""
    return bool(timm_name(source)) or any(naming.recognises(source.tensors) for naming in NAMINGS)


def read(source: Source) -> Reading:
    """Read the vision tower and open_clip_config.json, if there is one."""
    if timm_name(source):
        return _read_trunk(source)
    naming = next(naming for naming in NAMINGS if naming.recognises(source.tensors))
    tensors, left_out = naming.translate(source.tensors)
    if naming is not NAMINGS[1]:
        if "projection.weight" not in tensors:
            raise CheckpointBroken("tensor 'proj' of the vision tower is missing")
        tensors["projection.weight"] = tensors["projection.weight"].T
    openai = any(key.endswith("input_resolution") for key in source.tensors) or (
        tensors["patch_embed.proj.weight"].dtype == torch.float16 and not source.open_clip
    )
    profile = "openai-clip" if openai else "open_clip"
    model = source.open_clip.get("model_cfg") or {}
    vision = _vision(source)
    _check(vision)
    width = vision.get("head_width")
    return Reading(
        layout="open_clip",
        profile=profile,
        tensors=tensors,
        num_heads=tensors["patch_embed.proj.weight"].shape[0] // int(width) if width else None,
        act="quick_gelu" if model.get("quick_gelu") else ("gelu" if model else None),
        contradiction="" if model else contradiction(source.path, PROFILES[profile].act),
        norm_eps=1e-6 if naming is NAMINGS[1] and "norm_pre.weight" not in tensors else 1e-5,
        pool="cls",
        projection_tanh=False,
        preprocess=_preprocess(source.open_clip["preprocess_cfg"], vision)
        if "preprocess_cfg" in source.open_clip
        else None,
        reasons=_reasons(source, openai, naming is NAMINGS[1]) | {"left out": left_out},
    )


def _reasons(source: Source, openai: bool, trunk: bool) -> dict[str, str]:
    states_heads = _vision(source).get("head_width")
    return {
        "assumed": "" if source.open_clip.get("model_cfg") else _assumption(openai),
        "layout": "the tensors have the names of OpenAI's CLIP and open_clip"
        + (", with a timm network inside" if trunk else ""),
        "profile": "half precision or the tensor 'input_resolution' mark OpenAI's own files"
        if openai
        else "neither half precision nor 'input_resolution', which mark OpenAI's own files",
        "num_heads": "head_width in open_clip_config.json" if states_heads else "",
        "preprocess": "open_clip_config.json" if "preprocess_cfg" in source.open_clip else "",
    }


def _assumption(openai: bool) -> str:
    """Return what is assumed of a tower without open_clip_config.json, whose tensors do not show its activation."""
    taken, other = ("QuickGELU", "open_clip for GELU") if openai else ("GELU", "openai-clip for QuickGELU")
    return f"no open_clip_config.json says the activation, so it is taken to be {taken}; set profile to {other}"


def timm_name(source: Source) -> str:
    """Return timm's name of the architecture inside an open_clip model; empty if open_clip_config.json names none."""
    return str(_vision(source).get("timm_model_name") or "")


def _vision(source: Source) -> Mapping[str, Any]:
    return (source.open_clip.get("model_cfg") or {}).get("vision_cfg") or {}


def _read_trunk(source: Source) -> Reading:
    """Read a network of timm inside open_clip: what timm's table says of its name, and open_clip's own projection.

    Without a projection of open_clip's own, the head of the network is the projection.
    """
    vision, name = _vision(source), timm_name(source)
    if name.startswith("naflexvit"):
        raise CheckpointUnsupported(f"open_clip_config.json: {name!r} is not supported; transformers has it as siglip2")
    own, trunk, left_out = _split(source.tensors)
    size = vision.get("image_size")
    config = {
        "architecture": name,
        "global_pool": vision.get("timm_pool") or None,
        "model_args": {"img_size": size} if size else {},
    }
    reading = timm.read(replace(source, tensors=trunk, config=config))
    tensors = {re.sub(r"^head\.", "projection.", key): tensor for key, tensor in reading.tensors.items()}
    if own and "projection.weight" in tensors:
        raise CheckpointBroken("both open_clip and the network inside have a projection")
    has_preprocess = "preprocess_cfg" in source.open_clip
    return replace(
        reading,
        layout="open_clip",
        tensors=tensors | own,
        projection_tanh=False,
        expected={key: value for key, value in reading.expected.items() if key != "num_classes"},
        preprocess=_preprocess(source.open_clip["preprocess_cfg"], vision) if has_preprocess else reading.preprocess,
        reasons=dict(reading.reasons)
        | {
            "layout": f"open_clip_config.json names timm's architecture {name!r}",
            "profile": "open_clip runs timm's network, so the original is timm",
            "preprocess": "open_clip_config.json" if has_preprocess else "timm's default",
            "left out": left_out,
        },
    )


def _split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """Return open_clip's own projection, the tensors of the network inside, and a description of the others."""
    own, trunk, other = {}, {}, {}
    for key, tensor in tensors.items():
        bare = next((key.removeprefix(prefix) for prefix in OUTER if key.startswith(prefix)), key)
        if bare.startswith(TRUNK_PREFIX):
            trunk[bare.removeprefix(TRUNK_PREFIX)] = tensor
        elif match := re.fullmatch(rf"visual\.head\.proj\.{PARTS}", bare):
            own[f"projection.{match[1]}"] = tensor
        else:
            other[bare] = tensor
    _, left_out = Naming({}, (), TEXT, ()).translate(other)
    return own, trunk, left_out


def _check(vision: Mapping[str, Any]) -> None:
    """Raise CheckpointUnsupported for variants of open_clip that the network does not support."""
    for key, supported in (
        ("pool_type", "tok"),
        ("final_ln_after_pool", False),
        ("no_ln_pre", False),
        ("attentional_pool", False),
    ):
        if vision.get(key, supported) != supported:
            raise CheckpointUnsupported(f"open_clip_config.json: {key} {vision[key]!r} is not supported")


def _preprocess(fields: Mapping[str, Any], vision: Mapping[str, Any]) -> Preprocess:
    size = fields.get("size") or vision.get("image_size") or 224
    mode, interpolation = fields.get("resize_mode") or "shortest", fields.get("interpolation") or "bicubic"
    if mode not in MODES or interpolation not in ("bicubic", "bilinear"):
        raise CheckpointUnsupported(
            f"open_clip_config.json: resize_mode {mode!r} with interpolation {interpolation!r} is not supported"
        )
    height, width = (size, size) if isinstance(size, int) else (size[0], size[1])
    return Preprocess(
        input_size=(int(height), int(width)),
        steps=MODES[mode],
        crop_pct=1.0,
        interpolation=cast(Interpolation, interpolation),
        mean=channel_values(fields.get("mean"), CLIP_MEAN),
        std=channel_values(fields.get("std"), CLIP_STD),
    )
