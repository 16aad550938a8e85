"""The answer to one image of a request."""

from dataclasses import dataclass

from app.inference.jobs import Answer
from app.pictures.prepared import PreparedImage
from models.preprocess import Pixels


@dataclass(frozen=True)
class ImageAnswer:
    """The answer to an image (for /preprocess: its pixels) and how it was computed.

    tokens: patches and prefix tokens of the image.
    grid: rows and columns of patches.
    interpolated: whether the grid of patches is not the checkpoint's own, so that positions are interpolated to it.
    second: the second answer, where the request asks for two.
    """

    answer: Answer | Pixels
    image: PreparedImage
    tokens: int
    grid: tuple[int, int]
    interpolated: bool
    second: Answer | None = None
