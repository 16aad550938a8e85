"""AIMv2: transformers' classes, and the names of apple's own files on the hub.

RMSNorm, a gated feed-forward and no biases; with or without a pooling of attention alone, and with CLIP's projection in
the file of both towers. The `native` variant computes its position embeddings by sines and cosines, for any grid.
Sources: huggingface/transformers `modeling_aimv2.py`, apple/ml-aim `aim-v2/python/aim/v2/torch/models.py`.
"""

from dataclasses import replace

from models.errors import CheckpointUnsupported
from models.layouts.naming import PARTS, Naming, join
from models.layouts.source import Reading, Source
from models.layouts.transformers import config as transformers_config
from models.layouts.transformers.common import OUTER, QKV, make_reading, projection_keys
from models.network.pooling import Pool
from models.network.positions.sincos import SinCos

LAYER, BLOCK = r"encoder\.layers\.(\d+)\.", r"trunk\.blocks\.(\d+)\."

KEYS = {
    rf"embeddings\.patch_embed\.{PARTS}": r"patch_embed.proj.\1",
    r"embeddings\.rms_norm\.weight": "embed_norm.weight",
    r"embeddings\.position_embedding\.weight": "pos_embed",
    rf"{LAYER}rms_norm([12])\.weight": r"blocks.\1.norm\2.weight",
    **projection_keys(rf"{LAYER}attention\."),
    rf"{LAYER}attention\.out_proj\.{PARTS}": r"blocks.\1.attn.proj.\2",
    rf"{LAYER}ffn\.gate_proj\.{PARTS}": r"blocks.\1.mlp.gate.\2",
    rf"{LAYER}ffn\.up_proj\.{PARTS}": r"blocks.\1.mlp.value.\2",
    rf"{LAYER}ffn\.down_proj\.{PARTS}": r"blocks.\1.mlp.fc2.\2",
    r"rms_norm\.weight": "norm.weight",
    r"head\.cls_token": "attn_pool.latent",
    rf"head\.k_proj\.{PARTS}": r"attn_pool.key.\1",
    rf"head\.v_proj\.{PARTS}": r"attn_pool.value.\1",
    rf"head\.output_proj\.{PARTS}": r"attn_pool.proj.\1",
    r"visual_projection\.weight": "projection.weight",
    # apple's own
    rf"preprocessor\.patchifier\.proj\.{PARTS}": r"patch_embed.proj.\1",
    r"preprocessor\.patchifier\.norm\.weight": "embed_norm.weight",
    r"preprocessor\.pos_embed": "pos_embed",
    rf"{BLOCK}norm_([12])\.weight": r"blocks.\1.norm\2.weight",
    rf"{BLOCK}attn\.(qkv|proj)\.{PARTS}": r"blocks.\1.attn.\2.\3",
    rf"{BLOCK}mlp\.fc1\.{PARTS}": r"blocks.\1.mlp.gate.\2",
    rf"{BLOCK}mlp\.fc3\.{PARTS}": r"blocks.\1.mlp.value.\2",
    rf"{BLOCK}mlp\.fc2\.{PARTS}": r"blocks.\1.mlp.fc2.\2",
    r"trunk\.post_trunk_norm\.weight": "norm.weight",
}
IGNORED = {
    r"embeddings\.position_ids": "indices of positions",
    r"text_model\..*|text_projection\.weight|logit_scale": "text tower",
}
NAMING = Naming(
    KEYS,
    ("patch_embed.proj.weight", "embed_norm.weight", "blocks.0.norm1.weight", "blocks.0.mlp.gate.weight"),
    IGNORED,
    ("vision_model.", *OUTER),
)


def recognises(source: Source) -> bool:
    """Return whether the names are those of transformers' or apple's AIMv2."""
    return NAMING.recognises(source.tensors)


def read(source: Source) -> Reading:
    """Read the vision tower, its config and the image processor."""
    fields = transformers_config.network(source.config)
    if fields["hidden_act"] not in ("silu", "swish"):
        raise CheckpointUnsupported(f"config.json: hidden_act {fields['hidden_act']!r} is not supported, only 'silu'")
    tensors, left_out = NAMING.translate(source.tensors)
    join(tensors, QKV, "attn.qkv")
    join(tensors, ("mlp.gate", "mlp.value"), "mlp.fc1")
    join(tensors, ("attn_pool.key", "attn_pool.value"), "attn_pool.kv")
    pool: Pool = "attention" if "attn_pool.latent" in tensors else "avg"
    reading = make_reading(source, tensors, {"left out": left_out}, pool)
    sincos = SinCos() if fields["is_native"] else None
    return replace(reading, act=None, norm_type="rms", projection_tanh=False, sincos=sincos)
