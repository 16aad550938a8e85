"""POST /attention: return the attention of the [CLS] token, as a picture or as numbers."""

import asyncio
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from app.api.fingerprint import with_fingerprint
from app.api.openapi import image_endpoint
from app.api.responses import (
    JSON,
    NPY,
    PNG,
    answer_of,
    check_single,
    json_response,
    negotiate,
    npy_response,
    png_response,
)
from app.api.route import QueryRoute
from app.api.uploads import read_uploads
from app.errors import Problem
from app.pictures.drawing import heat_png
from app.schemas import AttentionQuery, AttentionResponse
from app.service import ImageAnswer, Resolution, Service, Task

router = APIRouter(tags=["images"], route_class=QueryRoute)

NPY_DESCRIPTION = "float32 weights (n, h, w), one per patch."
PNG_DESCRIPTION = "The attention drawn over the image, or alone; its range and the image's metadata are in the headers."


@router.post(
    "/attention",
    summary="Show where the model looks: attention of [CLS]",
    **image_endpoint(AttentionResponse, NPY_DESCRIPTION, PNG_DESCRIPTION),
)
async def attention(request: Request, query: Annotated[AttentionQuery, Query()]) -> Response:
    """Show which patches the [CLS] token attends to: in one layer, or by attention rollout through all layers."""
    service: Service = request.app.state.service
    engine = service.admit()
    resolution = Resolution(*query.resolution)
    task = Task.attention(engine, query.layer, query.head_index, query.method == "rollout")
    chosen = negotiate(request, PNG, JSON, NPY) if query.output is None else ""
    as_npy, as_json = chosen == NPY, query.output == "json" or chosen == JSON
    if query.head == "all" and not (as_npy or as_json):
        raise Problem("invalid_parameter", "head=all: a PNG shows one map; ask for output=json or application/x-npy")

    uploads = await read_uploads(request, service.settings)
    if not (as_npy or as_json):
        check_single(len(uploads))
    outcomes = await service.answer(engine, uploads, resolution, task, request.state.timings)

    head: dict[str, Any] = {
        "layer": task.attention_spec.layer if task.attention_spec else 0,
        "head": query.head if query.head_index is None else query.head_index,
        "method": query.method,
    }
    if as_npy:
        response = npy_response(outcomes)
    elif as_json:
        response = json_response(request, outcomes, {"model": engine.checkpoint.name, **head}, _weights)
    else:
        response = await _drawing(answer_of(outcomes[0]), head, overlay=query.output != "map")
    return with_fingerprint(response, engine, resolution, task)


def _weights(outcome: ImageAnswer) -> dict[str, Any]:
    weights = np.asarray(outcome.answer)
    return {"attention": weights, "grid": outcome.grid}


async def _drawing(outcome: ImageAnswer, head: dict[str, Any], *, overlay: bool) -> Response:
    weights = np.asarray(outcome.answer)  # (h, w)
    png = await asyncio.to_thread(heat_png, weights, outcome.image.rgb, over=overlay)
    rows, columns = weights.shape
    numbers = {"rows": rows, "columns": columns, "min": f"{weights.min():.6f}", "max": f"{weights.max():.6f}"}
    return png_response(png, outcome, attention=head | numbers)
