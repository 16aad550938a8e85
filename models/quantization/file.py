"""The files of a network of 8 bits: config.json and model.safetensors, which only Vitrine reads.

config.json has the network's config, preprocessing and labels in Vitrine's own terms, under a format with a version;
model.safetensors has the tensors under the network's names. Layers that are not of 8 bits are kept in bfloat16, which
they are computed in where a processor does so natively.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from models.errors import CheckpointBroken, CheckpointUnsupported
from models.files.writing import write_tensors
from models.layouts.quantized import Quantization
from models.layouts.source import Choices, Converted, Source
from models.network.config import ViTConfig
from models.network.kernels.quantized import LEVELS
from models.network.quantized import linear_layers
from models.preprocess import Labels, Preprocess

FORMAT, VERSION = "vitrine-int8", 1


@dataclass(frozen=True)
class Facts:
    """What config.json has."""

    format: str
    version: int
    layout: str
    profile: str
    config: ViTConfig
    preprocess: Preprocess
    labels: Labels | None
    reasons: dict[str, str]
    quantization: Quantization


FACTS = TypeAdapter(Facts)


def write(content: Converted, folder: Path) -> None:
    """Write both files into a directory. Raises OSError."""
    assert content.quantization is not None  # noqa: S101 - only such networks have this format
    folder.mkdir(parents=True, exist_ok=True)
    facts = Facts(
        *(FORMAT, VERSION, content.layout, content.profile, content.config, content.preprocess, content.labels),
        *(dict(content.reasons), content.quantization),
    )
    narrow = {f"{name}.weight" for name in content.quantization.left_out}
    weights = {
        name: (tensor.bfloat16() if name in narrow else tensor).contiguous() for name, tensor in content.weights.items()
    }
    write_tensors(weights, folder / "model.safetensors", FORMAT)
    text = json.dumps(FACTS.dump_python(facts, mode="json"), indent=1, ensure_ascii=False)
    (folder / "config.json").write_text(f"{text}\n", encoding="utf-8")


def recognises(source: Source) -> bool:
    """Return whether config.json says that this is such a network."""
    return source.config.get("format") == FORMAT


def read(source: Source, choices: Choices) -> Converted:
    """Return the network.

    Raises CheckpointUnsupported for another version and for choices that were made when it was written, and
    CheckpointBroken for a config that is not as `write` leaves it.
    """
    version = source.config.get("version")
    if version != VERSION:
        raise CheckpointUnsupported(
            f"is of version {version!r} of the format {FORMAT}; this release reads version {VERSION}: write it again "
            "with vitrine quantize"
        )
    if chosen := [name for name, value in vars(choices).items() if value is not None]:
        raise CheckpointUnsupported(
            f"is a checkpoint of 8 bits, which keeps its {chosen[0]}; set {chosen[0]} for vitrine quantize instead"
        )
    facts = _facts(source.config)
    if unknown := set(facts.quantization.layers) - set(linear_layers(facts.config.depth)):
        raise CheckpointBroken(f"config.json: {min(unknown)!r} is not a layer that can be of 8 bits")
    weights = {name: _widened(name, tensor, facts.quantization) for name, tensor in source.tensors.items()}
    _check_grids(weights)
    return Converted(
        layout=facts.layout,
        profile=facts.profile,
        config=facts.config,
        weights=weights,
        preprocess=facts.preprocess,
        labels=facts.labels,
        reasons=facts.reasons,
        quantization=facts.quantization,
    )


def _facts(config: Mapping[str, Any]) -> Facts:
    try:
        return FACTS.validate_python(config)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise CheckpointBroken(f"config.json: {place}: {fault['msg'].lower()}; write it again") from error


def _check_grids(weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointBroken for a scale or a zero point of inputs that is none."""
    for name, tensor in weights.items():
        scale, zero = name.endswith(".input_scale"), name.endswith(".input_zero")
        if (scale or zero) and tensor.numel() != 1:
            raise CheckpointBroken(f"tensor {name!r} has shape {tuple(tensor.shape)}; it must be one number")
        if (scale and not tensor > 0) or (zero and (not 0 <= tensor <= LEVELS or tensor != tensor.round())):
            raise CheckpointBroken(f"tensor {name!r} is {float(tensor)}")


def _widened(name: str, tensor: Tensor, quantization: Quantization) -> Tensor:
    """Return a tensor in float32, unless it holds weights of 8 bits. Raises CheckpointBroken for another type."""
    whole = name.removesuffix(".weight") in quantization.layers and name.endswith(".weight")
    if (tensor.dtype == torch.int8) != whole or not (whole or tensor.is_floating_point()):
        raise CheckpointBroken(f"tensor {name!r} is of type {str(tensor.dtype).removeprefix('torch.')}")
    return tensor if whole else tensor.float()
