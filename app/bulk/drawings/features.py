"""Draw the features of patches of files: of one, or of many in one basis."""

import asyncio
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from app.bulk.collection import answer_files
from app.bulk.entries import ListedFile
from app.errors import ImageProblem, Problem
from app.features.components import Basis, fit
from app.features.similarity import of_patch
from app.pictures.drawing import colours_png, heat_png
from app.schemas import FeaturesQuery
from app.service import ImageAnswer, Service

Tokens = NDArray[np.float32]


async def draw_one(service: Service, file: ListedFile, query: FeaturesQuery) -> bytes | ImageProblem:
    """Return the answer to one file: a PNG, or the tokens as `.npy`. Raises Problem for an error of the request."""
    (outcome,) = [outcome async for _, outcome in answer_files(service, [file], query)]
    if isinstance(outcome, ImageProblem):
        return outcome
    tokens = cast(Tokens, outcome.answer)  # (L, h, w, D) or (L, N, D)
    if query.output == "tokens":
        array = io.BytesIO()
        np.save(array, tokens if query.layers else tokens[0], allow_pickle=False)
        return array.getvalue()
    if query.place is not None:
        return heat_png(of_patch(tokens[0], query.place), outcome.image.rgb, over=query.format == "overlay")
    return _drawn(outcome, query, fit([tokens[0]], query.components, query.mask))


def evenly(files: Sequence[ListedFile], count: int) -> Sequence[ListedFile]:
    """Return at most so many files, at even distances."""
    return files[:: -(-len(files) // count)]


async def sampled_basis(service: Service, files: Iterable[ListedFile], query: FeaturesQuery) -> Basis:
    """Return a basis that is fitted to the patches of these files; files with a problem are left out.

    Raises Problem if all have one.
    """
    tokens: list[Tokens] = []
    problem: Problem | None = None
    async for _, outcome in answer_files(service, files, query):
        if isinstance(outcome, ImageAnswer):
            tokens.append(cast(Tokens, outcome.answer)[0])
        else:
            problem = outcome
    if problem is not None and not tokens:
        raise Problem(problem.code, f"no image of the sample could be used; of the last one: {problem.detail}")
    return await asyncio.to_thread(fit, tokens, query.components, query.mask)


async def draw_components(
    service: Service, files: Iterable[ListedFile], query: FeaturesQuery, basis: Basis
) -> AsyncIterator[tuple[str, bytes | ImageProblem]]:
    """Yield each file with a PNG of its components in a basis, or its problem, in order."""
    async for file, outcome in answer_files(service, files, query):
        if isinstance(outcome, ImageProblem):
            yield file.path, outcome
        else:
            yield file.path, await asyncio.to_thread(_drawn, outcome, query, basis)


def _drawn(answer: ImageAnswer, query: FeaturesQuery, basis: Basis) -> bytes:
    coordinates = basis.coordinates(cast(Tokens, answer.answer)[0])
    over = query.format == "overlay"
    return colours_png(basis.colours(coordinates), coordinates.foreground, answer.image.rgb, over=over)
