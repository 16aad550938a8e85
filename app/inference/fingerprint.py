"""The fingerprint: equal ones mean that answers can be compared."""

import hashlib
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from models.checkpoints.checkpoint import Checkpoint

NUMERICS = 2
"""Raise it only when the answers of the same weights change."""


def fingerprint(checkpoint: Checkpoint, dtype: str, colour: str) -> str:
    """Digest what decides the answers: weights, network, preprocessing, profile, dtype, colours and our numerics.

    The default of colours leaves it as it was before there was a choice.
    """
    content = checkpoint.content
    described = (_stated(content.config), _stated(content.preprocess), content.profile)
    parts: tuple[object, ...] = (checkpoint.digest, *described, dtype, NUMERICS)
    parts += () if colour == "original" else (colour,)
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()


def _stated(values: Any) -> dict[str, Any]:
    """Return the fields that differ from their defaults, also of rules among them.

    A new field does not change the fingerprints of models that do not use it.
    """
    stated = ((field, getattr(values, field.name)) for field in fields(values))
    return {
        field.name: _stated(value) if is_dataclass(value) else value
        for field, value in stated
        if field.default is MISSING or value != field.default
    }
