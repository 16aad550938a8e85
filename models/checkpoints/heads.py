"""Heads: in files of their own, on a BatchNorm, of zeros, or no classifiers at all.

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
from models.layouts.tensors import some_names
from models.network.pooling import Pool, pooled_width

LINEAR = re.compile(r"(?:module\.)?(?:classifiers_dict\.(?P<name>[^.]+)\.)?(?:linear\.|head\.)?(?P<part>weight|bias)")
TRAINED = re.compile(r"classifier_(?P<layers>\d+)_blocks_avgpool_(?P<mean>True|False)")

WIDTHS: dict[str, dict[int, tuple[Pool, int]]] = {
    "dinov2": {1: ("cls", 1), 2: ("cls_avg", 1), 5: ("cls_avg", 4)},
    "dino": {1: ("cls", 1), 2: ("cls_avg_interleaved", 1), 3: ("cls", 3), 4: ("cls", 4)},
}
"""Of an original: F / D -> what its heads of that width read, and of how many last blocks."""


def is_head(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file holds a linear head alone."""
    return bool(tensors) and all(LINEAR.fullmatch(key) for key in tensors)


def attach(reading: Reading, path: str) -> Reading:
    """The reading with the linear head of a file of its own, and with the pooling that this head was trained on.

    Raises CheckpointError for a file that holds no such head, several, or one of a width that nothing explains.
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
    read = f"{pool} of the last {layers} blocks" if layers > 1 else pool
    own = "head.weight" in reading.tensors
    reason = f"{Path(path).name}: {weight.shape[1]} features for {dim} dimensions, so it reads {read}"
    return replace(
        reading,
        tensors=tensors,
        pool=pool,
        pool_layers=layers,
        names=None if own else reading.names,
        expected={key: value for key, value in reading.expected.items() if key != "num_classes"},
        reasons=dict(reading.reasons) | {"head": reason + (", in place of the checkpoint's own" if own else "")},
    )


def _read_head(path: Path) -> tuple[Tensor, Tensor | None, str]:
    """Its weight (K, F), its bias (K) if it has one, and its name in a file of training's many."""
    if not is_file(path):
        raise CheckpointNotFound(f"{path}: there is no such file, which should hold the linear head")
    tensors, _ = read_tensors(path)
    parts = [(match, tensor) for key, tensor in tensors.items() if (match := LINEAR.fullmatch(key))]
    if len(parts) != len(tensors) or not parts:
        raise CheckpointUnsupported(f"{path}: holds no linear head alone, but {some_names(tensors)}")
    names = {match["name"] or "" for match, _ in parts}
    if len(names) > 1:
        raise CheckpointUnsupported(
            f"{path}: holds {len(names)} heads ({some_names(names)}); keep the one that is meant"
        )
    found = {match["part"]: tensor.float() for match, tensor in parts}
    if "weight" not in found or found["weight"].dim() != 2:
        raise CheckpointBroken(f"{path}: tensor 'weight' of the linear head is missing or no matrix")
    return found["weight"], found.get("bias"), names.pop()


def _pooling(profile: str, width: int, dim: int, name: str) -> tuple[Pool, int]:
    """What a head of this width reads."""
    if trained := TRAINED.match(name):
        layers, pool = int(trained["layers"]), ("cls_avg" if trained["mean"] == "True" else "cls")
        choice: tuple[Pool, int] | None = ("cls_avg", layers) if pool == "cls_avg" else ("cls", layers)
    else:
        known = WIDTHS["dino" if profile == "dino" else "dinov2"]
        choice = known.get(width // dim) if width % dim == 0 else None
    if choice is None or pooled_width(*choice) * dim != width:
        raise CheckpointUnsupported(f"the head reads {width} features; no known pooling makes them of {dim} dimensions")
    return choice


def tidy(reading: Reading) -> Reading:
    """The reading with a head that is a classifier, or without one."""
    for step in (_fold_batch_norm, _drop_zeros, _drop_background, _drop_unused_projection, _regression_as_projection):
        reading = step(reading)
    return reading


def _fold_batch_norm(reading: Reading) -> Reading:
    """MAE's linear probe has a BatchNorm without parameters before the head: W (x - m) / s = (W / s) x - (W / s) m."""
    tensors = dict(reading.tensors)
    mean, var = tensors.pop("head_norm.running_mean", None), tensors.pop("head_norm.running_var", None)
    if mean is None and var is None:
        return reading
    if mean is None or var is None or "head.weight" not in tensors or "head.bias" not in tensors:
        raise CheckpointBroken("the BatchNorm before the head, 'head.0', or the head after it, 'head.1', is incomplete")
    weight = tensors["head.weight"].double() / (var.double() + 1e-6).sqrt()
    tensors["head.bias"] = (tensors["head.bias"].double() - weight @ mean.double()).float()
    tensors["head.weight"] = weight.float()
    return _because(reading, tensors, "head", "a linear probe: its BatchNorm was folded into the head")


def _drop_zeros(reading: Reading) -> Reading:
    """A head that was never trained is all zeros (Google's ImageNet-21k files), and answers nothing."""
    head = reading.tensors.get("head.weight")
    if head is None or head.any():
        return reading
    tensors = {key: value for key, value in reading.tensors.items() if not key.startswith(("head.", "head_dist."))}
    expected = {key: value for key, value in reading.expected.items() if key != "num_classes"}
    return _because(
        replace(reading, expected=expected), tensors, "head", "left out: its weights are all zero, it was never trained"
    )


def _drop_background(reading: Reading) -> Reading:
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
    return _because(
        reading, tensors, "head", f"its first {offset} outputs, background, were left out as label_offset says"
    )


def _drop_unused_projection(reading: Reading) -> Reading:
    """A representation layer counts only where the head sits on it."""
    projection, head = reading.tensors.get("projection.weight"), reading.tensors.get("head.weight")
    if projection is None or head is None or projection.shape[0] == head.shape[1]:
        return reading
    tensors = {key: value for key, value in reading.tensors.items() if not key.startswith("projection.")}
    return _because(reading, tensors, "projection", "left out: the head does not read its width")


def _regression_as_projection(reading: Reading) -> Reading:
    """Outputs that are no classes are what the network ends in, as a projection is, and there is no classifier."""
    if reading.head_kind != "regression" or "head.weight" not in reading.tensors:
        return reading
    if "projection.weight" in reading.tensors:
        raise CheckpointUnsupported("a regression head on a representation layer is not supported")
    tensors = {re.sub(r"^head\.", "projection.", key): value for key, value in reading.tensors.items()}
    expected = {key: value for key, value in reading.expected.items() if key != "num_classes"}
    reading = replace(reading, projection_tanh=False, expected=expected)
    return _because(reading, tensors, "head", "a regression: its outputs are no classes; they are the `native` vector")


def _because(reading: Reading, tensors: Mapping[str, torch.Tensor], what: str, why: str) -> Reading:
    return replace(reading, tensors=tensors, reasons=dict(reading.reasons) | {what: why})
