"""facebookresearch's DINO, DINOv2, DeiT, DeiT-III and MAE, BEiT, and any other file with timm's names and no config.

Sources: facebookresearch/dino `vision_transformer.py`, dinov2 `dinov2/models/vision_transformer.py` and
`dinov2/hub/backbones.py`, deit `models.py` and `models_v2.py`, mae `models_vit.py`; microsoft/unilm
`beit/modeling_finetune.py`. All use timm's names of their time and have no config, so the original is recognised by
details of the tensors, or else by the file name.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from models.layouts.naming import SCALE
from models.layouts.profiles import PROFILES
from models.layouts.source import Reading, Source
from models.layouts.timm import config as timm_config
from models.layouts.timm.file_names import contradiction
from models.layouts.timm.layout import NAMING, join_projections

SELF_DISTILLED = {"teacher", "student"}


def recognises(source: Source) -> bool:
    """Return whether the names are timm's."""
    return NAMING.recognises(source.tensors)


def read(source: Source) -> Reading:
    """Read the tensors, and recognise their original."""
    tensors, left_out = NAMING.translate(source.tensors)
    join_projections(tensors)
    profile, reason = _profile(source)
    config = source.config
    has_preprocess = timm_config.has_preprocess(config)
    heads = timm_config.arguments(config).get("num_heads")
    kind = "BEiT" if _has(source.tensors, "relative_position_bias_table") else "plain Vision Transformer"
    return Reading(
        layout="facebook" if profile != "timm" else "timm",
        profile=profile,
        tensors=tensors,
        image_size=timm_config.image_size(config),
        num_heads=int(heads) if heads else None,
        pool=timm_config.pool(config) if "dist_token" not in tensors else None,
        preprocess=timm_config.preprocess(config) if has_preprocess else None,
        names=timm_config.names(config),
        imagenet=profile != "timm",
        contradiction=contradiction(source.path, PROFILES[profile].act),
        reasons={
            "assumed": f"no config.json names the architecture, so it is taken for a {kind} without rotary positions; "
            "set profile to the original to confirm it, or add the config.json of its library",
            "layout": "the tensors have timm's names, as facebookresearch's files do; no config.json says more",
            "profile": reason,
            "preprocess": "config.json" if has_preprocess else "",
            "left out": left_out,
        },
    )


def _profile(source: Source) -> tuple[str, str]:
    """Return the original and the reason."""
    keys, name = source.tensors, source.path.name
    layer_scale = any(re.search(rf"(?:^|\.)ls1\.{SCALE}$", key) for key in keys)
    head = _has(keys, "head.weight")
    clues = (
        (
            _has(keys, "relative_position_bias_table"),
            "timm",
            "only BEiT has tables of relative positions, and timm computes its files at any size",
        ),
        (_has(keys, "register_tokens"), "dinov2-reg", "the tensor 'register_tokens' has DINOv2's name for registers"),
        (_has(keys, "mask_token") and layer_scale, "dinov2", "only DINOv2 has both 'mask_token' and layer scale"),
        (
            bool(SELF_DISTILLED & set(source.wrappers)),
            "dino",
            "a teacher or a student, as in DINO's training checkpoints",
        ),
        ("dinov2" in name.lower(), "dinov2", f"the file is named {name!r}"),
        ("dino" in name.lower(), "dino", f"the file is named {name!r}"),
        (_has(keys, "gamma_1"), "deit", "the tensor 'gamma_1' has DeiT-III's name for layer scale"),
        ("mae" in name.lower(), "mae", f"the file is named {name!r}"),
        (_has(keys, "decoder_embed.weight"), "mae", "the file contains MAE's decoder"),
        (
            source.wrappers == ("model",) and head and not _has(keys, "fc_norm.weight"),
            "deit",
            "the key 'model' has a head, as in DeiT's files",
        ),
        (
            source.wrappers == ("model",),
            "mae",
            "the key 'model' has no head, or a norm after pooling, as in MAE's files",
        ),
    )
    found = next(((profile, reason) for present, profile, reason in clues if present), None)
    return found or (
        "timm",
        "assumed: the names fit several originals, which differ at other sizes; set profile if it is another one",
    )


def _has(keys: Mapping[str, Tensor], ending: str) -> bool:
    return any(key == ending or key.endswith(f".{ending}") for key in keys)
