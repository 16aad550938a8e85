"""POST /preprocess: return the pixels that the network receives, and how they were made."""

import asyncio
import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.api.openapi import image_endpoint
from app.api.responses import JSON, PNG, answer_of, check_single, json_response, negotiate, png_response
from app.api.route import QueryRoute
from app.api.uploads import read_uploads
from app.pictures.drawing import to_png
from app.schemas import PreprocessQuery, PreprocessResponse
from app.service import ImageAnswer, Resolution, Service

router = APIRouter(tags=["images"], route_class=QueryRoute)

PNG_DESCRIPTION = (
    "The pixels that the network receives, before mean and standard deviation; metadata is in the headers."
)


@router.post(
    "/preprocess",
    summary="Show the pixels that the network receives",
    **image_endpoint(PreprocessResponse, png=PNG_DESCRIPTION),
)
async def preprocess(request: Request, query: Annotated[PreprocessQuery, Query()]) -> Response:
    """Show images as the network sees them, after orientation, transparency, scaling and cropping."""
    service: Service = request.app.state.service
    engine = service.admit()
    resolution = Resolution(*query.resolution)
    as_json = query.output == "json" or (query.output is None and negotiate(request, PNG, JSON) == JSON)

    uploads = await read_uploads(request, service.settings)
    if not as_json:
        check_single(len(uploads))
    outcomes = await service.prepare(engine, uploads, resolution, request.state.timings)

    if not as_json:
        outcome = answer_of(outcomes[0])
        png = await asyncio.to_thread(to_png, outcome.image.rgb)
        return png_response(png, outcome, steps=_steps(outcome))

    def result(outcome: ImageAnswer) -> dict[str, Any]:
        png = base64.b64encode(to_png(outcome.image.rgb)).decode("ascii")
        return {
            "picture": f"data:image/png;base64,{png}",
            "grid": engine.config.grid(*outcome.image.plan.size),
            "steps": _steps(outcome),
        }

    # On a thread: it encodes one PNG per image.
    return await asyncio.to_thread(json_response, request, outcomes, {"model": engine.checkpoint.name}, result)


def _steps(outcome: ImageAnswer) -> dict[str, int]:
    plan = outcome.image.plan
    return {
        "scaled_width": plan.scaled[1],
        "scaled_height": plan.scaled[0],
        "left": plan.offset[1],
        "top": plan.offset[0],
    }
