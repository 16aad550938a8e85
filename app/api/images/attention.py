"""POST /attention: images -> what [CLS] attends to in them, as a picture or as numbers."""

import asyncio
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from app.api.openapi import image_endpoint
from app.api.results import (
    JSON,
    answered,
    json_results,
    npy_results,
    png_result,
    single,
    wants,
    wants_npy,
    with_fingerprint,
)
from app.api.route import QueryRoute
from app.api.uploads import read_uploads
from app.inference.task import Task
from app.pictures.drawing import attention_png
from app.pictures.prepared import Resolution
from app.schemas import AttentionQuery, AttentionResponse
from app.service.outcome import ImageAnswer
from app.service.service import Service

router = APIRouter(tags=["images"], route_class=QueryRoute)

PICTURE = "the attention over the picture, or alone; its range and the picture's numbers are in headers"


@router.post("/attention", **image_endpoint(AttentionResponse, "float32 weights (n, h, w)", PICTURE))
async def attention(request: Request, query: Annotated[AttentionQuery, Query()]) -> Response:
    """Show what the [CLS] token attends to: one layer's attention over the patches, or the rollout through all."""
    service: Service = request.app.state.service
    engine = service.admit()
    resolution = Resolution(query.height_width, query.resize)
    task = Task.attention(engine, query.layer, query.head_index, query.method == "rollout")
    as_npy = query.output is None and wants_npy(request)
    as_json = query.output == "json" or (query.output is None and wants(request, JSON))

    uploads = await read_uploads(request, service.settings)
    if not (as_npy or as_json):
        single(uploads, "output=json")
    outcomes = await service.answer(engine, uploads, resolution, task, request.state.timings)

    said: dict[str, Any] = {
        "layer": task.attention_spec.layer if task.attention_spec else 0,
        "head": query.head,
        "method": query.method,
    }
    if query.head_index is not None:
        said["head"] = query.head_index
    if as_npy:
        response = npy_results(outcomes)
    elif as_json:
        response = json_results(request, outcomes, {"model": engine.checkpoint.name, **said}, _numbers)
    else:
        response = await _picture(answered(outcomes[0]), said, over=query.output != "map")
    return with_fingerprint(response, engine, resolution, task)


def _numbers(outcome: ImageAnswer) -> dict[str, Any]:
    weights = np.asarray(outcome.answer)
    return {"attention": weights, "grid": weights.shape}


async def _picture(outcome: ImageAnswer, said: dict[str, Any], *, over: bool) -> Response:
    weights = np.asarray(outcome.answer)
    png = await asyncio.to_thread(attention_png, weights, outcome.image.rgb, over=over)
    rows, columns = weights.shape
    numbers = {"rows": rows, "columns": columns, "min": f"{weights.min():.6f}", "max": f"{weights.max():.6f}"}
    return png_result(png, outcome, attention=said | numbers)
