"""An image of a request, before and after it is decoded."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from app.errors import ImageProblem
from models.preprocess import Pixels, Plan, Resize, Size

Upload = bytes | ImageProblem
"""The bytes of an image file, or why there are none (bad base64)."""


@dataclass(frozen=True)
class Resolution:
    """The resolution that a request asks for; None is the checkpoint's own."""

    size: Size | None = None
    resize: Resize | None = None


@dataclass(frozen=True)
class PreparedImage:
    """An image that is ready for the queue, and what became of it on the way."""

    pixels: Pixels  # (3, height, width)
    plan: Plan
    width: int  # of the upright picture
    height: int
    format: str

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """The pixels from 0 to 255, as whatever came as a file has them."""
        return cast(NDArray[np.uint8], self.pixels)
