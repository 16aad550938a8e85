"""torchvision's `vit_*`.

Source: pytorch/vision, `torchvision/models/vision_transformer.py`. The published files and the state dicts of newer
releases differ in the names of the feed-forward layers. They come without a config.
"""

from models.layouts.naming import PARTS, Naming
from models.layouts.source import Reading, Source
from models.layouts.timm import config as timm_config

LAYER = r"encoder\.layers\.encoder_layer_(\d+)\."

KEYS = {
    rf"conv_proj\.{PARTS}": r"patch_embed.proj.\1",
    r"class_token": "cls_token",
    r"encoder\.pos_embedding": "pos_embed",
    rf"{LAYER}ln_([12])\.{PARTS}": r"blocks.\1.norm\2.\3",
    rf"{LAYER}self_attention\.in_proj_{PARTS}": r"blocks.\1.attn.qkv.\2",
    rf"{LAYER}self_attention\.out_proj\.{PARTS}": r"blocks.\1.attn.proj.\2",
    rf"{LAYER}mlp\.(?:linear_1|0)\.{PARTS}": r"blocks.\1.mlp.fc1.\2",
    rf"{LAYER}mlp\.(?:linear_2|3)\.{PARTS}": r"blocks.\1.mlp.fc2.\2",
    rf"encoder\.ln\.{PARTS}": r"norm.\1",
    rf"heads\.pre_logits\.{PARTS}": r"projection.\1",
    rf"heads\.head\.{PARTS}": r"head.\1",
}
NAMING = Naming(KEYS, ("patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight"), {})


def recognises(source: Source) -> bool:
    """Return whether the names are torchvision's."""
    return NAMING.recognises(source.tensors)


def read(source: Source) -> Reading:
    """Read the tensors, and a config.json in timm's format if there is one."""
    tensors, left_out = NAMING.translate(source.tensors)
    config = source.config
    has_preprocess = timm_config.has_preprocess(config)
    heads = timm_config.arguments(config).get("num_heads")
    return Reading(
        layout="torchvision",
        profile="torchvision",
        tensors=tensors,
        num_heads=int(heads) if heads else None,
        pool="cls",
        preprocess=timm_config.preprocess(config) if has_preprocess else None,
        names=timm_config.names(config),
        imagenet=True,
        reasons={
            "layout": "the tensors have torchvision's names ('conv_proj', 'encoder_layer_0')",
            "profile": "the tensors have torchvision's names",
            "num_heads": "config.json" if heads else "",
            "preprocess": "config.json" if has_preprocess else "",
            "left out": left_out,
        },
    )
