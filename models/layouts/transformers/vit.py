"""transformers' ViT, DeiT, ViTMSN, the encoder of ViTMAE, and IJepa.

Source: huggingface/transformers, `modeling_vit.py`, `modeling_deit.py`, `modeling_vit_msn.py`, `modeling_vit_mae.py`.
Two generations of names: what lies on the hub and every release writes, and what release 5 uses in memory.
"""

from collections.abc import Mapping

from torch import Tensor

from models.errors import CheckpointUnsupported
from models.layouts.naming import PARTS, WRAPPERS, Naming, join
from models.layouts.source import Reading, Source
from models.layouts.transformers import config as transformers_config
from models.network.pooling import Pool

LAYER = r"(?:encoder\.layer|layers)\.(\d+)\."

KEYS = {
    rf"embeddings\.patch_embeddings\.projection\.{PARTS}": r"patch_embed.proj.\1",
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.distillation_token": "dist_token",
    r"embeddings\.position_embeddings": "pos_embed",
    rf"{LAYER}layernorm_before\.{PARTS}": r"blocks.\1.norm1.\2",
    rf"{LAYER}layernorm_after\.{PARTS}": r"blocks.\1.norm2.\2",
    rf"{LAYER}attention\.attention\.(query|key|value)\.{PARTS}": r"blocks.\1.attn.\2.\3",
    rf"{LAYER}attention\.q_proj\.{PARTS}": r"blocks.\1.attn.query.\2",
    rf"{LAYER}attention\.k_proj\.{PARTS}": r"blocks.\1.attn.key.\2",
    rf"{LAYER}attention\.v_proj\.{PARTS}": r"blocks.\1.attn.value.\2",
    rf"{LAYER}attention\.(?:output\.dense|o_proj)\.{PARTS}": r"blocks.\1.attn.proj.\2",
    rf"{LAYER}(?:intermediate\.dense|mlp\.fc1)\.{PARTS}": r"blocks.\1.mlp.fc1.\2",
    rf"{LAYER}(?:output\.dense|mlp\.fc2)\.{PARTS}": r"blocks.\1.mlp.fc2.\2",
    rf"layernorm\.{PARTS}": r"norm.\1",
    rf"pooler\.dense\.{PARTS}": r"projection.\1",
    rf"(?:classifier|cls_classifier)\.{PARTS}": r"head.\1",
    rf"distillation_classifier\.{PARTS}": r"head_dist.\1",
}
IGNORED = {
    r"embeddings\.mask_token": "the token that hides patches in training",
    r"decoder\..*": "the decoder of masked-image training",
}
NAMING = Naming(
    KEYS,
    ("patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.query.weight"),
    IGNORED,
    ("vit.", "deit.", "ijepa.", *(wrapper for wrapper in WRAPPERS if wrapper != "encoder.")),
)
QKV = ("attn.query", "attn.key", "attn.value")


def recognises(source: Source) -> bool:
    """Whether the names are those of transformers' ViT."""
    return NAMING.recognises(source.tensors)


def read(source: Source) -> Reading:
    """Read the tensors, the config and the image processor."""
    config = source.config
    fields = transformers_config.network(config)
    tensors, left_out = NAMING.translate(source.tensors)
    join(tensors, QKV, "attn.qkv")
    reasons: dict[str, str] = {"left out": left_out}
    if "projection.weight" in tensors and "head.weight" in tensors:
        # A classifier of this family reads [CLS] itself; its class has no pooler.
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("projection.")}
        reasons["projection"] = "the pooler was left out: the classifier does not read it"
    if fields.get("pooler_act", "tanh") != "tanh" and "projection.weight" in tensors:
        raise CheckpointUnsupported(f"pooler_act is {fields['pooler_act']!r}; tanh is supported")
    return reading(source, tensors, reasons, pool=_pool(tensors))


def _pool(tensors: Mapping[str, Tensor]) -> Pool:
    if "head_dist.weight" in tensors:
        return "cls_dist"
    return "cls" if "cls_token" in tensors else "avg"  # DeiT's class with one head reads [CLS] alone


def reading(
    source: Source,
    tensors: Mapping[str, Tensor],
    reasons: Mapping[str, str],
    pool: Pool,
    profile: str = "transformers",
) -> Reading:
    """What all families of transformers have in common, once the tensors have their names."""
    config = source.config
    fields = transformers_config.network(config)
    model = (config.get("architectures") or [config["model_type"]])[0]
    preprocess, why_pixels = transformers_config.preprocess(config, source.processor)
    head = tensors.get("head.weight")
    names = transformers_config.names(config)
    dim = tensors["patch_embed.proj.weight"].shape[0]
    heads = int(fields["num_attention_heads"])
    if fields.get("head_dim") not in (None, dim // heads):
        raise CheckpointUnsupported(f"head_dim is {fields['head_dim']}, which does not make {dim} with {heads} heads")
    return Reading(
        layout="transformers",
        profile=profile,
        tensors=tensors,
        image_size=transformers_config.pair(fields["image_size"]),
        num_heads=heads,
        act=transformers_config.act(fields),
        norm_eps=float(fields["layer_norm_eps"]),
        pool=pool,
        expected=transformers_config.expected(config, head is not None),
        preprocess=preprocess,
        names=names if head is not None else None,
        multi_label=config.get("problem_type") == "multi_label_classification",
        head_kind="regression" if config.get("problem_type") == "regression" else "classes",
        reasons={
            "layout": f"config.json is transformers' ({model}) and the tensors have its names",
            "profile": "config.json is transformers'",
            "num_heads": "config.json"
            if "num_attention_heads" in (config.get("vision_config") or config)
            else "config.json names none, and its class's default is 12",
            "preprocess": why_pixels,
            **reasons,
        },
    )
