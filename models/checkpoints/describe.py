"""A description of a checkpoint, for `GET /model` and `vitrine inspect`."""

from dataclasses import asdict
from typing import Any

from models.checkpoints.checkpoint import Checkpoint
from models.layouts.quantized import Cost

SCALES = (".weight_scale", ".input_scale", ".input_zero")
"""Ends of the names of tensors that belong to weights of 8 bits and are no parameters of their own."""


def assumptions(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the reasons that say what was assumed, where neither config nor tensors show it."""
    reasons = checkpoint.content.reasons
    return {name: reason for name, reason in reasons.items() if name == "assumed" or reason.startswith("assumed")}


def accuracy(checkpoint: Checkpoint) -> list[str]:
    """Return what a checkpoint of 8 bits costs in accuracy, a sentence for each size; nothing for others."""
    made = checkpoint.content.quantization
    if made is None:
        return []
    layers = f"int8 in {len(made.layers)} of {len(made.layers) + len(made.left_out)} linear layers"
    return [f"{layers}; {sentence(cost)}" for cost in made.costs]


def sentence(cost: Cost) -> str:
    """Return what 8 bits cost at one size, for people."""
    height, width = cost.size
    cosines = f"least {cost.cosine_least:.4f}, 1st percentile {cost.cosine_p1:.4f}, median {cost.cosine_median:.5f}"
    same = "" if cost.same_class is None else f", same best class {cost.same_class:.1%}"
    return f"against float32 on {cost.pictures} pictures at {width} x {height}: cosine {cosines}{same}"


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what was recognised in a checkpoint, with the reasons, as JSON-compatible values."""
    content = checkpoint.content
    config, preprocess = content.config, content.preprocess
    return {
        "name": checkpoint.name,
        "source": checkpoint.source,
        "layout": content.layout,
        "profile": content.profile,
        "reasons": dict(content.reasons),
        "parameters": sum(tensor.numel() for name, tensor in content.weights.items() if not name.endswith(SCALES)),
        "depth": config.depth,
        "width": config.embed_dim,
        "heads": config.num_heads,
        "patch": list(config.patch_size),
        "input_size": list(preprocess.input_size),
        "table_grid": list(config.grid_size),
        "prefix_tokens": config.num_prefix_tokens,
        "class_token": config.class_token,
        "position": asdict(config.position) if config.position else None,
        "rotary": asdict(config.rotary) if config.rotary else None,
        "relative": asdict(config.relative) if config.relative else None,
        "activation": "swiglu" if config.swiglu else config.act,
        "norm": config.norm_type,
        "norm_eps": config.norm_eps,
        "pool": config.pool,
        "native_dim": config.native_dim,
        "classes": config.num_classes,
        "labels": list(content.labels.names) if content.labels else None,
        "preprocessing": asdict(preprocess) | {"crop_pct": float(preprocess.crop_pct)},
        "quantization": asdict(content.quantization) if content.quantization else None,
    }
