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
    kept = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("blocks.")}
    network.fold()
    made = quantize(network, images, quiet)
    quantization = Quantization(
        made.layers, made.left_out, "0123", Calibration(len(images), "4567", ((64, 64),)), (COST,)
    )
    content = Converted(
        "timm", "timm", made.config, kept | dict(made.weights), Preprocess((64, 64)), None, {}, quantization
    )
    return replace(content, **changes)


def opened(content: Converted, folder: Path) -> Checkpoint:
    """The checkpoint, written and read."""
    write(content, folder)
    return open_checkpoint(str(folder))
