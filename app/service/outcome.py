"""The answer to one image of a request."""

from dataclasses import dataclass

from app.inference.jobs import Answer
from app.pictures.prepared import PreparedImage
from models.preprocess import Pixels


@dataclass(frozen=True)
class ImageAnswer:
    """An image's answer, and how it was computed; where nothing was asked of the network, its pixels.

    also: the second answer, where the request wants two.
    """

    answer: Answer | Pixels
    image: PreparedImage
    tokens: int
    interpolated: bool
    also: Answer | None = None
