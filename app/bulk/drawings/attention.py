"""Draw the attention of [CLS] over files."""

from collections.abc import AsyncIterator, Iterable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from app.bulk.collection import answer_files, running_service
from app.bulk.entries import ListedFile
from app.errors import ImageProblem
from app.pictures.drawing import heat_png
from app.schemas import AttentionQuery
from app.settings import Settings


async def draw_attention(
    settings: Settings, files: Iterable[ListedFile], query: AttentionQuery
) -> AsyncIterator[tuple[str, bytes | ImageProblem]]:
    """Yield each file with a PNG of its attention map or its problem, in order."""
    async with running_service(settings) as service:
        async for file, outcome in answer_files(service, files, query):
            if isinstance(outcome, ImageProblem):
                yield file.path, outcome
            else:
                weights, pixels = cast(NDArray[np.float32], outcome.answer), outcome.image.rgb
                yield file.path, heat_png(weights, pixels, over=query.output != "map")
