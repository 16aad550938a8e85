"""Write a head to a file and read it: safetensors, with the rest of the head as JSON in the metadata.

    weight (K, D), bias (K,), centres (K, D), reference (m,), vectors (n, D), labels (n,)
    metadata: format = vitrine-head-1, head = JSON

The file runs no code when it is read, and everything in it is checked.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from app.heads.examples import Examples
from app.heads.head import Head, Method, Quality, Space
from models.errors import CheckpointBroken, CheckpointNotFound

FORMAT = "vitrine-head-1"
ARRAYS = ("weight", "bias", "centres", "reference", "vectors", "labels")


def head_bytes(head: Head) -> bytes:
    """Return the contents of a head's file."""
    arrays: dict[str, NDArray[Any]] = {
        "weight": head.weight,
        "bias": head.bias,
        "centres": head.centres,
        "reference": head.reference,
        "vectors": head.examples.vectors,
        "labels": head.examples.labels,
    }
    facts = {
        "space": asdict(head.space),
        "method": head.method,
        "temperature": head.temperature,
        "width": head.width,
        "strength": head.strength,
        "calibrated": head.calibrated,
        "created": head.created,
        "number": head.number,
        "classes": head.classes,
        "names": head.examples.names,
        "digests": head.examples.digests,
        "quality": asdict(head.quality),
    }
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(contiguous, {"format": FORMAT, "head": json.dumps(facts), "version": head.version})


def is_fitted_head(path: Path) -> bool:
    """Return whether a file is one that `head_bytes` made; any other file, or none, is not."""
    try:
        with safe_open(path, "numpy") as file:
            return bool((file.metadata() or {}).get("format", "").startswith("vitrine-head-"))
    except (OSError, SafetensorError):
        return False


def read_head(path: Path) -> Head:
    """Return the head in a file. Raises CheckpointNotFound, CheckpointBroken."""
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except FileNotFoundError as error:
        raise CheckpointNotFound(f"{path}: no such file") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointBroken(f"{path}: not a readable file of a head ({error})") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointBroken(f"{path}: not a head of this version of vitrine ({FORMAT})")
    try:
        head = _head(json.loads(metadata["head"]), arrays)
        _check(head)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointBroken(f"{path}: the head is damaged ({error})") from error
    if head.version != metadata.get("version"):
        raise CheckpointBroken(f"{path}: the head is damaged: its contents are not those of its version")
    return head


def _head(facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Head:
    space, quality = dict(facts["space"]), dict(facts["quality"])
    space["size"] = None if space["size"] is None else tuple(space["size"])
    quality |= {name: tuple(map(tuple, quality[name])) for name in ("confusions", "suspects")}
    quality["recall"] = tuple(quality["recall"])
    return Head(
        space=Space(**space),
        method=facts["method"],
        examples=Examples(
            arrays["vectors"], arrays["labels"], *(tuple(facts[name]) for name in ("classes", "names", "digests"))
        ),
        weight=arrays["weight"],
        bias=arrays["bias"],
        temperature=float(facts["temperature"]),
        width=facts["width"],
        strength=facts["strength"],
        calibrated=bool(facts["calibrated"]),
        centres=arrays["centres"],
        reference=arrays["reference"],
        quality=Quality(**quality),
        created=facts["created"],
        number=int(facts["number"]),
    )


def _check(head: Head) -> None:
    """Raise ValueError for parts that do not fit together, and for numbers that are not finite."""
    count, classes, dim = len(head.examples), len(head.classes), head.weight.shape[1]
    expected = {
        "weight": (head.weight, (classes, dim)),
        "bias": (head.bias, (classes,)),
        "centres": (head.centres, (classes, dim)),
        "reference": (head.reference, head.reference.shape[:1]),
        "vectors": (head.examples.vectors, (count, dim)),
    }
    for name, (array, shape) in expected.items():
        if array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError(f"{name} is not an array {shape} of finite numbers")
    labels = head.examples.labels
    indices = labels.shape == (count,) and labels.dtype == np.int32 and count > 0
    if not indices or not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError("the labels are not indices of the classes")
    if not len(head.examples.names) == len(head.examples.digests) == count:
        raise ValueError("the examples have no names or digests")
    if head.method not in get_args(Method) or not head.temperature > 0 or not (head.width is None or head.width > 0):
        raise ValueError("the method, the temperature or the width is not one that fitting gives")
