"""transformers' own answer to a picture: what the two services that Vitrine is compared with have in common.

In float32 and eager, as its documentation shows it. Both read the directory's name from MODEL.
"""

import io
import os
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from PIL import Image

import tests.originals  # noqa: F401 - transformers wants torchvision, and here it is one that imports on any build of torch


class Original:
    """A classifier."""

    def __init__(self) -> None:
        self._processor = transformers.AutoImageProcessor.from_pretrained(os.environ["MODEL"])
        self._model = transformers.AutoModelForImageClassification.from_pretrained(os.environ["MODEL"]).eval()

    def decode(self, data: bytes) -> torch.Tensor:
        """A file's bytes -> (3, height, width)."""
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        pixels: torch.Tensor = self._processor(images=picture, return_tensors="pt")["pixel_values"]
        return pixels[0]

    def classify(self, pictures: Sequence[torch.Tensor]) -> list[list[dict[str, Any]]]:
        """(3, height, width) each -> for each the five best classes."""
        with torch.inference_mode():
            best = self._model(torch.stack(list(pictures))).logits.softmax(1).topk(5)
        return [
            [{"index": index, "score": score} for index, score in zip(indices, scores, strict=True)]
            for indices, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
