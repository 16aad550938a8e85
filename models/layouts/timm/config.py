"""Read timm's `config.json`: network, preprocessing and labels.

Source: huggingface/pytorch-image-models, `timm/models/_hub.py`, `_pretrained.py` and `timm/data/config.py`.
Users can also write the same fields, without an architecture, for a file of weights that has no config.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.timm.architectures import find
from models.layouts.timm.family import Architecture
from models.network.config import Activation
from models.network.pooling import Pool
from models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocess, Steps

Config = Mapping[str, Any]

SYNSET = re.compile(r"n\d{8}")

POOLS: dict[str, Pool] = {"token": "cls", "avg": "avg", "max": "max", "avgmax": "avgmax", "map": "attention"}
SECTION = "vitrine"
"""The section of config.json that timm ignores: what `vitrine convert` stores that timm has no argument for."""

STEPS: dict[str, Steps] = {"center": "crop", "squash": "squash", "border": "border"}
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
}

RULE_ARGUMENTS = frozenset({"pos_embed_interp_mode", "pos_embed_antialias", "pos_embed_ar_preserving"})
"""NaFlex's rule for position embeddings, which `vitrine convert` states by a profile as well."""

# Arguments of timm's constructor that the tensors show, that have no effect at inference, or that are read here.
SUPPORTED_ARGUMENTS = frozenset(
    [
        "img_size",
        "patch_size",
        "in_chans",
        "num_classes",
        "global_pool",
        "embed_dim",
        "depth",
        "num_heads",
        "num_kv_heads",
        "mlp_ratio",
        "qkv_bias",
        "qk_norm",
        "proj_bias",
        "init_values",
        "class_token",
        "pos_embed",
        "no_embed_class",
        "pos_embed_grid_size",
        *RULE_ARGUMENTS,
        "reg_tokens",
        "pre_norm",
        "final_norm",
        "fc_norm",
        "pool_include_prefix",
        "dynamic_img_size",
        "dynamic_img_pad",
        "strict_img_size",
        "act_layer",
        "drop_rate",
        "pos_drop_rate",
        "patch_drop_rate",
        "proj_drop_rate",
        "attn_drop_rate",
        "drop_path_rate",
        "weight_init",
        "fix_init",
        "scale_attn_norm",
        "scale_mlp_norm",
        "attn_type",
        "qkv_fused",
        "num_reg_tokens",
        "scale_attn_inner",
        "attn_only_layer_scale",
        "use_pre_transformer_norm",
        "use_post_transformer_norm",
        "attn_pool_num_heads",
        "attn_pool_mlp_ratio",
        "use_abs_pos_emb",
        "use_rel_pos_bias",
        "use_shared_rel_pos_bias",
        "use_fc_norm",
        "swiglu_mlp",
        "scale_mlp",
        "head_init_scale",
        "rel_pos_type",
        "rel_pos_dim",
        "shared_rel_pos",
    ]
)


def pretrained(config: Config) -> Config:
    """Return the section on preprocessing; old configs are flat and have its fields at the top level."""
    return config.get("pretrained_cfg") or config


def arguments(config: Config) -> Config:
    """Return the arguments of timm's constructor."""
    return config.get("model_args") or {}


def architecture(config: Config) -> Architecture:
    """Return what the name of the architecture says.

    Raises CheckpointUnsupported for a name that is not served, and for an argument that changes the network in a way
    that is not known.
    """
    named = find(str(config["architecture"]))
    known = SUPPORTED_ARGUMENTS if "profile" in section(config) else SUPPORTED_ARGUMENTS - RULE_ARGUMENTS
    unknown = set(arguments(config)) - known
    if unknown:
        raise CheckpointUnsupported(f"config.json: the argument {min(unknown)!r} in model_args is not supported")
    if arguments(config).get("pos_embed", "learn") != "learn":
        raise CheckpointUnsupported(
            f"config.json: pos_embed {arguments(config)['pos_embed']!r} is not supported, only 'learn'"
        )
    if "swin" in str(arguments(config).get("rel_pos_type")):
        raise CheckpointUnsupported("config.json: rel_pos_type 'mlp_swin' is not supported, only 'mlp' and 'bias'")
    return named


def pool(config: Config) -> Pool | None:
    """Return the pooling of the head, or None if the config does not say."""
    name = arguments(config).get("global_pool")
    name = config.get("global_pool") if name is None else name
    if name is None:
        return None
    if not name:
        raise CheckpointUnsupported(
            "config.json: global_pool '' is not supported: nothing is pooled, and the head reads every token alone; "
            f"choose one of {', '.join(POOLS)}"
        )
    if name not in POOLS:
        raise CheckpointUnsupported(f"config.json: global_pool {name!r} is not supported, only {', '.join(POOLS)}")
    return "avg_all" if name == "avg" and arguments(config).get("pool_include_prefix") else POOLS[name]


def section(config: Config) -> Config:
    """Return the section that `vitrine convert` wrote, or an empty one."""
    return config.get(SECTION) or {}


def act(config: Config, named: Architecture) -> Activation:
    """Return the activation of the config or of the architecture."""
    name = arguments(config).get("act_layer")
    if name is not None and name not in ACTIVATIONS:
        raise CheckpointUnsupported(f"config.json: act_layer {name!r} is not supported, only {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name] if name else named.family.act


def image_size(config: Config) -> tuple[int, int] | None:
    """Return (height, width) that the position embeddings were trained for, or None."""
    size = arguments(config).get("img_size")
    if size is None and pretrained(config).get("input_size"):
        size = pretrained(config)["input_size"][1:]
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def num_heads(config: Config, named: Architecture) -> int:
    """Return the number of attention heads of the config or of the architecture."""
    return int(arguments(config).get("num_heads") or named.num_heads)


def expected(config: Config, named: Architecture, head: bool) -> dict[str, Any]:
    """Return the sizes that the config states or the architecture's name implies, to check against the tensors."""
    args = arguments(config)
    patch = args.get("patch_size") or _number(r"_patch(\d+)(?:_|$)", named.name)
    side = args.get("img_size")
    height, width = (side, side) if isinstance(side, int) else side or (None, None)
    rows, columns = (patch, patch) if isinstance(patch, int) else patch or (None, None)
    registers = args.get("reg_tokens") or _number(r"_reg(\d+)_", named.name)
    return {
        "embed_dim": args.get("embed_dim"),
        "depth": args.get("depth") or named.depth,
        "patch_size": (patch, patch) if isinstance(patch, int) else patch and tuple(patch),
        "num_extra_tokens": registers,
        "grid_size": (height // rows, width // columns) if height and width and rows and columns else None,
        "num_classes": config.get("num_classes", pretrained(config).get("num_classes")) if head else None,
    }


def _number(pattern: str, architecture: str) -> int | None:
    return int(match[1]) if (match := re.search(pattern, architecture)) else None


def has_preprocess(config: Config) -> bool:
    """Return whether the config says anything about preprocessing."""
    return any(key in pretrained(config) for key in ("input_size", "mean", "std", "interpolation", "crop_pct"))


def preprocess(config: Config) -> Preprocess:
    """Return the preprocessing as timm's `resolve_data_config` does, with its defaults."""
    cfg = pretrained(config)
    channels, height, width = cfg.get("input_size") or (3, 224, 224)
    if channels != 3:
        raise CheckpointUnsupported(f"config.json: input_size has {channels} channels; only 3 (RGB) are supported")
    mode, interpolation = cfg.get("crop_mode") or "center", cfg.get("interpolation") or "bicubic"
    if mode not in STEPS:
        raise CheckpointUnsupported(f"config.json: crop_mode {mode!r} is not supported, only {', '.join(STEPS)}")
    if interpolation not in FILTERS:
        raise CheckpointUnsupported(
            f"config.json: interpolation {interpolation!r} is not supported, only {', '.join(FILTERS)}"
        )
    max_patches = section(config).get("max_patches")
    return Preprocess(
        input_size=(int(height), int(width)),
        steps="fit" if max_patches else STEPS[mode],
        max_patches=max_patches,
        crop_pct=float(cfg.get("crop_pct") or 0.875),
        interpolation=cast(Interpolation, interpolation),
        mean=channel_values(cfg.get("mean"), IMAGENET_MEAN),
        std=channel_values(cfg.get("std"), IMAGENET_STD),
        crop_rounding=section(config).get("crop_rounding") or "even",
    )


def channel_values(values: Any, default: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return three numbers of a config; one number stands for all three channels."""
    if values is None:
        return default
    values = [values] * 3 if isinstance(values, int | float) else list(values)
    if len(values) != 3:
        raise CheckpointBroken(f"mean and std must be three numbers, but the config has {values}")
    return float(values[0]), float(values[1]), float(values[2])


def names(config: Config) -> tuple[str, ...] | None:
    """Return the labels of the classes, or None if there are none but placeholders (`LABEL_0`, ...)."""
    found = config.get("label_names") or pretrained(config).get("label_names") or config.get("labels")
    if not found:
        return None
    if not isinstance(found, Mapping | list):
        raise CheckpointBroken(f"config.json: the labels are {found!r}, neither a list nor an object by index")
    if isinstance(found, Mapping):
        found = [found.get(str(index), str(index)) for index in range(len(found))]
    if all(name == f"LABEL_{index}" for index, name in enumerate(found)):  # as transformers' TimmWrapper writes
        return None
    # If the labels are WordNet ids, use the descriptions.
    descriptions = config.get("label_descriptions") or {}
    return tuple(str(descriptions.get(name, name) if SYNSET.fullmatch(str(name)) else name) for name in found)
