"""facebookresearch's DINO, DINOv2, DeiT, DeiT-III and MAE, and any other bare file with timm's names.

Sources: facebookresearch/dino `vision_transformer.py`, dinov2 `dinov2/models/vision_transformer.py` and
`dinov2/hub/backbones.py`, deit `models.py` and `models_v2.py`, mae `models_vit.py`. All keep timm's names of the time
and no config, so that the originals are told apart by small traces, and otherwise by the name of the file.
"""

from collections.abc import Mapping

from torch import Tensor

from models.layouts import timm_config
from models.layouts.source import Reading, Source
from models.layouts.timm import NAMING


def recognises(source: Source) -> bool:
    """Whether the names are timm's."""
    return NAMING.recognises(source.tensors)


def read(source: Source) -> Reading:
    """Read the tensors, and which original they are of."""
    tensors, left_out = NAMING.translate(source.tensors)
    profile, why = _profile(source)
    config = source.config
    beside = timm_config.describes_pixels(config)
    heads = timm_config.arguments(config).get("num_heads")
    return Reading(
        layout="facebook" if profile != "timm" else "timm",
        profile=profile,
        tensors=tensors,
        image_size=timm_config.image_size(config),
        num_heads=int(heads) if heads else None,
        pool=timm_config.pool(config) if "dist_token" not in tensors else None,
        preprocess=timm_config.preprocess(config) if beside else None,
        names=timm_config.names(config),
        imagenet=profile != "timm",
        reasons={
            "layout": "the tensors have timm's names, which facebookresearch's files share; no config names more",
            "profile": why,
            "preprocess": "config.json beside the file" if beside else "",
            "left out": left_out,
        },
    )


def _profile(source: Source) -> tuple[str, str]:
    """The original, and the trace that tells it."""
    keys, name = source.tensors, source.path.name.lower()
    if _has(keys, "register_tokens"):
        return "dinov2-reg", "'register_tokens' is DINOv2's name for registers"
    if _has(keys, "mask_token") and _has(keys, "ls1.gamma"):
        return "dinov2", "'mask_token' together with layer scale is DINOv2's"
    if {"teacher", "student"} & set(source.wrappers):
        return "dino", f"the weights lie under {source.wrappers[-1]!r}, as DINO's training keeps them"
    if "dino" in name:
        return ("dinov2" if "dinov2" in name else "dino"), f"the file is named {source.path.name!r}"
    if _has(keys, "gamma_1"):
        return "deit", "'gamma_1' is DeiT-III's name for layer scale"
    if source.wrappers == ("model",):
        return _deit_or_mae(keys, name)
    return (
        "timm",
        "the names fit many originals, which agree at the native size alone; set the profile to choose another",
    )


def _deit_or_mae(keys: Mapping[str, Tensor], name: str) -> tuple[str, str]:
    if (
        "mae" in name
        or _has(keys, "decoder_embed.weight")
        or _has(keys, "fc_norm.weight")
        or not _has(keys, "head.weight")
    ):
        return "mae", "the weights lie under 'model' without a head, with MAE's decoder or with its fc_norm"
    return "deit", "the weights lie under 'model' with a head, as DeiT's do"


def _has(keys: Mapping[str, Tensor], ending: str) -> bool:
    return any(key == ending or key.endswith(f".{ending}") for key in keys)
