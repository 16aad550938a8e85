"""POST /preprocess: images -> the very pixels that the network is given, and how they were come by."""

import asyncio
import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.api.openapi import image_endpoint
from app.api.results import JSON, answered, json_results, png_result, single, wants
from app.api.route import QueryRoute
from app.api.uploads import read_uploads
from app.pictures.drawing import to_png
from app.pictures.prepared import Resolution
from app.schemas import PreprocessQuery, PreprocessResponse
from app.service.outcome import ImageAnswer
from app.service.service import Service

router = APIRouter(tags=["images"], route_class=QueryRoute)

PICTURE = "the pixels that the network is given, before mean and standard deviation; the numbers are in headers"


@router.post("/preprocess", **image_endpoint(PreprocessResponse, picture=PICTURE))
async def preprocess(request: Request, query: Annotated[PreprocessQuery, Query()]) -> Response:
    """Show images as the network sees them: after orientation, alpha, scaling and cutting."""
    service: Service = request.app.state.service
    engine = service.admit()
    resolution = Resolution(query.height_width, query.resize)
    as_json = query.output == "json" or (query.output is None and wants(request, JSON))

    uploads = await read_uploads(request, service.settings)
    if not as_json:
        single(uploads, "output=json")
    outcomes = await service.prepare(engine, uploads, resolution, request.state.timings)

    if not as_json:
        outcome = answered(outcomes[0])
        png = await asyncio.to_thread(to_png, outcome.image.rgb)
        return png_result(png, outcome, steps=_steps(outcome))

    def result(outcome: ImageAnswer) -> dict[str, Any]:
        png = base64.b64encode(to_png(outcome.image.rgb)).decode("ascii")
        return {
            "picture": f"data:image/png;base64,{png}",
            "grid": engine.config.grid(*outcome.image.plan.size),
            "steps": _steps(outcome),
        }

    return await asyncio.to_thread(json_results, request, outcomes, {"model": engine.checkpoint.name}, result)


def _steps(outcome: ImageAnswer) -> dict[str, int]:
    plan = outcome.image.plan
    return {
        "scaled_width": plan.scaled[1],
        "scaled_height": plan.scaled[0],
        "left": plan.offset[1],
        "top": plan.offset[0],
    }
