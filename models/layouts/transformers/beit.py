"""transformers' Beit and Data2VecVision.

Source: huggingface/transformers, `modeling_beit.py` and `modeling_data2vec_vision.py`: the names of files, and those of
release 5 in memory. Data2VecVision has the same network under another prefix.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.naming import PARTS, Naming, join
from models.layouts.source import Reading, Source
from models.layouts.transformers import config as transformers_config
from models.layouts.transformers.common import OUTER, QKV, make_reading, two_generations

LAYER = r"(?:encoder\.layer|layers)\.(\d+)\."
TABLE = r"relative_position_bias\.relative_position_bias_table"

KEYS = {
    rf"embeddings\.patch_embeddings\.projection\.{PARTS}": r"patch_embed.proj.\1",
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.position_embeddings": "pos_embed",
    rf"{LAYER}layernorm_before\.{PARTS}": r"blocks.\1.norm1.\2",
    rf"{LAYER}layernorm_after\.{PARTS}": r"blocks.\1.norm2.\2",
    **two_generations(LAYER),
    rf"{LAYER}(?:attention\.attention\.)?{TABLE}": r"blocks.\1.relative.table",
    rf"encoder\.{TABLE}|shared_position_bias\.relative_position_bias_table": "relative.table",
    rf"{LAYER}lambda_([12])": r"blocks.\1.ls\2.gamma",
    rf"{LAYER}(?:intermediate\.dense|mlp\.fc1)\.{PARTS}": r"blocks.\1.mlp.fc1.\2",
    rf"{LAYER}(?:output\.dense|mlp\.fc2)\.{PARTS}": r"blocks.\1.mlp.fc2.\2",
    rf"layernorm\.{PARTS}": r"norm.\1",
    rf"pooler\.layernorm\.{PARTS}": r"fc_norm.\1",
    rf"classifier\.{PARTS}": r"head.\1",
}
IGNORED = {
    r"embeddings\.mask_token": "mask token, used only in training",
    r"lm_head\..*": "head of masked-image training",
    r".*\.relative_position_index": "indices of relative positions",
}
NAMING = Naming(
    KEYS,
    ("patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.query.weight", "blocks.0.attn.query.bias"),
    IGNORED,
    ("beit.", "data2vec_vision.", *OUTER),
)
MODEL_TYPES = {"beit", "data2vec-vision"}
TABLES = {
    "use_absolute_position_embeddings": "pos_embed",
    "use_relative_position_bias": "blocks.0.relative.table",
    "use_shared_relative_position_bias": "relative.table",
}
"""Fields of the config, and the table that the file has if the field is true."""


def recognises(source: Source) -> bool:
    """Return whether the config is of this family and the names are its names."""
    return source.config.get("model_type") in MODEL_TYPES and NAMING.recognises(source.tensors)


def read(source: Source) -> Reading:
    """Read the tensors, the config and the image processor."""
    fields = transformers_config.network(source.config)
    size = transformers_config.pair(fields["image_size"])
    if size[0] != size[1]:
        raise CheckpointUnsupported(
            f"config.json: image_size {size} is not square; transformers reads the tables of such a network transposed"
        )
    tensors, left_out = NAMING.translate(source.tensors)
    join(tensors, QKV, "attn.qkv", zeros="attn.key")
    _check_tables(fields, tensors)
    return make_reading(source, tensors, {"left out": left_out}, "avg" if fields["use_mean_pooling"] else "cls")


def _check_tables(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointBroken unless the file has those tables of positions that the config says."""
    for field, name in TABLES.items():
        if fields[field] != (name in tensors):
            raise CheckpointBroken(
                f"config.json says that {field} is {str(fields[field]).lower()}, but tensor {name!r} is "
                f"{'missing' if fields[field] else 'there'}: they are of different models"
            )
