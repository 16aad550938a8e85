"""transformers' Dinov2 and Dinov2WithRegisters.

Source: huggingface/transformers, `modeling_dinov2.py` and `modeling_dinov2_with_registers.py`: the names of files on
the hub, and those of release 5 in memory, which differ for attention and split the gated feed-forward in two.
"""

from models.layouts.naming import PARTS, SCALE, Naming, join
from models.layouts.source import Reading, Source
from models.layouts.transformers import config as transformers_config
from models.layouts.transformers.common import OUTER, QKV, make_reading, two_generations
from models.network.pooling import Pool

LAYER = r"encoder\.layer\.(\d+)\."

KEYS = {
    rf"embeddings\.patch_embeddings\.projection\.{PARTS}": r"patch_embed.proj.\1",
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.register_tokens": "reg_token",
    r"embeddings\.position_embeddings": "pos_embed",
    rf"{LAYER}(norm[12])\.{PARTS}": r"blocks.\1.\2.\3",
    **two_generations(LAYER),
    rf"{LAYER}layer_scale([12])\.{SCALE}": r"blocks.\1.ls\2.gamma",
    rf"{LAYER}mlp\.(fc[12])\.{PARTS}": r"blocks.\1.mlp.\2.\3",
    rf"{LAYER}mlp\.weights_in\.{PARTS}": r"blocks.\1.mlp.fc1.\2",
    rf"{LAYER}mlp\.gate_proj\.{PARTS}": r"blocks.\1.mlp.gate.\2",
    rf"{LAYER}mlp\.up_proj\.{PARTS}": r"blocks.\1.mlp.value.\2",
    rf"{LAYER}mlp\.(?:weights_out|down_proj)\.{PARTS}": r"blocks.\1.mlp.fc2.\2",
    rf"layernorm\.{PARTS}": r"norm.\1",
    rf"classifier\.{PARTS}": r"head.\1",
}
IGNORED = {r"embeddings\.mask_token": "mask token, used only in training"}
NAMING = Naming(
    KEYS,
    ("patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.query.weight", "blocks.0.ls1.gamma"),
    IGNORED,
    ("dinov2_with_registers.", "dinov2.", *OUTER),
)


def recognises(source: Source) -> bool:
    """Return whether the names are those of transformers' Dinov2."""
    return NAMING.recognises(source.tensors)


def read(source: Source) -> Reading:
    """Read the tensors, the config and the image processor."""
    transformers_config.network(source.config)
    tensors, left_out = NAMING.translate(source.tensors)
    join(tensors, QKV, "attn.qkv")
    join(tensors, ("mlp.gate", "mlp.value"), "mlp.fc1")
    registers = "reg_token" in tensors
    reasons = {"left out": left_out}
    if registers:
        reasons["profile"] = "config.json is in transformers' format, and its Dinov2WithRegisters antialiases"
    pool: Pool = "cls_avg" if "head.weight" in tensors else "cls"
    return make_reading(source, tensors, reasons, pool, "transformers-registers" if registers else "transformers")
