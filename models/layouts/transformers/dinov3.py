"""transformers' DINOv3: the network, and its class for use as a backbone.

Source: huggingface/transformers, `modeling_dinov3_vit.py`: the names of files on the hub, and those of release 5 in
memory, which have `model.` before the layers.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from models.errors import CheckpointUnsupported
from models.layouts.naming import PARTS, Naming, join
from models.layouts.source import Reading, Source
from models.layouts.transformers import config as transformers_config
from models.layouts.transformers.common import QKV, make_reading, projection_keys
from models.network.positions.rotary import Rotary

LAYER = r"layer\.(\d+)\."

KEYS = {
    rf"embeddings\.patch_embeddings\.{PARTS}": r"patch_embed.proj.\1",
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.register_tokens": "reg_token",
    rf"{LAYER}(norm[12])\.{PARTS}": r"blocks.\1.\2.\3",
    **projection_keys(rf"{LAYER}attention\."),
    rf"{LAYER}attention\.o_proj\.{PARTS}": r"blocks.\1.attn.proj.\2",
    rf"{LAYER}layer_scale([12])\.lambda1": r"blocks.\1.ls\2.gamma",
    rf"{LAYER}mlp\.gate_proj\.{PARTS}": r"blocks.\1.mlp.gate.\2",
    rf"{LAYER}mlp\.up_proj\.{PARTS}": r"blocks.\1.mlp.value.\2",
    rf"{LAYER}mlp\.down_proj\.{PARTS}": r"blocks.\1.mlp.fc2.\2",
    rf"norm\.{PARTS}": r"norm.\1",
}
IGNORED = {r"embeddings\.mask_token": "mask token, used only in training"}
NAMING = Naming(
    KEYS,
    ("patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.query.weight", "blocks.0.mlp.value.weight"),
    IGNORED,
)
BIASES = {"attn.query": "query_bias", "attn.key": "key_bias", "attn.value": "value_bias"}


def recognises(source: Source) -> bool:
    """Return whether the names are those of transformers' DINOv3."""
    return NAMING.recognises(source.tensors)


def read(source: Source) -> Reading:
    """Read the tensors, the config and the image processor."""
    fields = transformers_config.network(source.config)
    tensors, left_out = NAMING.translate(source.tensors)
    _add_biases(tensors, fields)
    join(tensors, QKV, "attn.qkv")
    if fields["use_gated_mlp"]:
        _check_gate(fields)
        join(tensors, ("mlp.gate", "mlp.value"), "mlp.fc1")
    else:
        tensors = {key.replace(".mlp.value.", ".mlp.fc1."): tensor for key, tensor in tensors.items()}
    reading = make_reading(source, tensors, {"left out": left_out}, "cls")
    rotary = Rotary(float(fields["rope_theta"]), "centred", interleaved=False)
    expected = {**reading.expected, "num_extra_tokens": fields["num_register_tokens"]}
    act = None if fields["use_gated_mlp"] else reading.act  # the gate's activation is part of the feed-forward
    return replace(reading, act=act, rotary=rotary, expected=expected)


def _add_biases(tensors: dict[str, Tensor], fields: Mapping[str, Any]) -> None:
    """Add zeros for the biases of queries, keys and values that the config says the network lacks, in place."""
    absent = [part for part, field in BIASES.items() if not fields[field]]
    if len(absent) == len(BIASES):
        return  # `assembly` adds zeros if no part has a bias
    for key in [key for key in tensors if key.endswith(".weight")]:
        for part in absent:
            if key.endswith(f".{part}.weight"):
                tensors[key.removesuffix("weight") + "bias"] = torch.zeros(len(tensors[key]))


def _check_gate(fields: Mapping[str, Any]) -> None:
    if transformers_config.act(fields) != "silu":
        raise CheckpointUnsupported(
            f"config.json: hidden_act {fields['hidden_act']!r} with use_gated_mlp is not supported, only 'silu'"
        )
