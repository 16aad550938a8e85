"""POST /classify: return the class probabilities of images."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.api.fingerprint import with_classes
from app.api.openapi import HEAD_PROBLEMS, image_endpoint
from app.api.responses import JSON, NPY, json_response, negotiate, npy_response
from app.api.route import QueryRoute
from app.api.uploads import read_uploads
from app.errors import Problem
from app.schemas import ClassifyQuery, ClassifyResponse
from app.service import ImageAnswer, Resolution, Service

router = APIRouter(tags=["images"], route_class=QueryRoute)

NPY_DESCRIPTION = "float32 probabilities (n, classes), in the order of the class indices."


@router.post(
    "/classify",
    summary="Classify images",
    **image_endpoint(ClassifyResponse, NPY_DESCRIPTION, problems=HEAD_PROBLEMS),
)
async def classify(request: Request, query: Annotated[ClassifyQuery, Query()]) -> Response:
    """Return the best classes of each image with their probabilities."""
    service: Service = request.app.state.service
    engine = service.admit()
    as_npy = negotiate(request, JSON, NPY) == NPY
    resolution, top_k = Resolution(*query.resolution), None if as_npy else query.top_k
    classes = await service.heads.classes(engine, query.head, resolution, top_k)
    if query.explain and classes.head is None:
        detail = "only a fitted head has examples; name one by head"
        raise Problem("invalid_parameter", f"explain={query.explain}: {detail}")

    uploads = await read_uploads(request, service.settings)
    outcomes = await service.answer(engine, uploads, classes.resolution, classes.task, request.state.timings)

    def result(outcome: ImageAnswer) -> dict[str, Any]:
        return {"predictions": classes.named(outcome.answer)} | classes.remarks(outcome.answer, query.explain)

    head = {"model": engine.checkpoint.name, "activation": classes.activation} | classes.version
    if as_npy:
        response = npy_response([classes.answered(outcome) for outcome in outcomes])
    else:
        response = json_response(request, outcomes, head, result)
    return with_classes(response, engine, classes)
