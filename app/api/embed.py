"""POST /embed: images -> the vectors that stand for them."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from app.api.openapi import image_endpoint
from app.api.results import float32_base64, json_results, npy_results, wants_npy, with_fingerprint
from app.schemas import EmbedQuery, EmbedResponse
from app.service import Answered, Service, View, Want
from app.uploads import read_uploads

router = APIRouter(tags=["images"])


@router.post("/embed", **image_endpoint(EmbedResponse, "float32 vectors (n, dim)"))
async def embed(request: Request, query: Annotated[EmbedQuery, Query()]) -> Response:
    """Embed images: for each the [CLS] vector, or the one that `pool` names."""
    service: Service = request.app.state.service
    engine = service.admit()
    view, want = View(query.height_width, query.resize), Want.vector(engine, query.pool, query.normalize)

    uploads = await read_uploads(request, service.settings)
    outcomes = await service.answer(engine, uploads, view, want, request.state.timings)

    def result(outcome: Answered) -> dict[str, Any]:
        return {"embedding": float32_base64(outcome.answer) if query.encoding == "base64" else outcome.answer}

    dim = next((len(o.answer) for o in outcomes if isinstance(o, Answered) and isinstance(o.answer, np.ndarray)), 0)
    head = {"model": engine.checkpoint.name, "dim": dim}
    response = npy_results(outcomes) if wants_npy(request) else json_results(request, outcomes, head, result)
    return with_fingerprint(response, engine, view, want)
