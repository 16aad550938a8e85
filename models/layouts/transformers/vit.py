"""transformers' ViT, DeiT, ViTMSN, the encoder of ViTMAE, and IJepa.

Source: huggingface/transformers, `modeling_vit.py`, `modeling_deit.py`, `modeling_vit_msn.py`, `modeling_vit_mae.py`
and `modeling_ijepa.py`.
Two generations of names: those of files, which every release writes, and those that release 5 uses in memory.
"""

from collections.abc import Mapping

from torch import Tensor

from models.errors import CheckpointUnsupported
from models.layouts.naming import PARTS, Naming, join
from models.layouts.source import Reading, Source
from models.layouts.transformers import config as transformers_config
from models.layouts.transformers.common import OUTER, QKV, make_reading, two_generations
from models.network.pooling import Pool

LAYER = r"(?:encoder\.layer|layers)\.(\d+)\."

KEYS = {
    rf"embeddings\.patch_embeddings\.projection\.{PARTS}": r"patch_embed.proj.\1",
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.distillation_token": "dist_token",
    r"embeddings\.position_embeddings": "pos_embed",
    rf"{LAYER}layernorm_before\.{PARTS}": r"blocks.\1.norm1.\2",
    rf"{LAYER}layernorm_after\.{PARTS}": r"blocks.\1.norm2.\2",
    **two_generations(LAYER),
    rf"{LAYER}(?:intermediate\.dense|mlp\.fc1)\.{PARTS}": r"blocks.\1.mlp.fc1.\2",
    rf"{LAYER}(?:output\.dense|mlp\.fc2)\.{PARTS}": r"blocks.\1.mlp.fc2.\2",
    rf"layernorm\.{PARTS}": r"norm.\1",
    rf"pooler\.dense\.{PARTS}": r"projection.\1",
    rf"(?:classifier|cls_classifier)\.{PARTS}": r"head.\1",
    rf"distillation_classifier\.{PARTS}": r"head_dist.\1",
}
IGNORED = {
    r"embeddings\.mask_token": "mask token, used only in training",
    r"decoder\..*": "decoder of masked-image training",
}
NAMING = Naming(
    KEYS,
    ("patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.query.weight"),
    IGNORED,
    ("vit.", "deit.", "ijepa.", *OUTER),
)


def recognises(source: Source) -> bool:
    """Return whether the names are those of transformers' ViT."""
    return NAMING.recognises(source.tensors)


def read(source: Source) -> Reading:
    """Read the tensors, the config and the image processor."""
    config = source.config
    fields = transformers_config.network(config)
    tensors, left_out = NAMING.translate(source.tensors)
    join(tensors, QKV, "attn.qkv")
    reasons: dict[str, str] = {"left out": left_out}
    if "projection.weight" in tensors and "head.weight" in tensors:
        # The classifier of this family reads [CLS]; its class has no pooler.
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("projection.")}
        reasons["projection"] = "the pooler is left out: the classifier does not read it"
    if fields.get("pooler_act", "tanh") != "tanh" and "projection.weight" in tensors:
        raise CheckpointUnsupported(f"config.json: pooler_act {fields['pooler_act']!r} is not supported, only 'tanh'")
    return make_reading(source, tensors, reasons, pool=_pool(tensors))


def _pool(tensors: Mapping[str, Tensor]) -> Pool:
    if "head_dist.weight" in tensors:
        return "cls_dist"
    return "cls" if "cls_token" in tensors else "avg"  # DeiT's class with one head reads only [CLS]
