"""What a `config.json` of timm says: of the network, of pixels, of classes.

Source: huggingface/pytorch-image-models, `timm/models/_hub.py`, `_pretrained.py` and `timm/data/config.py`.
The same fields, without an architecture, describe a bare file beside which such a config.json was laid.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from models.errors import CheckpointBroken, CheckpointUnsupported
from models.network.config import Activation
from models.network.pooling import Pool
from models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocess, Steps

Config = Mapping[str, Any]

SYNSET = re.compile(r"n\d{8}")

POOLS: dict[str, Pool] = {"token": "cls", "avg": "avg", "max": "max", "avgmax": "avgmax"}
SECTION = "vitrine"
"""The part of a config.json that timm passes over: what `convert` keeps that timm has no argument for."""

STEPS: dict[str, Steps] = {"center": "crop", "squash": "squash", "border": "border"}
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
}

# Of the architecture's name: what neither the tensors nor the config show. The first that matches counts.
ACT_OF_NAME: dict[str, Activation] = {
    "_clip_quickgelu_": "quick_gelu",
    "so400m_patch16_siglip|giantopt_patch16_siglip|base_patch32_siglip|large_patch16_siglip_(gap_)?512": "gelu_tanh",
}
EPS_OF_NAME = {"_clip_|^beit3_": 1e-5}
HEADS_OF_NAME = {"^test_vit2?(\\.|$)": 2, "^vit_base_patch16_gap_224": 16, "^vit_base_patch\\d+_siglip_gap": 12}
DEPTH_OF_NAME = {
    "36x1": 36,
    "_(tiny|small|base|medium|betwixt)(_|$)": 12,
    "_(little|dlittle|wee|dwee)_": 14,
    "_xsmall_": 10,
    "_mediumd_": 20,
    "_so150m_": 18,
    "_so150m2_": 21,
    "_so400m_": 27,
    "_(large|intern300m)_": 24,
    "_huge_": 32,
    "_(giant|giantopt)_": 40,
    "_gigantic_": 48,
}

# Networks under names of `vision_transformer` whose tensors look like a plain one's and which compute something else.
FOREIGN_NAMES = {"_rpn_": "norms after the residual steps", "radio": "RADIO's patch generator"}

# Arguments of timm's constructor that the tensors show, that do nothing at inference, or that are read here.
UNDERSTOOD = frozenset(
    [
        "img_size",
        "patch_size",
        "in_chans",
        "num_classes",
        "global_pool",
        "embed_dim",
        "depth",
        "num_heads",
        "mlp_ratio",
        "qkv_bias",
        "qk_norm",
        "proj_bias",
        "init_values",
        "class_token",
        "pos_embed",
        "no_embed_class",
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
    ]
)


def pretrained(config: Config) -> Config:
    """The part on pixels; old configs are flat and keep it at the top."""
    return config.get("pretrained_cfg") or config


def arguments(config: Config) -> Config:
    """What the constructor is told beyond the architecture's name."""
    return config.get("model_args") or {}


def of_name(table: Mapping[str, Any], architecture: str, default: Any = None) -> Any:
    """What a table of patterns says of an architecture."""
    return next((value for pattern, value in table.items() if re.search(pattern, architecture)), default)


def check(config: Config) -> None:
    """Raise CheckpointUnsupported for a network that timm builds and this one cannot be."""
    architecture = str(config["architecture"])
    if foreign := of_name(FOREIGN_NAMES, architecture):
        raise CheckpointUnsupported(f"{architecture} has {foreign}, which is not supported")
    unknown = set(arguments(config)) - UNDERSTOOD
    if unknown:
        raise CheckpointUnsupported(f"{architecture}: model_args has {min(unknown)!r}, which is not supported")
    if arguments(config).get("pos_embed", "learn") != "learn":
        raise CheckpointUnsupported(f"{architecture}: model_args has pos_embed {arguments(config)['pos_embed']!r}")


def pool(config: Config) -> Pool | None:
    """What the head reads; None leaves it to the tensors."""
    name = arguments(config).get("global_pool") or config.get("global_pool")
    if not name:
        return None
    if name not in POOLS:
        raise CheckpointUnsupported(f"pools by {name!r}, which is not supported; {', '.join(POOLS)} are")
    return "avg_all" if name == "avg" and arguments(config).get("pool_include_prefix") else POOLS[name]


def section(config: Config) -> Config:
    """What `convert` kept of the original."""
    return config.get(SECTION) or {}


def act(config: Config) -> Activation | None:
    """The activation that the config or the architecture's name tells."""
    named = arguments(config).get("act_layer")
    if named is not None and named not in ACTIVATIONS:
        raise CheckpointUnsupported(f"act_layer is {named!r}; {', '.join(ACTIVATIONS)} are supported")
    return ACTIVATIONS[named] if named else of_name(ACT_OF_NAME, str(config["architecture"]), "gelu")


def image_size(config: Config) -> tuple[int, int] | None:
    """The picture that the position table was made for, or None."""
    size = arguments(config).get("img_size")
    if size is None and pretrained(config).get("input_size"):
        size = pretrained(config)["input_size"][1:]
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def expected(config: Config, head: bool) -> dict[str, Any]:
    """Sizes that the config states or its architecture's name implies, to be held against the tensors."""
    architecture, told = str(config["architecture"]), arguments(config)
    patch = told.get("patch_size") or _number(r"_patch(\d+)(?:_|$)", architecture)
    registers = told.get("reg_tokens") or _number(r"_reg(\d+)_", architecture)
    return {
        "embed_dim": told.get("embed_dim"),
        "depth": told.get("depth") or of_name(DEPTH_OF_NAME, architecture),
        "patch_size": (patch, patch) if isinstance(patch, int) else patch and tuple(patch),
        "num_extra_tokens": registers,
        "num_classes": config.get("num_classes", pretrained(config).get("num_classes")) if head else None,
    }


def _number(pattern: str, architecture: str) -> int | None:
    return int(match[1]) if (match := re.search(pattern, architecture)) else None


def describes_pixels(config: Config) -> bool:
    """Whether there is anything on pixels in it."""
    return any(key in pretrained(config) for key in ("input_size", "mean", "std", "interpolation", "crop_pct"))


def preprocess(config: Config) -> Preprocess:
    """`resolve_data_config` of timm, with its defaults."""
    part = pretrained(config)
    channels, height, width = part.get("input_size") or (3, 224, 224)
    if channels != 3:
        raise CheckpointUnsupported(f"input_size has {channels} channels; pictures have three")
    mode, interpolation = part.get("crop_mode") or "center", part.get("interpolation") or "bicubic"
    if mode not in STEPS:
        raise CheckpointUnsupported(f"crop_mode is {mode!r}; {', '.join(STEPS)} are supported")
    if interpolation not in FILTERS:
        raise CheckpointUnsupported(f"interpolation is {interpolation!r}; {', '.join(FILTERS)} are supported")
    return Preprocess(
        input_size=(int(height), int(width)),
        steps=STEPS[mode],
        crop_pct=float(part.get("crop_pct") or 0.875),
        interpolation=cast(Interpolation, interpolation),
        mean=channel_values(part.get("mean"), IMAGENET_MEAN),
        std=channel_values(part.get("std"), IMAGENET_STD),
        crop_rounding=section(config).get("crop_rounding") or "even",
    )


def channel_values(values: Any, default: tuple[float, float, float]) -> tuple[float, float, float]:
    """Three numbers of a config; one number stands for all three."""
    if values is None:
        return default
    values = [values] * 3 if isinstance(values, int | float) else list(values)
    if len(values) != 3:
        raise CheckpointBroken(f"mean and std want three numbers, the config has {values}")
    return float(values[0]), float(values[1]), float(values[2])


def names(config: Config) -> tuple[str, ...] | None:
    """The classes' names; None where there are none."""
    found = config.get("label_names") or pretrained(config).get("label_names") or config.get("labels")
    if not found:
        return None
    if isinstance(found, Mapping):
        found = [found.get(str(index), str(index)) for index in range(len(found))]
    # Where the names are WordNet ids, the descriptions are what a person calls them.
    descriptions = config.get("label_descriptions") or {}
    return tuple(str(descriptions.get(name, name) if SYNSET.fullmatch(str(name)) else name) for name in found)
