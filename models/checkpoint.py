"""From the path of a checkpoint to a network that runs: open, recognise, convert, build; strict, with reasons.

In: a directory in one of the public layouts. Out: a `Checkpoint`, and by `build` its `VisionTransformer`.
Only safetensors are read: they hold numbers and cannot run code.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.errors import CheckpointBroken, CheckpointNotFound, CheckpointUnsupported
from models.layouts import LAYOUTS
from models.layouts.source import Converted, Source
from models.vit import VisionTransformer

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was opened and understood.

    digest: of the weights under the network's own names; equal for equal numbers, whatever file they came in.
    """

    name: str
    source: str
    digest: str
    content: Converted


def open_checkpoint(source: str) -> Checkpoint:
    """Open a checkpoint directory and understand it.

    Raises:
        CheckpointNotFound: there is no such directory, or nothing to read in it.
        CheckpointUnsupported: no layout recognises it, or it is of a kind that the network cannot run.
        CheckpointBroken: a file is damaged, or a tensor is missing, unexpected or misshapen.
    """
    path = Path(source).expanduser()
    if not path.is_dir():
        raise CheckpointNotFound(f"{source}: there is no such directory")
    opened = Source(path, _tensors(path / WEIGHTS), _json(path / CONFIG))
    layout = next((layout for layout in LAYOUTS if layout.recognises(opened)), None)
    if layout is None:
        some = ", ".join(map(repr, sorted(opened.tensors)[:3])) or "none"
        raise CheckpointUnsupported(f"{source}: no known layout has these tensors ({some}, ...) and this config.json")
    content: Converted = layout.convert(opened)
    _check_shapes(content)
    return Checkpoint(path.resolve().name, source, _digest(content), content)


def build(checkpoint: Checkpoint) -> VisionTransformer:
    """The network with the checkpoint's weights, float32, on the CPU, ready for inference."""
    with torch.device("meta"):
        network = VisionTransformer(checkpoint.content.config)
    network.load_state_dict(dict(checkpoint.content.weights), strict=True, assign=True)
    return network.requires_grad_(False).eval()


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise CheckpointNotFound(f"{path.parent}: there is no {path.name} in it")
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointBroken(f"{path}: not a readable safetensors file ({error})") from error
    return tensors


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointBroken(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointBroken(f"{path}: holds {type(content).__name__}, not an object")
    return content


def _check_shapes(content: Converted) -> None:
    """Every parameter of the network is there, in its shape; the layouts have seen to it that nothing is left over."""
    with torch.device("meta"):
        expected = VisionTransformer(content.config).state_dict()
    for name, parameter in expected.items():
        if name not in content.weights:
            raise CheckpointBroken(f"tensor {name!r} is missing")
        if content.weights[name].shape != parameter.shape:
            found, wanted = tuple(content.weights[name].shape), tuple(parameter.shape)
            raise CheckpointBroken(f"tensor {name!r} has shape {found}, the network wants {wanted}")


def _digest(content: Converted) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(content.weights):
        digest.update(name.encode())
        digest.update(content.weights[name].contiguous().numpy().data)
    return digest.hexdigest()
