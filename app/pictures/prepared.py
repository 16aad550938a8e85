"""An image of a request, before and after decoding."""

from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from app.errors import ImageProblem
from models.preprocess import Pixels, Plan, Resize, Size

Upload = bytes | ImageProblem
"""The bytes of an image file, or the problem that left none (invalid base64)."""


class Resolution(NamedTuple):
    """The resolution that a request asks for; None means the checkpoint's own.

    max_patches: a budget of patches for pictures of any shape, instead of the other two.
    """

    size: Size | None = None
    resize: Resize | None = None
    max_patches: int | None = None


@dataclass(frozen=True)
class PreparedImage:
    """An image that is ready for the queue.

    pixels: the network's input (3, height, width).
    plan: how the image was resized and cropped.
    width, height: of the upright image in its file.
    format: the container format of the file.
    """

    pixels: Pixels
    plan: Plan
    width: int
    height: int
    format: str

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """The pixels as 8-bit RGB, which every image that came as a file has."""
        return cast(NDArray[np.uint8], self.pixels)
