"""A description of a checkpoint, for `GET /model` and `vitrine inspect`."""

from dataclasses import asdict
from typing import Any

from models.checkpoints.checkpoint import Checkpoint

SCALES = (".weight_scale", ".input_scale", ".input_zero")
"""Ends of the names of tensors that belong to weights of 8 bits and are no parameters of their own."""


def assumptions(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the reasons that say what was assumed, where neither config nor tensors show it."""
    reasons = checkpoint.content.reasons
    return {name: reason for name, reason in reasons.items() if name == "assumed" or reason.startswith("assumed")}


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
