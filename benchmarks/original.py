"""Classification with transformers, shared by the two services that Vitrine is compared with.

It runs in float32 and eager mode, as transformers' documentation shows. The model's directory is in the variable MODEL.
"""

import io
import os
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from PIL import Image

import tests.originals  # noqa: F401 - transformers imports torchvision; this makes it importable with any build of torch


class Original:
    """A classifier of transformers with its image processor."""

    def __init__(self) -> None:
        self._processor = transformers.AutoImageProcessor.from_pretrained(os.environ["MODEL"])
        self._model = transformers.AutoModelForImageClassification.from_pretrained(os.environ["MODEL"]).eval()

    def decode(self, data: bytes) -> torch.Tensor:
        """Decode and preprocess a file: bytes -> (3, height, width)."""
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        pixels: torch.Tensor = self._processor(images=picture, return_tensors="pt")["pixel_values"]
        return pixels[0]

    def classify(self, pictures: Sequence[torch.Tensor]) -> list[list[dict[str, Any]]]:
        """Return the top five classes of each picture (3, height, width)."""
        with torch.inference_mode():
            best = self._model(torch.stack(list(pictures))).logits.softmax(1).topk(5)
        return [
            [{"index": index, "score": score} for index, score in zip(indices, scores, strict=True)]
            for indices, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
