"""Special cases of heads: in a separate file, after a BatchNorm, all zeros, or not a classifier.

Sources: facebookresearch/dino `eval_linear.py` (the last n [CLS] tokens concatenated, or [CLS] and mean interleaved),
dinov2 `dinov2/hub/classifiers.py` and `dinov2/eval/linear.py`, mae `main_linprobe.py`.
Shapes: D embedding dimension, K classes, F features that the head reads.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from models.errors import CheckpointBroken, CheckpointNotFound, CheckpointUnsupported
from models.files.opening import read_tensors
from models.files.readable import is_file
from models.layouts.source import Reading
from models.layouts.tensors import abbreviate, refuse_integers
from models.network.pooling import Pool, pooled_width

LINEAR = re.compile(r"(?:module\.)?(?:classifiers_dict\.(?P<name>[^.]+)\.)?(?:linear\.|head\.)?(?P<part>weight|bias)")
DINOV2_RUN = re.compile(r"classifier_(?P<layers>\d+)_blocks_avgpool_(?P<mean>True|False)")

POOL_BY_WIDTH: dict[str, dict[int, tuple[Pool, int]]] = {
    "dinov2": {1: ("cls", 1), 2: ("cls_avg", 1), 5: ("cls_avg", 4)},
    "dino": {1: ("cls", 1), 2: ("cls_avg_interleaved", 1), 3: ("cls", 3), 4: ("cls", 4)},
}
"""By original: F / D -> the pooling that a head of that width was trained on, and how many last blocks it reads."""


def is_head(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a file contains only a linear head."""
    return bool(tensors) and all(LINEAR.fullmatch(key) for key in tensors)


def attach_head(reading: Reading, path: str) -> Reading:
    """Return the reading with the linear head of a separate file, and with the pooling that the head was trained on.

    Raises CheckpointError for a file without a linear head, with several, or with one of an unknown width.
    """
    weight, bias, name = _read_head(Path(path).expanduser())
    dim = reading.tensors["patch_embed.proj.weight"].shape[0]
    pool, layers = _pooling(reading.profile, weight.shape[1], dim, name)
    tensors = {
        key: value
        for key, value in reading.tensors.items()
        if not key.startswith(("head.", "head_dist.", "head_norm."))
    }
    tensors |= {"head.weight": weight, "head.bias": torch.zeros(weight.shape[0]) if bias is None else bias}
    pooling = f"{pool} of the last {layers} blocks" if layers > 1 else pool
    replaces = "head.weight" in reading.tensors
    reason = f"{Path(path).name}: it reads {weight.shape[1]} features of {dim} dimensions, so its input is {pooling}"
    return replace(
        reading,
        tensors=tensors,
        pool=pool,
        pool_layers=layers,
        names=None if replaces else reading.names,
        expected={key: value for key, value in reading.expected.items() if key != "num_classes"},
        reasons=dict(reading.reasons)
        | {"head": reason + ("; it replaces the checkpoint's own head" if replaces else "")},
    )


def _read_head(path: Path) -> tuple[Tensor, Tensor | None, str]:
    """Return the head's weight (K, F), its bias (K) or None, and its name in a training run of several heads."""
    if not is_file(path):
        raise CheckpointNotFound(f"{path}: no such file; head must be a file with a linear head")
    tensors = read_tensors(path).tensors
    parts = [(match, tensor) for key, tensor in tensors.items() if (match := LINEAR.fullmatch(key))]
    if len(parts) != len(tensors) or not parts:
        raise CheckpointUnsupported(f"{path}: not a linear head; it contains {abbreviate(tensors)}")
    names = {match["name"] or "" for match, _ in parts}
    if len(names) > 1:
        raise CheckpointUnsupported(
            f"{path}: contains {len(names)} heads ({abbreviate(names)}); save one of them in a file"
        )
    refuse_integers(tensors)
    found = {match["part"]: tensor.float() for match, tensor in parts}
    if "weight" not in found or found["weight"].dim() != 2:
        raise CheckpointBroken(f"{path}: tensor 'weight' of the linear head is missing or is not a matrix")
    return found["weight"], found.get("bias"), names.pop()


def _pooling(profile: str, width: int, dim: int, name: str) -> tuple[Pool, int]:
    """Return the pooling that a head of this width reads, and how many last blocks it reads."""
    if trained := DINOV2_RUN.match(name):
        layers, pool = int(trained["layers"]), ("cls_avg" if trained["mean"] == "True" else "cls")
        choice: tuple[Pool, int] | None = ("cls_avg", layers) if pool == "cls_avg" else ("cls", layers)
    else:
        known = POOL_BY_WIDTH["dino" if profile == "dino" else "dinov2"]
        choice = known.get(width // dim) if width % dim == 0 else None
    if choice is None or pooled_width(*choice) * dim != width:
        raise CheckpointUnsupported(
            f"the head reads {width} features; no known pooling gives that width for {dim} dimensions"
        )
    return choice


def clean_head(reading: Reading) -> Reading:
    """Return the reading with a head that is a trained classifier, or without a head."""
    for step in (_fold_batch_norm, _drop_zeros, _drop_background, _drop_unused_projection, _regression_as_projection):
        reading = step(reading)
    return reading


def _fold_batch_norm(reading: Reading) -> Reading:
    """Fold the BatchNorm of MAE's linear probe into the head: W (x - m) / s = (W / s) x - (W / s) m."""
    tensors = dict(reading.tensors)
    mean, var = tensors.pop("head_norm.running_mean", None), tensors.pop("head_norm.running_var", None)
    if mean is None and var is None:
        return reading
    if mean is None or var is None or "head.weight" not in tensors or "head.bias" not in tensors:
        raise CheckpointBroken(
            "a tensor of the linear probe is missing: of the BatchNorm 'head.0' or of the head 'head.1'"
        )
    weight = tensors["head.weight"].double() / (var.double() + 1e-6).sqrt()
    tensors["head.bias"] = (tensors["head.bias"].double() - weight @ mean.double()).float()
    tensors["head.weight"] = weight.float()
    return _with_reason(reading, tensors, "head", "a linear probe; its BatchNorm is folded into the head")


def _drop_zeros(reading: Reading) -> Reading:
    """Drop a head of zeros, which was never trained (Google's ImageNet-21k files)."""
    head = reading.tensors.get("head.weight")
    if head is None or head.any():
        return reading
    tensors = {key: value for key, value in reading.tensors.items() if not key.startswith(("head.", "head_dist."))}
    expected = {key: value for key, value in reading.expected.items() if key != "num_classes"}
    return _with_reason(
        replace(reading, expected=expected),
        tensors,
        "head",
        "left out: all its weights are zero, so it was never trained",
    )


def _drop_background(reading: Reading) -> Reading:
    """Drop the leading outputs for the background class, as many as timm's `label_offset` says."""
    if not reading.label_offset or "head.weight" not in reading.tensors:
        return reading
    offset = reading.label_offset
    tensors = {key: value[offset:] if key.startswith("head.") else value for key, value in reading.tensors.items()}
    classes = reading.expected.get("num_classes")
    names = reading.names
    if names and len(names) == reading.tensors["head.weight"].shape[0]:
        names = names[offset:]
    reading = replace(
        reading, names=names, expected=dict(reading.expected) | {"num_classes": classes and classes - offset}
    )
    return _with_reason(
        reading,
        tensors,
        "head",
        f"the first {offset} outputs are left out: label_offset in config.json marks them as background",
    )


def _drop_unused_projection(reading: Reading) -> Reading:
    """Drop a representation layer (pre-logits) that the head does not read."""
    projection, head = reading.tensors.get("projection.weight"), reading.tensors.get("head.weight")
    if projection is None or head is None or projection.shape[0] == head.shape[1]:
        return reading
    tensors = {key: value for key, value in reading.tensors.items() if not key.startswith("projection.")}
    return _with_reason(reading, tensors, "projection", "left out: its width is not the head's input width")


def _regression_as_projection(reading: Reading) -> Reading:
    """Turn a regression head into a projection: its outputs are not classes, so they become the native vector."""
    if reading.head_kind != "regression" or "head.weight" not in reading.tensors:
        return reading
    if "projection.weight" in reading.tensors:
        raise CheckpointUnsupported("a regression head on a representation layer is not supported")
    tensors = {re.sub(r"^head\.", "projection.", key): value for key, value in reading.tensors.items()}
    expected = {key: value for key, value in reading.expected.items() if key != "num_classes"}
    reading = replace(reading, projection_tanh=False, expected=expected)
    return _with_reason(
        reading, tensors, "head", "a regression head: its outputs are not classes, so they are the `native` vector"
    )


def _with_reason(reading: Reading, tensors: Mapping[str, torch.Tensor], key: str, reason: str) -> Reading:
    return replace(reading, tensors=tensors, reasons=dict(reading.reasons) | {key: reason})
