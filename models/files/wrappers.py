"""Find the model's state dict in the nested dictionaries of a training checkpoint.

Sources: timm's `load_state_dict` (EMA weights before raw weights), the checkpoints of facebookresearch/dino and dinov2
(the teacher is the model), MSN and I-JEPA (the target encoder is the model).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.tensors import abbreviate

MODELS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "teacher",
    "student",
    "target_encoder",
    "encoder",
    "module",
)
"""Keys of a state dict, in order of preference."""

TRAINING = frozenset(
    [
        "optimizer",
        "optimizers",
        "scheduler",
        "lr_scheduler",
        "scaler",
        "fp16_scaler",
        "dino_loss",
        "epoch",
        "iteration",
        "step",
        "args",
        "config",
        "version",
        "metric",
        "best_acc",
        "arch",
        "amp_scaler",
        "loss",
        "lr",
        "batch_size",
        "epochs",
        "world_size",
        "classifier",
        "max_accuracy",
        "ema_decay",
    ]
)
"""Other keys of a training checkpoint, which are ignored."""


def unwrap(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the model's tensors in the content of a file, and the keys of the dictionaries around them."""
    keys: list[str] = []
    while isinstance(content, Mapping):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        inner = [key for key in MODELS if isinstance(content.get(key), Mapping)]
        if not inner or _is_model(tensors):
            return _without_student(_check_flat(content, tensors, path)), tuple(keys)
        keys.append(inner[0])
        content = content[inner[0]]
    raise CheckpointUnsupported(
        f"{path}: contains a {type(content).__name__}, not a dictionary of tensors; save a state_dict"
    )


def _is_model(tensors: Mapping[str, Tensor]) -> bool:
    # One matrix is not a model: training checkpoints also contain the centre of a loss or a step counter as a tensor.
    return sum(tensor.dim() > 1 for tensor in tensors.values()) > 1


def _check_flat(content: Mapping[Any, Any], tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    if not tensors:
        raise CheckpointUnsupported(
            f"{path}: contains no tensors, and no model under {', '.join(MODELS)}; save a state_dict"
        )
    rest = {str(key) for key in content if str(key) not in tensors} - TRAINING
    if rest:
        raise CheckpointBroken(
            f"{path}: contains entries that are not tensors: {abbreviate(rest)}; save only the state_dict"
        )
    return tensors


def _without_student(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep only the teacher if one flat dictionary contains both networks of self-distillation."""
    if not any(key.startswith("teacher.") for key in tensors):
        return tensors
    return {key: tensor for key, tensor in tensors.items() if not key.startswith("student.")}
