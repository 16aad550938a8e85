"""The dictionaries that training code wraps round its weights: which of them is the model.

Sources: timm's `load_state_dict` (EMA before raw weights), the checkpoints of facebookresearch/dino and dinov2 (the
teacher is the model), MSN and I-JEPA (the target encoder is).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.tensors import some_names

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
"""Keys that hold a model, the one to take first before those that it is better than."""

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
"""What else lies beside a model in a training checkpoint."""


def unwrap(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors in what a file held, and the keys that led to them."""
    taken: list[str] = []
    while isinstance(content, Mapping):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        inner = [key for key in MODELS if isinstance(content.get(key), Mapping)]
        if not inner or _is_model(tensors):
            return _without_student(_flat(content, tensors, path)), tuple(taken)
        taken.append(inner[0])
        content = content[inner[0]]
    raise CheckpointUnsupported(f"{path}: holds {type(content).__name__}, not a dictionary of tensors")


def _is_model(tensors: Mapping[str, Tensor]) -> bool:
    # A training checkpoint may keep a loss's centre or a step counter as a tensor beside the model.
    return sum(tensor.dim() > 1 for tensor in tensors.values()) > 1


def _flat(content: Mapping[Any, Any], tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    if not tensors:
        raise CheckpointUnsupported(f"{path}: holds no tensors, nor a model under any of {', '.join(MODELS)}")
    rest = {str(key) for key in content if str(key) not in tensors} - TRAINING
    if rest:
        raise CheckpointBroken(f"{path}: beside its tensors there are {some_names(rest)}, which are none")
    return tensors


def _without_student(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where one flat dictionary holds both networks of a self-distillation, the teacher is the model."""
    if not any(key.startswith("teacher.") for key in tensors):
        return tensors
    return {key: tensor for key, tensor in tensors.items() if not key.startswith("student.")}
