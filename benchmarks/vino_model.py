"""Write a classifier of transformers as a model of OpenVINO. `python -m benchmarks.vino_model MODEL FOLDER float|int8`.

8 bits are NNCF's post-training quantisation for transformers, calibrated on the pictures of
`benchmarks.photos.calibration`, as its documentation shows. FOLDER gets `model.xml` with a static shape and a batch of
one, `dynamic.xml` for any batch, and `facts.json`.
"""

import json
import sys
from pathlib import Path

import nncf
import numpy as np
import openvino
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image

import tests.originals  # noqa: F401 - transformers imports torchvision; this makes it importable with any build of torch
from benchmarks import photos


class _Logits(torch.nn.Module):
    """The network without transformers' classes around its output."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(batch, 3, height, width) -> (batch, classes)."""
        logits: torch.Tensor = self.model(pixels).logits
        return logits


def write(model: Path, folder: Path, *, int8: bool) -> None:
    """Convert a model, and quantise it if asked for."""
    network = transformers.AutoModelForImageClassification.from_pretrained(model).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(model)
    side = int(processor.size["height"])
    example = torch.zeros(1, 3, side, side)
    converted = openvino.convert_model(_Logits(network), example_input=example, input=[-1, 3, side, side])
    if int8:
        pictures = [_pixels(one, side, processor) for one in photos.calibration()]
        converted = nncf.quantize(
            converted,
            nncf.Dataset(pictures),
            subset_size=len(pictures),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
        )
    folder.mkdir(parents=True)
    openvino.save_model(converted, folder / "dynamic.xml", compress_to_fp16=False)
    converted.reshape([1, 3, side, side])
    openvino.save_model(converted, folder / "model.xml", compress_to_fp16=False)
    facts = {"side": side, "mean": processor.image_mean, "std": processor.image_std}
    (folder / "facts.json").write_text(json.dumps(facts))


def _pixels(picture: Image.Image, side: int, processor: transformers.BaseImageProcessor) -> NDArray[np.float32]:
    resized = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
    normalised = (resized - processor.image_mean) / processor.image_std
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None], np.float32)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]), int8=sys.argv[3] == "int8")
