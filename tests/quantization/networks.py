"""Small networks of 8 bits, as they are opened from their files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from models.checkpoints.checkpoint import Checkpoint, open_checkpoint
from models.layouts.quantized import Calibration, Cost, Quantization
from models.layouts.source import Converted
from models.network.vit import VisionTransformer
from models.preprocess import Preprocess
from models.quantization.file import write
from models.quantization.quantize import quantize

COST = Cost((64, 64), 40, 0.99, 0.995, 0.999, 0.98)


def quiet(_: str) -> None:
    """Receive what is being done."""


def content_of(network: VisionTransformer, images: list[Tensor], **changes: Any) -> Converted:
    """The content of a checkpoint of 8 bits, made from a network that is not folded."""
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.fold()
    content = Converted("timm", "timm", network.config, weights, Preprocess((64, 64)), None)
    return quantized(replace(content, **changes), network, images)


def quantized(content: Converted, network: VisionTransformer, images: list[Tensor]) -> Converted:
    """The content of a checkpoint as one of 8 bits; the network is the one that is built from it."""
    made = quantize(network, images, quiet)
    kept = {name: tensor for name, tensor in content.weights.items() if not name.startswith("blocks.")}
    calibration = Calibration(len(images), "4567", ((64, 64),))
    quantization = Quantization(made.layers, made.left_out, "0123", calibration, (COST,))
    return replace(content, config=made.config, weights=kept | dict(made.weights), quantization=quantization)


def opened(content: Converted, folder: Path) -> Checkpoint:
    """The checkpoint, written and read."""
    write(content, folder)
    return open_checkpoint(str(folder))
