"""What a checkpoint should answer to a picture that anyone can make: `golden.json` beside the weights, if there is one.

Weights of the right names and shapes can still be the wrong ones, and a device can compute wrongly without an error.
The model that ships is asked for this answer at every start.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import CheckpointBroken
from models.files.readable import is_file

FILE = "golden.json"

LEAST_COSINE = 0.999
"""What half precision may differ by; other weights are far from it."""


@dataclass(frozen=True)
class Golden:
    """The [CLS] vector and the best class of `picture`, as float32 on the CPU answers them."""

    cls: NDArray[np.float32]  # (D,)
    top_1: int

    def is_like(self, cls: NDArray[np.float32], top_1: int) -> bool:
        """Whether an answer is this one, as far as half precision tells."""
        cosine = float(self.cls @ cls / (np.linalg.norm(self.cls) * np.linalg.norm(cls)))
        return cosine >= LEAST_COSINE and top_1 == self.top_1


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """Three gradients, one in each direction and one across: (3, height, width)."""
    rows, columns = np.mgrid[0:height, 0:width]
    down, right = 255 * rows // (height - 1), 255 * columns // (width - 1)
    return np.stack([down, right, (down + right) // 2]).astype(np.uint8)


def read_golden(folder: Path) -> Golden | None:
    """The golden answer beside a checkpoint. Raises CheckpointBroken."""
    path = folder / FILE
    if not is_file(path):
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Golden(np.array(content["cls"], np.float32), int(content["top_1"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointBroken(f"{path}: not a golden answer") from error
