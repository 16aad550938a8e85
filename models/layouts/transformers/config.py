"""What transformers' configs say: `config.json` of the network and its classes, `preprocessor_config.json` of pixels.

Source: huggingface/transformers, `configuration_*.py` and `image_processing_*.py` of each model. A missing field
means the default of its class, and the defaults differ between the classes.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, cast

from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.timm.config import channel_values
from models.network.config import Activation
from models.preprocess import CLIP_MEAN, CLIP_STD, INCEPTION_MEAN, INCEPTION_STD, Interpolation, Preprocess, Steps

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
NETWORKS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "deit": VIT,
    "vit_mae": VIT,
    "ijepa": VIT,
    "vit_msn": VIT | {"layer_norm_eps": 1e-6},
    "dinov2": VIT | {"layer_norm_eps": 1e-6},
    "dinov2_with_registers": VIT | {"layer_norm_eps": 1e-6},
    "clip": VIT | {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "clip_vision_model": VIT | {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
}
"""Defaults of the configs' classes. Widths and depths are the tensors' to say."""

SQUASHED: dict[str, Any] = {"resample": 2, "size": {"height": 224, "width": 224}, "do_center_crop": False}
EDGE: dict[str, Any] = {"resample": 3, "size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViTImageProcessor": SQUASHED,
    "DeiTImageProcessor": EDGE | {"size": {"height": 256, "width": 256}},
    "BitImageProcessor": EDGE | {"image_mean": CLIP_MEAN, "image_std": CLIP_STD},
    "CLIPImageProcessor": EDGE | {"image_mean": CLIP_MEAN, "image_std": CLIP_STD},
    "SiglipImageProcessor": SQUASHED | {"resample": 3},
    "DINOv3ViTImageProcessor": SQUASHED,
}
PROCESSOR_OF = {
    "vit": "ViTImageProcessor",
    "vit_msn": "ViTImageProcessor",
    "vit_mae": "ViTImageProcessor",
    "ijepa": "ViTImageProcessor",
    "deit": "DeiTImageProcessor",
    "dinov2": "BitImageProcessor",
    "dinov2_with_registers": "BitImageProcessor",
    "clip": "CLIPImageProcessor",
    "clip_vision_model": "CLIPImageProcessor",
}
"""The processor of a model whose processor file names none, or that has no such file."""


def network(config: Config) -> Config:
    """The fields of the vision network with its class's defaults."""
    if "model_type" not in config:
        raise CheckpointUnsupported("the tensors have transformers' names, whose config.json must lie beside them")
    model_type = str(config["model_type"])
    if model_type not in NETWORKS:
        raise CheckpointUnsupported(f"config.json has model_type {model_type!r}; {', '.join(NETWORKS)} are supported")
    own = config.get("vision_config") or config
    return {**NETWORKS[model_type], **{key: value for key, value in own.items() if value is not None}}


def act(fields: Config) -> Activation:
    """The activation."""
    if fields["hidden_act"] not in ACTIVATIONS:
        raise CheckpointUnsupported(f"hidden_act is {fields['hidden_act']!r}; {', '.join(ACTIVATIONS)} are supported")
    return ACTIVATIONS[fields["hidden_act"]]


def pair(value: Any) -> tuple[int, int]:
    """A side or two sides: (height, width)."""
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


def expected(config: Config, head: bool) -> dict[str, Any]:
    """Sizes that the config states, to be held against the tensors."""
    fields = network(config)
    return {
        "embed_dim": fields.get("hidden_size"),
        "depth": fields.get("num_hidden_layers"),
        "mlp_hidden_dim": fields.get("intermediate_size"),
        "patch_size": pair(fields["patch_size"]) if "patch_size" in fields else None,
        "num_classes": config.get("num_labels") or len(config.get("id2label") or ()) or None if head else None,
    }


def names(config: Config) -> tuple[str, ...] | None:
    """The classes' names in order; None where nobody set them (`LABEL_0`, ...)."""
    by_index = config.get("id2label") or {}
    try:
        found = tuple(str(by_index[str(index)]) for index in range(len(by_index)))
    except KeyError as error:
        raise CheckpointBroken(
            f"config.json: id2label has no {error.args[0]} among its {len(by_index)} names"
        ) from error
    unset = all(name == f"LABEL_{index}" for index, name in enumerate(found))
    return None if unset else found


def preprocess(config: Config, processor: Config) -> tuple[Preprocess, str]:
    """What the image processor does, with its class's defaults, and where that is from."""
    kind, why = _processor(config, processor)
    defaults = PROCESSORS[kind]
    fields = {**defaults, "default_size": defaults["size"], **processor}
    if fields.get("do_resize") is False:
        raise CheckpointUnsupported(
            "preprocessor_config.json has do_resize false: pictures of any size are not supported"
        )
    steps, side, cut = _geometry(fields)
    mean, std = _scale(fields)
    resample = fields["resample"]
    if not isinstance(resample, int) or not 0 <= resample < len(FILTERS):
        raise CheckpointUnsupported(f"preprocessor_config.json has resample {resample!r}, which is no filter of Pillow")
    return Preprocess(
        input_size=cut,
        steps=steps,
        crop_pct=Fraction(cut[0], side[0]),
        interpolation=cast(Interpolation, FILTERS[resample]),
        crop_rounding="floor",
        mean=mean,
        std=std,
    ), why


def _processor(config: Config, processor: Config) -> tuple[str, str]:
    named = processor.get("image_processor_type") or processor.get("feature_extractor_type")
    if not named:
        of_model = PROCESSOR_OF[str(config["model_type"])]
        where = (
            "preprocessor_config.json, which names no class" if processor else "there is no preprocessor_config.json"
        )
        return of_model, f"{where}: {of_model}, the model's own, with its defaults"
    kind = str(named).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    if kind not in PROCESSORS:
        raise CheckpointUnsupported(f"preprocessor_config.json names {named!r}; {', '.join(PROCESSORS)} are supported")
    return kind, f"preprocessor_config.json: {kind}"


def _geometry(fields: Config) -> tuple[Steps, tuple[int, int], tuple[int, int]]:
    """The steps, the sides that the picture is scaled to, and those that are cut out of it."""
    size = fields["size"]
    crop = _sides(fields["crop_size"]) if fields["do_center_crop"] else None
    if isinstance(size, Mapping) and "longest_edge" in size:
        raise CheckpointUnsupported("preprocessor_config.json bounds the longest edge, which is not supported")
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if isinstance(size, int) and "shortest_edge" in fields["default_size"]:
        shortest = size  # a bare number means what the class's own default is
    if shortest is None:
        side = _sides(size)
        cut = crop or side
        if cut[0] * side[1] != cut[1] * side[0]:
            raise CheckpointUnsupported(f"preprocessor_config.json scales to {side} and cuts {cut}, of another shape")
        return "squash", side, cut
    if crop is None:
        return "edge", (shortest, shortest), (shortest, shortest)
    if crop[0] != crop[1]:
        raise CheckpointUnsupported(
            f"preprocessor_config.json cuts {crop} from a shortest edge; only squares are supported"
        )
    return "crop", (shortest, shortest), crop


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    return pair(size)


def _scale(fields: Config) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std on the scale from 0 to 1, whatever scale the processor normalises on: (x f - m) / s."""
    factor = 1.0 if fields.get("do_rescale") is False else float(fields.get("rescale_factor") or 1 / 255)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if fields.get("do_normalize") is not False:
        mean = channel_values(fields.get("image_mean"), INCEPTION_MEAN)
        std = channel_values(fields.get("image_std"), INCEPTION_STD)
    if abs(factor * 255 - 1) < 1e-6:
        return mean, std
    scale = 1 / (255 * factor)
    return (mean[0] * scale, mean[1] * scale, mean[2] * scale), (std[0] * scale, std[1] * scale, std[2] * scale)
