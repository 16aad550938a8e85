"""facebookresearch's DINO, DINOv2, DeiT, DeiT-III and MAE, and any other bare file with timm's names.

Sources: facebookresearch/dino `vision_transformer.py`, dinov2 `dinov2/models/vision_transformer.py` and
`dinov2/hub/backbones.py`, deit `models.py` and `models_v2.py`, mae `models_vit.py`. All keep timm's names of the time
and no config, so that the originals are told apart by small traces, and otherwise by the name of the file.
"""

from collections.abc import Mapping

from torch import Tensor

from models.layouts.source import Reading, Source
from models.layouts.timm import config as timm_config
from models.layouts.timm.layout import NAMING

SELF_DISTILLED = {"teacher", "student"}


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
    keys, name = source.tensors, source.path.name
    layer_scale = _has(keys, "ls1.gamma")
    head = _has(keys, "head.weight")
    traces = (
        (_has(keys, "register_tokens"), "dinov2-reg", "'register_tokens' is DINOv2's name for registers"),
        (_has(keys, "mask_token") and layer_scale, "dinov2", "'mask_token' together with layer scale is DINOv2's"),
        (bool(SELF_DISTILLED & set(source.wrappers)), "dino", "a teacher and a student, as DINO's training keeps them"),
        ("dinov2" in name.lower(), "dinov2", f"the file is named {name!r}"),
        ("dino" in name.lower(), "dino", f"the file is named {name!r}"),
        (_has(keys, "gamma_1"), "deit", "'gamma_1' is DeiT-III's name for layer scale"),
        ("mae" in name.lower(), "mae", f"the file is named {name!r}"),
        (_has(keys, "decoder_embed.weight"), "mae", "it holds MAE's decoder"),
        (source.wrappers == ("model",) and head and not _has(keys, "fc_norm.weight"), "deit", "a head under 'model'"),
        (source.wrappers == ("model",), "mae", "no head, or a norm after pooling, under 'model'"),
    )
    found = next(((profile, why) for is_so, profile, why in traces if is_so), None)
    return found or (
        "timm",
        "the names fit many originals, which agree at the native size alone; profile chooses another",
    )


def _has(keys: Mapping[str, Tensor], ending: str) -> bool:
    return any(key == ending or key.endswith(f".{ending}") for key in keys)
