"""facebookresearch's own files of DINOv3 and EUPE, which have no config.

They have timm's names of parameters and others for registers and the gated feed-forward, and two buffers: which biases
are masked, and the periods of the rotary positions. The periods are stored in bfloat16, and the original computes with
them as they are; timm and transformers compute them in float32.

Sources: facebookresearch/dinov3 `dinov3/models/vision_transformer.py`, `dinov3/layers/rope_position_encoding.py`,
`dinov3/layers/attention.py` and `dinov3/hub/backbones.py`; facebookresearch/EUPE has the same network.
Shapes: D embedding dimension, d dimension of a head.
"""

import re

import torch
from torch import Tensor

from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.naming import PARTS, Naming, join
from models.layouts.source import Reading, Source
from models.layouts.timm.layout import BLOCK, IGNORED
from models.layouts.timm.layout import KEYS as TIMM_KEYS
from models.network.positions.rotary import Rotary
from models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

BASE, NORM_EPS, SIDE = 100.0, 1e-5, 256
SATELLITE = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)
"""Mean and std of the pictures of SAT-493M."""

KEYS = {
    r"storage_tokens": "reg_token",
    rf"{BLOCK}mlp\.w1\.{PARTS}": r"blocks.\1.mlp.gate.\2",
    rf"{BLOCK}mlp\.w2\.{PARTS}": r"blocks.\1.mlp.value.\2",
    rf"{BLOCK}attn\.qkv\.bias_mask": r"blocks.\1.attn.qkv.mask",
    r"rope_embed\.periods": "rotary.periods",
    **TIMM_KEYS,
}
UNUSED = {
    r"local_cls_norm\..*": "norm of the small crops, used only in training",
    r"projectors\..*": "projections of distillation, used only in training",
}
NAMING = Naming(KEYS, ("patch_embed.proj.weight", "blocks.0.norm1.weight"), IGNORED | UNUSED)
OWN = ("storage_tokens", "rope_embed.periods")


def recognises(source: Source) -> bool:
    """Return whether the names are those of facebookresearch's DINOv3."""
    return any(key.endswith(OWN) for key in source.tensors) and NAMING.recognises(source.tensors)


def read(source: Source) -> Reading:
    """Read the tensors, and check the buffers."""
    tensors, left_out = NAMING.translate(source.tensors)
    if "rotary.periods" not in tensors:
        raise CheckpointUnsupported(
            "tensor 'rope_embed.periods' of DINOv3 is missing, and nothing else says which rotary positions it has"
        )
    dim, periods = len(tensors["patch_embed.proj.weight"]), tensors.pop("rotary.periods")
    _mask_biases(tensors)
    join(tensors, ("mlp.gate", "mlp.value"), "mlp.fc1")
    rotary = _rotary(periods)
    satellite = "sat493m" in source.path.name.lower()
    mean, std = SATELLITE if satellite else (IMAGENET_MEAN, IMAGENET_STD)
    kind = "rounded to bfloat16" if rotary.rounded else "in float32"
    return Reading(
        layout="dinov3",
        profile="dinov3",
        tensors=tensors,
        image_size=(SIDE, SIDE),
        num_heads=dim // (4 * len(periods)),
        norm_eps=NORM_EPS,
        rotary=rotary,
        pool="cls",
        preprocess=Preprocess((SIDE, SIDE), "squash", 1.0, "bilinear", mean=mean, std=std),
        reasons={
            "layout": "the tensor 'rope_embed.periods' is in DINOv3's own files",
            "profile": f"the file has periods {kind}; the original computes with them as they are",
            "num_heads": "from the number of periods",
            "preprocess": f"assumed: what DINOv3's README does for {'SAT-493M' if satellite else 'LVD-1689M'}",
            "left out": left_out,
        },
    )


def _mask_biases(tensors: dict[str, Tensor]) -> None:
    """Multiply the biases of queries, keys and values by their masks, in place. The keys' are masked."""
    for key in [key for key in tensors if re.fullmatch(r"blocks\.\d+\.attn\.qkv\.mask", key)]:
        mask, bias = tensors.pop(key).float(), key.removesuffix("mask") + "bias"
        if bias not in tensors:
            raise CheckpointBroken(f"tensor {bias!r} is missing, and the file has a mask for it")
        if mask.shape != tensors[bias].shape or not ((mask == 0) | (mask == 1)).all():
            raise CheckpointBroken(f"the mask of {bias!r} must have a 0 or a 1 for each of its values")
        tensors[bias] = tensors[bias].float() * mask


def _rotary(periods: Tensor) -> Rotary:
    """Return the rotary positions with these periods (d / 4,)."""
    for rounded in (True, False):
        rotary = Rotary(BASE, "centred", interleaved=False, rounded=rounded)
        if torch.allclose(periods.float(), rotary.periods(4 * len(periods)), rtol=1e-6, atol=0):
            return rotary
    raise CheckpointUnsupported(
        f"tensor 'rope_embed.periods' is not that of published networks: {BASE:g} ** (4 i / d), in bfloat16 or float32"
    )
