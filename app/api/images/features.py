"""POST /features: dense features of images: principal components, similarity of patches, and the tokens themselves."""

import asyncio
import base64
from typing import Annotated, Any, cast

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray

from app.api.fingerprint import with_fingerprint
from app.api.openapi import image_endpoint
from app.api.responses import (
    JSON,
    NPY,
    PNG,
    Outcomes,
    all_answers,
    answer_of,
    array_response,
    check_patches_bytes,
    check_single,
    json_response,
    negotiate,
    png_response,
)
from app.api.route import QueryRoute
from app.api.uploads import read_uploads
from app.features.components import Basis, fit
from app.features.similarity import chosen, similarity, unit
from app.pictures.drawing import colours_png, heat_png, patches_png
from app.schemas import FeaturesQuery, PcaResponse, SimilarityResponse
from app.service import Engine, ImageAnswer, Resolution, Service, Task

router = APIRouter(tags=["images"], route_class=QueryRoute)

NPY_DESCRIPTION = (
    "float32: components (n, h, w, components), cosines (n, h, w), or tokens (n, h, w, dim); with `layers` "
    "tokens have a dimension for the layers after n, and with `prefix` all tokens are in one dimension, not h and w."
)
PNG_DESCRIPTION = "One image's patches as colours, alone or over the image; the image's metadata is in the headers."


@router.post(
    "/features",
    summary="Show what each patch is, as colours, similarities or numbers",
    **image_endpoint(PcaResponse | SimilarityResponse, NPY_DESCRIPTION, PNG_DESCRIPTION),
)
async def features(request: Request, query: Annotated[FeaturesQuery, Query()]) -> Response:
    """Return the patch tokens of images, their principal components as colours, or their similarity to one patch."""
    service: Service = request.app.state.service
    engine = service.admit()
    resolution = Resolution(*query.resolution)
    layers = query.layer_indices
    task = Task.tokens(engine, layers, query.norm, bool(query.prefix))
    media = _media(request, query)

    uploads = await read_uploads(request, service.settings)
    if media == PNG:
        check_single(len(uploads))
    check_patches_bytes(engine, resolution, len(uploads), len(layers or (0,)))
    outcomes = await service.answer(engine, uploads, resolution, task, request.state.timings)

    if query.output == "tokens":
        kept = [np.asarray(outcome.answer) for outcome in all_answers(outcomes)]
        rows = kept if layers else [tokens[0] for tokens in kept]
        response = array_response(rows, [outcome.grid for outcome in all_answers(outcomes)])
        return with_fingerprint(response, engine, resolution, task)
    # On a thread: it computes with all tokens, and encodes PNGs.
    if query.output == "pca":  # without a fingerprint: its basis is of this request alone
        return await asyncio.to_thread(_components, request, query, media, engine, outcomes)
    response = await asyncio.to_thread(_similarity, request, query, media, engine, outcomes)
    return with_fingerprint(response, engine, resolution, task)


def _media(request: Request, query: FeaturesQuery) -> str:
    """Return the media type of the answer. Raises Problem if the client does not accept it."""
    if query.output == "tokens":
        return negotiate(request, NPY)
    if query.format is not None:
        return JSON if query.format == "json" else PNG
    return JSON if query.with_tokens else negotiate(request, PNG, JSON, NPY)


def _components(request: Request, query: FeaturesQuery, media: str, engine: Engine, outcomes: Outcomes) -> Response:
    answers = [outcome for outcome in outcomes if isinstance(outcome, ImageAnswer)]
    if media != JSON:
        answers = all_answers(outcomes)
    if not answers:  # the first image's problem
        return json_response(request, outcomes, {}, lambda _: {})
    basis = fit([_tokens(answer) for answer in answers], query.components, query.mask)
    if media == NPY:
        rows = [basis.coordinates(_tokens(answer)).values for answer in answers]
        return array_response(rows, [answer.grid for answer in answers])
    if media == PNG:
        coordinates = basis.coordinates(_tokens(answers[0]))
        over = query.format == "overlay"
        png = colours_png(basis.colours(coordinates), coordinates.foreground, answers[0].image.rgb, over=over)
        return png_response(png, answers[0])

    def result(answer: ImageAnswer) -> dict[str, Any]:
        return _component_map(basis, answer) | _shared(query, answer)

    head = {"model": engine.checkpoint.name, "output": "pca", "layer": _layer(engine, query)}
    return json_response(request, outcomes, head | {"explained": basis.axes.explained}, result)


def _component_map(basis: Basis, answer: ImageAnswer) -> dict[str, Any]:
    coordinates = basis.coordinates(_tokens(answer))
    png = base64.b64encode(patches_png(basis.colours(coordinates), coordinates.foreground)).decode("ascii")
    return {
        "components": coordinates.values,
        "foreground": coordinates.foreground,
        "picture": f"data:image/png;base64,{png}",
    }


def _similarity(request: Request, query: FeaturesQuery, media: str, engine: Engine, outcomes: Outcomes) -> Response:
    first = answer_of(outcomes[0])
    place = cast(tuple[int, int], query.place)
    patch = chosen(_tokens(first), place)

    def cosines(answer: ImageAnswer) -> NDArray[np.float32]:
        return similarity(_tokens(answer), patch)

    if media == NPY:
        answers = all_answers(outcomes)
        return array_response([cosines(answer) for answer in answers], [answer.grid for answer in answers])
    if media == PNG:
        png = heat_png(cosines(first), first.image.rgb, over=query.format != "map")
        return png_response(png, first)

    def result(answer: ImageAnswer) -> dict[str, Any]:
        return {"similarity": cosines(answer)} | _shared(query, answer)

    head = {"model": engine.checkpoint.name, "output": "similarity", "layer": _layer(engine, query)}
    return json_response(request, outcomes, head | {"patch": place}, result)


def _tokens(answer: ImageAnswer) -> NDArray[np.float32]:
    """Return the patch tokens of the one layer that was asked for: (h, w, D)."""
    return cast(NDArray[np.float32], answer.answer)[0]


def _shared(query: FeaturesQuery, answer: ImageAnswer) -> dict[str, Any]:
    """Return the members that the JSON results of both outputs have."""
    members: dict[str, Any] = {"grid": answer.grid}
    if query.with_tokens:
        halves = unit(_tokens(answer)).astype("<f2").tobytes()
        members["tokens"] = base64.b64encode(halves).decode("ascii")
    return members


def _layer(engine: Engine, query: FeaturesQuery) -> int:
    return (query.layer_indices or (engine.config.depth - 1,))[0]
