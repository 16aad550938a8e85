"""What all families of transformers share: from tensors under the network's names, and the configs, to a `Reading`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.errors import CheckpointUnsupported
from models.layouts.naming import PARTS, WRAPPERS
from models.layouts.source import Reading, Source
from models.layouts.transformers import config as transformers_config
from models.network.pooling import Pool

QKV = ("attn.query", "attn.key", "attn.value")


def projection_keys(attention: str) -> dict[str, str]:
    """Return the names of the projections to queries, keys and values, for the pattern of a block's attention."""
    return {rf"{attention}{part[0]}_proj\.{PARTS}": rf"blocks.\1.attn.{part}.\2" for part in ("query", "key", "value")}


def two_generations(layer: str) -> dict[str, str]:
    """Return the names of attention in files and in memory, for the pattern of a block."""
    return {
        rf"{layer}attention\.attention\.(query|key|value)\.{PARTS}": r"blocks.\1.attn.\2.\3",
        **projection_keys(rf"{layer}attention\."),
        rf"{layer}attention\.(?:output\.dense|o_proj)\.{PARTS}": r"blocks.\1.attn.proj.\2",
    }


CLIP_LAYER = r"encoder\.layers\.(\d+)\."
CLIP_BLOCKS = {
    rf"{CLIP_LAYER}layer_(norm[12])\.{PARTS}": r"blocks.\1.\2.\3",
    **projection_keys(rf"{CLIP_LAYER}self_attn\."),
    rf"{CLIP_LAYER}self_attn\.out_proj\.{PARTS}": r"blocks.\1.attn.proj.\2",
    rf"{CLIP_LAYER}mlp\.(fc[12])\.{PARTS}": r"blocks.\1.mlp.\2.\3",
}
"""Names of the blocks of CLIP and SigLIP."""

OUTER = tuple(wrapper for wrapper in WRAPPERS if wrapper != "encoder.")
"""The prefixes that training code adds, without the one that is a part of transformers' own names."""


def make_reading(
    source: Source,
    tensors: Mapping[str, Tensor],
    reasons: Mapping[str, str],
    pool: Pool,
    profile: str = "transformers",
) -> Reading:
    """Return the reading of a checkpoint whose tensors already have the network's names.

    Args:
        source: the checkpoint, for its configs.
        tensors: under the network's names.
        reasons: of the family, in addition to the common ones.
        pool: the pooling of the head.
        profile: the original implementation.
    """
    config = source.config
    fields = transformers_config.network(config)
    preprocess, preprocess_reason = transformers_config.preprocess(config, source.processor)
    has_head = "head.weight" in tensors
    names = transformers_config.names(config)
    return Reading(
        layout="transformers",
        profile=profile,
        tensors=tensors,
        image_size=transformers_config.image_size(fields),
        num_heads=_num_heads(fields, tensors),
        act=transformers_config.act(fields),
        norm_eps=float(fields.get("layer_norm_eps") or fields["rms_norm_eps"]),
        pool=pool,
        expected=transformers_config.expected(config, has_head) | {"grid_size": _grid(fields, tensors)},
        preprocess=preprocess,
        names=names if has_head else None,
        multi_label=config.get("problem_type") == "multi_label_classification",
        head_kind="regression" if config.get("problem_type") == "regression" else "classes",
        reasons={**_reasons(config), "preprocess": preprocess_reason, **reasons},
    )


def _grid(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Return the grid that the config's image_size has, to check against the position embeddings."""
    if "pos_embed" not in tensors or fields.get("image_size") is None:
        return None
    (height, width), patch = transformers_config.pair(fields["image_size"]), tensors["patch_embed.proj.weight"].shape
    return height // patch[2], width // patch[3]


def _num_heads(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    heads = int(fields["num_attention_heads"])
    dim = tensors["patch_embed.proj.weight"].shape[0]
    if fields.get("head_dim") not in (None, dim // heads):
        raise CheckpointUnsupported(
            f"config.json: head_dim {fields['head_dim']} is not supported; it must be {dim // heads}, "
            f"for {dim} dimensions and {heads} heads"
        )
    return heads


def _reasons(config: Mapping[str, Any]) -> dict[str, str]:
    model = (config.get("architectures") or [config["model_type"]])[0]
    states_heads = "num_attention_heads" in (config.get("vision_config") or config)
    return {
        "layout": f"config.json names transformers' {model}, and the tensors have its names",
        "profile": "config.json is in transformers' format, so the original is transformers",
        "num_heads": "config.json" if states_heads else "config.json does not say, so it is the class's default, 12",
    }
