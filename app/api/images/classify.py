"""POST /classify: images -> the probabilities of their classes."""

from typing import Annotated, Any, cast

from fastapi import APIRouter, Query, Request, Response

from app.api.openapi import image_endpoint
from app.api.results import json_results, npy_results, wants_npy, with_fingerprint
from app.api.route import QueryRoute
from app.api.uploads import read_uploads
from app.inference.jobs import Ranking
from app.inference.task import Task
from app.pictures.prepared import Resolution
from app.schemas import ClassifyQuery, ClassifyResponse
from app.service.outcome import ImageAnswer
from app.service.service import Service

router = APIRouter(tags=["images"], route_class=QueryRoute)


@router.post("/classify", **image_endpoint(ClassifyResponse, "float32 probabilities (n, classes), in class order"))
async def classify(request: Request, query: Annotated[ClassifyQuery, Query()]) -> Response:
    """Classify images: for each the best classes with their probabilities."""
    service: Service = request.app.state.service
    engine = service.admit()
    as_npy = wants_npy(request)
    resolution, task = (
        Resolution(query.height_width, query.resize),
        Task.classes(engine, None if as_npy else query.top_k),
    )

    uploads = await read_uploads(request, service.settings)
    outcomes = await service.answer(engine, uploads, resolution, task, request.state.timings)

    def result(outcome: ImageAnswer) -> dict[str, Any]:
        return {"predictions": cast(Ranking, outcome.answer).named(engine.labels.names)}

    head = {"model": engine.checkpoint.name, "activation": engine.labels.activation}
    response = npy_results(outcomes) if as_npy else json_results(request, outcomes, head, result)
    return with_fingerprint(response, engine, resolution, task)
