"""POST /embed: return the vectors of images."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from app.api.fingerprint import with_fingerprint
from app.api.openapi import image_endpoint
from app.api.responses import (
    JSON,
    NPY,
    check_patches_bytes,
    float32_base64,
    json_response,
    negotiate,
    npy_response,
)
from app.api.route import QueryRoute
from app.api.uploads import read_uploads
from app.schemas import EmbedQuery, EmbedResponse
from app.service import ImageAnswer, Readout, Resolution, Service, Task

router = APIRouter(tags=["images"], route_class=QueryRoute)

NPY_DESCRIPTION = "float32 vectors (n, dim), or patch tokens (n, h, w, dim) with `pool=patches`."


@router.post(
    "/embed",
    summary="Embed images: vectors for search and clustering",
    **image_endpoint(EmbedResponse, NPY_DESCRIPTION),
)
async def embed(request: Request, query: Annotated[EmbedQuery, Query()]) -> Response:
    """Return one vector per image, for search, clustering or your own classifier."""
    service: Service = request.app.state.service
    engine = service.admit()
    resolution = Resolution(*query.resolution)
    task = Task.vector(engine, query.pool, query.normalize)
    offers = (NPY,) if task.readout is Readout.PATCHES else (JSON, NPY)
    as_npy = negotiate(request, *offers) == NPY

    uploads = await read_uploads(request, service.settings)
    if task.readout is Readout.PATCHES:
        check_patches_bytes(engine, resolution, len(uploads))
    outcomes = await service.answer(engine, uploads, resolution, task, request.state.timings)

    def result(outcome: ImageAnswer) -> dict[str, Any]:
        return {"embedding": float32_base64(outcome.answer) if query.encoding == "base64" else outcome.answer}

    dim = next((len(o.answer) for o in outcomes if isinstance(o, ImageAnswer) and isinstance(o.answer, np.ndarray)), 0)
    head = {"model": engine.checkpoint.name, "dim": dim}
    response = npy_response(outcomes) if as_npy else json_response(request, outcomes, head, result)
    return with_fingerprint(response, engine, resolution, task)
