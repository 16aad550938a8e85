"""The vision tower of transformers' CLIP: alone, with its projection, with a classifier, or with the text tower.

Source: huggingface/transformers, `modeling_clip.py`.
"""

from dataclasses import replace

from models.errors import CheckpointBroken
from models.layouts.naming import PARTS, Naming, join
from models.layouts.source import Reading, Source
from models.layouts.transformers.common import CLIP_BLOCKS, OUTER, QKV, make_reading

KEYS = {
    r"embeddings\.patch_embedding\.weight": "patch_embed.proj.weight",
    r"embeddings\.class_embedding": "cls_token",
    r"embeddings\.position_embedding\.weight": "pos_embed",
    rf"pre_lay(?:r|er)norm\.{PARTS}": r"norm_pre.\1",  # `pre_layrnorm` is the spelling of transformers
    **CLIP_BLOCKS,
    rf"post_layernorm\.{PARTS}": r"norm.\1",
    r"visual_projection\.weight": "projection.weight",
    rf"classifier\.{PARTS}": r"head.\1",
}
IGNORED = {
    r"embeddings\.position_ids": "indices of positions",
    r"text_model\..*|text_projection\.weight|logit_scale": "text tower",
}
NAMING = Naming(
    KEYS,
    ("patch_embed.proj.weight", "cls_token", "norm_pre.weight", "blocks.0.attn.query.weight"),
    IGNORED,
    ("vision_model.", *OUTER),
)
PROJECTING = {"CLIPModel", "CLIPVisionModelWithProjection"}


def recognises(source: Source) -> bool:
    """Return whether the names are those of transformers' CLIP."""
    return NAMING.recognises(source.tensors)


def read(source: Source) -> Reading:
    """Read the vision tower, its config and the image processor."""
    tensors, left_out = NAMING.translate(source.tensors)
    join(tensors, QKV, "attn.qkv")
    if "projection.weight" not in tensors and PROJECTING & set(source.config.get("architectures") or ()):
        raise CheckpointBroken("tensor 'visual_projection.weight' is missing")
    if "head.weight" not in tensors:
        return replace(make_reading(source, tensors, {"left out": left_out}, "cls"), projection_tanh=False)
    # CLIPForImageClassification averages the patch tokens before the final norm, which it applies only to [CLS].
    return replace(make_reading(source, tensors, {"left out": left_out}, "avg"), pool_norm=False)
