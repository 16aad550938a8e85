"""Read transformers' configs: `config.json` (network, labels) and `preprocessor_config.json` (preprocessing).

Source: huggingface/transformers, `configuration_*.py` and `image_processing_*.py` of each model. A missing field has
the default of its class, and defaults differ between classes.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, cast

from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.timm.config import channel_values
from models.network.config import Activation
from models.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    INCEPTION_MEAN,
    INCEPTION_STD,
    Interpolation,
    Preprocess,
    Steps,
)

Config = Mapping[str, Any]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
}
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # in the order of Pillow's numbers

VIT: dict[str, Any] = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_attention_heads": 12, "image_size": 224}
BEIT: dict[str, Any] = VIT | {
    "use_mean_pooling": True,
    "use_absolute_position_embeddings": False,
    "use_relative_position_bias": False,
    "use_shared_relative_position_bias": False,
}
SIGLIP: dict[str, Any] = VIT | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "vision_use_head": True}
NAFLEX: dict[str, Any] = SIGLIP | {"image_size": None, "num_patches": 256, "patch_size": 16}
AIMV2: dict[str, Any] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "num_attention_heads": 8,
    "image_size": 224,
    "patch_size": 14,
    "is_native": False,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "deit": VIT,
    "vit_mae": VIT,
    "ijepa": VIT,
    "vit_msn": VIT | {"layer_norm_eps": 1e-6},
    "dinov2": VIT | {"layer_norm_eps": 1e-6},
    "dinov2_with_registers": VIT | {"layer_norm_eps": 1e-6},
    "dinov3_vit": {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "num_attention_heads": 6,
        "image_size": 224,
        "rope_theta": 100.0,
        "query_bias": True,
        "key_bias": False,
        "value_bias": True,
        "use_gated_mlp": False,
        "num_register_tokens": 0,
    },
    "clip": VIT | {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "clip_vision_model": VIT | {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip": SIGLIP,
    "siglip_vision_model": SIGLIP,
    "siglip2": NAFLEX,
    "siglip2_vision_model": NAFLEX,
    "aimv2": AIMV2,
    "aimv2_vision_model": AIMV2,
    "beit": BEIT,
    "data2vec-vision": BEIT,
}
"""Defaults of the config classes, by model_type. Width and depth come from the tensors."""

SQUASHED: dict[str, Any] = {"resample": 2, "size": {"height": 224, "width": 224}, "do_center_crop": False}
EDGE: dict[str, Any] = {"resample": 3, "size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViTImageProcessor": SQUASHED,
    "DeiTImageProcessor": EDGE | {"size": {"height": 256, "width": 256}},
    "BitImageProcessor": EDGE | {"image_mean": CLIP_MEAN, "image_std": CLIP_STD},
    "CLIPImageProcessor": EDGE | {"image_mean": CLIP_MEAN, "image_std": CLIP_STD},
    "SiglipImageProcessor": SQUASHED | {"resample": 3},
    "Siglip2ImageProcessor": {"resample": 2, "max_num_patches": 256},
    "DINOv3ViTImageProcessor": SQUASHED | {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
    "BeitImageProcessor": SQUASHED | {"resample": 3},
}
DEFAULT_PROCESSORS = {
    "vit": "ViTImageProcessor",
    "vit_msn": "ViTImageProcessor",
    "vit_mae": "ViTImageProcessor",
    "ijepa": "ViTImageProcessor",
    "deit": "DeiTImageProcessor",
    "dinov2": "BitImageProcessor",
    "dinov2_with_registers": "BitImageProcessor",
    "dinov3_vit": "DINOv3ViTImageProcessor",
    "clip": "CLIPImageProcessor",
    "clip_vision_model": "CLIPImageProcessor",
    "siglip": "SiglipImageProcessor",
    "siglip_vision_model": "SiglipImageProcessor",
    "siglip2": "Siglip2ImageProcessor",
    "siglip2_vision_model": "Siglip2ImageProcessor",
    "aimv2": "CLIPImageProcessor",
    "aimv2_vision_model": "CLIPImageProcessor",
    "beit": "BeitImageProcessor",
    "data2vec-vision": "BeitImageProcessor",
}
"""The image processor by model_type, if preprocessor_config.json is missing or names none."""


def network(config: Config) -> Config:
    """Return the fields of the vision network, with the defaults of its config class."""
    if "model_type" not in config:
        raise CheckpointUnsupported(
            "the tensors have transformers' names, so a config.json with model_type is needed in the same folder"
        )
    model_type = str(config["model_type"])
    if model_type not in NETWORKS:
        raise CheckpointUnsupported(
            f"config.json: model_type {model_type!r} is not supported, only {', '.join(NETWORKS)}"
        )
    own = config.get("vision_config") or config
    return {**NETWORKS[model_type], **{key: value for key, value in own.items() if value is not None}}


def act(fields: Config) -> Activation:
    """Return the activation. Raises CheckpointUnsupported."""
    if fields["hidden_act"] not in ACTIVATIONS:
        raise CheckpointUnsupported(
            f"config.json: hidden_act {fields['hidden_act']!r} is not supported, only {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[fields["hidden_act"]]


def pair(value: Any) -> tuple[int, int]:
    """Return (height, width) from one number or two."""
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


def image_size(fields: Config) -> tuple[int, int] | None:
    """Return (height, width) that the position embeddings were trained for; None: they are square."""
    return None if fields["image_size"] is None else pair(fields["image_size"])


def expected(config: Config, head: bool) -> dict[str, Any]:
    """Return the sizes that the config states, to check against the tensors."""
    fields = network(config)
    return {
        "embed_dim": fields.get("hidden_size"),
        "depth": fields.get("num_hidden_layers"),
        "mlp_hidden_dim": fields.get("intermediate_size"),
        "patch_size": pair(fields["patch_size"]) if "patch_size" in fields else None,
        "num_classes": config.get("num_labels") or len(config.get("id2label") or ()) or None if head else None,
    }


def names(config: Config) -> tuple[str, ...] | None:
    """Return the labels in order, or None if they are transformers' placeholders (`LABEL_0`, ...)."""
    by_index = config.get("id2label") or {}
    if isinstance(by_index, list):
        by_index = {str(index): name for index, name in enumerate(by_index)}
    if not isinstance(by_index, Mapping):
        raise CheckpointBroken(f"config.json: id2label is {by_index!r}, neither an object by index nor a list")
    try:
        found = tuple(str(by_index[str(index)]) for index in range(len(by_index)))
    except KeyError as error:
        raise CheckpointBroken(
            f"config.json: id2label has {len(by_index)} labels, but none for class {error.args[0]}"
        ) from error
    unset = all(name == f"LABEL_{index}" for index, name in enumerate(found))
    return None if unset else found


def preprocess(config: Config, processor: Config) -> tuple[Preprocess, str]:
    """Return the preprocessing of the image processor, with the defaults of its class, and the reason."""
    name, reason = _processor(config, processor)
    if name == "Siglip2ImageProcessor":
        return _by_patches(network(config), processor), reason
    defaults = PROCESSORS[name]
    fields = {**defaults, "default_size": defaults["size"], **processor}
    if fields.get("do_resize") is False:
        raise CheckpointUnsupported(
            "preprocessor_config.json: do_resize false is not supported, because pictures of any size must be resized"
        )
    steps, side, crop = _geometry(fields)
    mean, std = _scale(fields)
    return Preprocess(
        input_size=crop,
        steps=steps,
        crop_pct=Fraction(crop[0], side[0]),
        interpolation=_filter(fields),
        crop_rounding="floor",
        mean=mean,
        std=std,
    ), reason


def _by_patches(network: Config, processor: Config) -> Preprocess:
    """Return the preprocessing by a budget of patches, of SigLIP 2 NaFlex."""
    fields = {**PROCESSORS["Siglip2ImageProcessor"], **processor}
    patch = pair(network["patch_size"])
    if pair(fields.get("patch_size", patch)) != patch:
        raise CheckpointUnsupported(
            f"preprocessor_config.json: patch_size {fields['patch_size']!r} is not the network's, {patch[0]}"
        )
    budget = int(fields["max_num_patches"])
    side = math.isqrt(budget)
    mean, std = _scale(fields)
    return Preprocess(
        input_size=(side * patch[0], side * patch[1]),
        steps="fit",
        crop_pct=1.0,
        interpolation=_filter(fields),
        mean=mean,
        std=std,
        max_patches=budget,
    )


def _filter(fields: Config) -> Interpolation:
    resample = fields["resample"]
    if not isinstance(resample, int) or not 0 <= resample < len(FILTERS):
        raise CheckpointUnsupported(
            f"preprocessor_config.json: resample {resample!r} is not a filter of Pillow (0 to 5)"
        )
    return cast(Interpolation, FILTERS[resample])


def _processor(config: Config, processor: Config) -> tuple[str, str]:
    """Return the name of the image processor's class, and the reason."""
    given = processor.get("image_processor_type") or processor.get("feature_extractor_type")
    if not given:
        default = DEFAULT_PROCESSORS[str(config["model_type"])]
        why = "preprocessor_config.json names no class" if processor else "there is no preprocessor_config.json"
        return default, f"{why}, so it is {default}, the default of this model"
    name = str(given).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    if name not in PROCESSORS:
        raise CheckpointUnsupported(
            f"preprocessor_config.json: {given!r} is not supported, only {', '.join(PROCESSORS)}"
        )
    return name, f"preprocessor_config.json names {name}"


def _geometry(fields: Config) -> tuple[Steps, tuple[int, int], tuple[int, int]]:
    """Return the steps, the size to resize to, and the size to crop."""
    size = fields["size"]
    crop = _sides(fields["crop_size"]) if fields["do_center_crop"] else None
    if isinstance(size, Mapping) and "longest_edge" in size:
        raise CheckpointUnsupported("preprocessor_config.json: a size by longest_edge is not supported")
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if isinstance(size, int) and "shortest_edge" in fields["default_size"]:
        shortest = size  # a single number means what the default of the class has
    if shortest is None:
        side = _sides(size)
        crop = crop or side
        if crop[0] * side[1] != crop[1] * side[0]:
            raise CheckpointUnsupported(
                f"preprocessor_config.json: size {side} and crop_size {crop} must have the same aspect ratio"
            )
        return "squash", side, crop
    if crop is None:
        return "edge", (shortest, shortest), (shortest, shortest)
    if crop[0] != crop[1]:
        raise CheckpointUnsupported(
            f"preprocessor_config.json: crop_size {crop} with shortest_edge is not supported; it must be square"
        )
    return "crop", (shortest, shortest), crop


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    return pair(size)


def _scale(fields: Config) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and std on the scale from 0 to 1, for a processor that computes (x f - m) / s of values up to 255."""
    factor = 1.0 if fields.get("do_rescale") is False else float(fields.get("rescale_factor") or 1 / 255)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if fields.get("do_normalize") is not False:
        mean = channel_values(fields.get("image_mean"), INCEPTION_MEAN)
        std = channel_values(fields.get("image_std"), INCEPTION_STD)
    if abs(factor * 255 - 1) < 1e-6:
        return mean, std
    scale = 1 / (255 * factor)
    return (mean[0] * scale, mean[1] * scale, mean[2] * scale), (std[0] * scale, std[1] * scale, std[2] * scale)
