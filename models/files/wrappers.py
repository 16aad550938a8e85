"""Find the model's state dict in the nested dictionaries of a training checkpoint.

Where a file has an average of the weights over training (EMA, SWA), the average is the model: it is what the run
publishes and evaluates. What is left out is recorded, so that it can be said.

Sources: timm's `load_state_dict` (EMA weights before raw weights), the checkpoints of facebookresearch/dino and dinov2
(the teacher is the model), MSN and I-JEPA (the target encoder is the model), lucidrains/ema-pytorch (`ema_model`,
`online_model`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.tensors import abbreviate

AVERAGE = re.compile(r"(?:.*_)?(?:ema|swa|averaged)(?:_.*)?")
"""A key of an average of the weights: `state_dict_ema` (timm), `model_ema` (DeiT), `ema`, `ema_model`, `swa_model`."""

MODELS = (
    "state_dict",
    "model_state_dict",
    "model",
    "teacher",
    "student",
    "target_encoder",
    "encoder",
    "module",
    "shadow",
)
"""Keys of a state dict, in order of preference, after those of averages."""

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


OUTER = r"(?:(?:_orig_mod|module|model|net|base_model)\.)*"
PREFERRED = re.compile(rf"{OUTER}(teacher|ema_model|model_ema|ema|swa_model|averaged_model)\.(?:module\.)?")
"""Start of a key of the network to read, in a flat dictionary of several networks."""

OTHER = re.compile(rf"{OUTER}(student|online_model)\.")
"""Start of a key of the network that is not read beside it."""

BARE = re.compile(rf"{OUTER}(?:(?:student|online_model)\.(?:module\.)?)?")


@dataclass(frozen=True)
class Content:
    """The tensors of a file.

    Args:
        tensors: under the file's names.
        wrappers: the keys of the dictionaries around them, outermost first.
        left_out: the other networks in the file, by the key or the prefix of their names.
    """

    tensors: dict[str, Tensor]
    wrappers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def unwrap(content: Any, path: Path) -> Content:
    """Return the model's tensors in the content of a file, and the keys of the dictionaries around them."""
    keys: list[str] = []
    left_out: list[str] = []
    while isinstance(content, Mapping):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        chosen = None if _is_model(tensors) else _choose(content, path)
        if chosen is None:
            return Content(_check_flat(content, tensors, path), tuple(keys), tuple(left_out))
        left_out += [str(key) for key in content if key != chosen and _holds_network(content[key])]
        keys.append(chosen)
        content = content[chosen]
    raise CheckpointUnsupported(
        f"{path}: contains a {type(content).__name__}, not a dictionary of tensors; save a state_dict"
    )


def _choose(content: Mapping[Any, Any], path: Path) -> str | None:
    """Return the key of the model among those of a dictionary, or None if it has none."""
    averages = [str(key) for key in content if AVERAGE.fullmatch(str(key)) and _holds_network(content[key])]
    if len(averages) > 1:
        raise CheckpointUnsupported(
            f"{path}: contains several averages of the weights ({abbreviate(averages)}); save one of them in a file"
        )
    inner = [key for key in MODELS if isinstance(content.get(key), Mapping)]
    return next(iter([*averages, *inner]), None)


def _holds_network(content: Any) -> bool:
    """Return whether the tensors of a network are in this dictionary, or in one inside it."""
    if not isinstance(content, Mapping):
        return False
    if _is_model({str(key): value for key, value in content.items() if isinstance(value, Tensor)}):
        return True
    inner = (key for key in content if key in MODELS or AVERAGE.fullmatch(str(key)))
    return any(_holds_network(content[key]) for key in inner)


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


def one_network(content: Content) -> Content:
    """Return the content with only the teacher or the average, if one flat dictionary has several networks.

    Tensors that are not of another network stay, so that reading them says what they are. A network beside a teacher
    that is not called student is not left out: it may be what a teacher of another kind has taught.
    """
    roles = {key: match for key in content.tensors if (match := PREFERRED.match(key))}
    if not roles:
        return content
    prefixes = sorted({match[1] for match in roles.values()})
    if len(prefixes) > 1:
        raise CheckpointUnsupported(f"the file contains several networks ({', '.join(prefixes)}); save one of them")
    averaged = prefixes[0] != "teacher"
    names = {key: key[match.end() :] if averaged else key for key, match in roles.items()}
    bare = set(names.values()) if averaged else set()
    others = {
        key for key in content.tensors.keys() - roles.keys() if OTHER.match(key) or BARE.sub("", key, count=1) in bare
    }
    tensors = {names.get(key, key): tensor for key, tensor in content.tensors.items() if key not in others}
    return Content(tensors, (*content.wrappers, f"{prefixes[0]}.*"), (*content.left_out, *_prefixes(others)))


def _prefixes(keys: set[str]) -> list[str]:
    """Return the distinct starts of names, for people, such as `student.*`."""
    return sorted({f"{match[1]}.*" if (match := OTHER.match(key)) else "the weights beside it" for key in keys})
