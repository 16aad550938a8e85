"""POST /embed: images -> the vectors that stand for them."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from app.api.openapi import image_endpoint
from app.api.results import float32_base64, json_results, npy_results, wants_npy, with_fingerprint
from app.api.route import QueryRoute
from app.api.uploads import read_uploads
from app.errors import Problem
from app.inference.engine import Engine
from app.inference.task import Task
from app.pictures.prepared import Resolution
from app.schemas import EmbedQuery, EmbedResponse
from app.service.outcome import ImageAnswer
from app.service.service import Service
from models.network.vit import Readout

router = APIRouter(tags=["images"], route_class=QueryRoute)


ARRAY = "float32 vectors (n, dim), or patch tokens (n, h, w, dim)"
MAX_PATCHES_BYTES = 2**28
"""Patch tokens of one answer: they are by far the largest, and all of it is in memory at once."""


@router.post("/embed", **image_endpoint(EmbedResponse, ARRAY))
async def embed(request: Request, query: Annotated[EmbedQuery, Query()]) -> Response:
    """Embed images: for each the [CLS] vector, or what `pool` names."""
    service: Service = request.app.state.service
    engine = service.admit()
    resolution, task = Resolution(query.height_width, query.resize), Task.vector(engine, query.pool, query.normalize)

    uploads = await read_uploads(request, service.settings)
    as_npy = wants_npy(request) or task.readout is Readout.PATCHES
    if task.readout is Readout.PATCHES:
        _check_length(engine, resolution, len(uploads))
    outcomes = await service.answer(engine, uploads, resolution, task, request.state.timings)

    def result(outcome: ImageAnswer) -> dict[str, Any]:
        return {"embedding": float32_base64(outcome.answer) if query.encoding == "base64" else outcome.answer}

    dim = next((len(o.answer) for o in outcomes if isinstance(o, ImageAnswer) and isinstance(o.answer, np.ndarray)), 0)
    head = {"model": engine.checkpoint.name, "dim": dim}
    response = npy_results(outcomes) if as_npy else json_results(request, outcomes, head, result)
    return with_fingerprint(response, engine, resolution, task)


def _check_length(engine: Engine, resolution: Resolution, images: int) -> None:
    """All patch tokens together may take so much."""
    size = engine.network_size(resolution.size)
    length = images * engine.config.num_tokens(*size) * engine.config.embed_dim * 4
    if length > MAX_PATCHES_BYTES:
        detail = f"the patch tokens of {images} images of {size[0]}x{size[1]} take {length} bytes"
        raise Problem("too_many_tokens", f"{detail}; {MAX_PATCHES_BYTES} are allowed in one answer")
