"""A head in words and numbers, as JSON: for the list of heads, GET /model and `vitrine inspect`."""

from collections.abc import Mapping
from typing import Any

from app.heads.head import Head


def describe_head(head: Head) -> dict[str, Any]:
    """Return what a head is: its classes, how it was fitted, how good it is, and the vectors that it reads."""
    quality, space = head.quality, head.space
    counts = head.examples.counts.tolist()
    return {
        "version": head.version,
        "created": head.created,
        "method": head.method,
        "strength": head.strength,
        "temperature": head.temperature,
        "examples": len(head.examples),
        "classes": [
            {"label": label, "examples": count, "recall": recall}
            for label, count, recall in zip(head.classes, counts, quality.recall, strict=True)
        ],
        "measured": quality.by,
        "accuracy": quality.accuracy,
        "calibration_error": quality.calibration_error,
        "model": space.model,
        "fingerprint": space.fingerprint,
        "dtype": space.dtype,
        "pool": space.pool,
        "size": list(space.size) if space.size else None,
        "resize": space.resize,
        "max_patches": space.max_patches,
    }


def head_facts(head: Head, reasons: Mapping[str, str]) -> dict[str, Any]:
    """Return the members of a checkpoint's description that a fitted head changes."""
    reason = f"{head.method}, fitted from {len(head.examples)} examples of the {head.space.pool} vector of length 1"
    return {
        "classes": len(head.classes),
        "labels": list(head.classes),
        "reasons": {**reasons, "labels": "the fitted head lists them", "head": reason},
    }
