"""The golden answer: what a checkpoint must answer for a generated picture, from `golden.json` next to the weights.

Weights with the right names and shapes can still be the wrong weights, and a device can compute wrong results without
an error. If a checkpoint has a golden answer, the engine checks it at every start; the default model has one.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import CheckpointBroken
from models.files.readable import is_file, refuse_stand_in
from models.network.vit import Readout, VisionTransformer
from models.preprocess import Preprocess

FILE = "golden.json"

LEAST_COSINE = 0.999
"""Half precision stays above this cosine similarity; other weights are far below."""

LEAST_COSINE_INT8 = 0.99
"""The same for 8 bits: the last place of half precision decides which of 256 numbers an input is rounded to."""


@dataclass(frozen=True)
class Golden:
    """The [CLS] vector and the top class of `picture`, computed in float32 on the CPU."""

    cls: NDArray[np.float32]  # (D,)
    top_1: int

    def matches(self, cls: NDArray[np.float32], top_1: int, *, int8: bool = False) -> bool:
        """Return whether an answer agrees, within the tolerance of half precision, or of 8 bits.

        In 8 bits the top class may be another one where two are close.
        """
        cosine = float(self.cls @ cls / (np.linalg.norm(self.cls) * np.linalg.norm(cls)))
        return cosine >= LEAST_COSINE_INT8 if int8 else cosine >= LEAST_COSINE and top_1 == self.top_1


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """Return three gradients, down, right and diagonal: (3, height, width)."""
    rows, columns = np.mgrid[0:height, 0:width]
    down, right = 255 * rows // (height - 1), 255 * columns // (width - 1)
    return np.stack([down, right, (down + right) // 2]).astype(np.uint8)


def read_golden(folder: Path) -> Golden | None:
    """Return the golden answer of a checkpoint's folder, or None. Raises CheckpointBroken."""
    path = folder / FILE
    if not is_file(path):
        return None
    refuse_stand_in(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Golden(np.array(content["cls"], np.float32), int(content["top_1"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointBroken(
            f"{path}: not a golden answer; expected the numbers 'cls' and the class index 'top_1'"
        ) from error


@torch.inference_mode()
def answer_of(network: VisionTransformer, preprocess: Preprocess) -> Golden:
    """Return what a network of float32 with a [CLS] token and a head answers for `picture`."""
    pixels = torch.from_numpy(picture(*preprocess.input_size)).float()
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    features = network([(pixels / 255 - mean) / std], Readout.CLS | Readout.LOGITS)
    assert features.cls is not None  # noqa: S101 - it is asked for
    assert features.logits is not None  # noqa: S101
    return Golden(features.cls[0].numpy(), int(features.logits[0].argmax()))


def write_golden(folder: Path, golden: Golden) -> None:
    """Write the golden answer of a checkpoint into its folder. Raises OSError."""
    content = {"top_1": golden.top_1, "cls": [round(float(value), 5) for value in golden.cls]}
    (folder / FILE).write_text(f"{json.dumps(content)}\n", encoding="utf-8")
