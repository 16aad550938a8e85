"""Hugging Face's dialect: what `InferenceClient` sends to a URL of its user's own, for two tasks.

Classification comes as the file's bytes, or as base64 in JSON where parameters go with it; features come as JSON, the
image where a text would stand. Parameters that the client has no word for go into the URL's query.
https://huggingface.co/docs/inference-providers/tasks/image-classification
https://huggingface.co/docs/inference-providers/tasks/feature-extraction
"""

from typing import Annotated, Any, Literal, cast

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.bodies import is_json, read_json
from app.api.openapi import FILE, PROBLEMS, json_body, json_request
from app.api.results import answer_all, with_fingerprint
from app.api.uploads import from_texts, read_body
from app.errors import Problem
from app.http.problems import ErrorFormat, responses
from app.inference.engine import Engine
from app.inference.jobs import Ranking
from app.inference.task import Task
from app.pictures.prepared import Resolution, Upload
from app.schemas import ResolutionQuery, VectorQuery
from app.service.service import Service


def _error(problem: Problem, request_id: str) -> dict[str, Any]:
    return {"error": problem.detail, "error_type": problem.code, "request_id": request_id}


class Error(BaseModel):
    """An error, as Hugging Face's clients expect it."""

    error: str
    error_type: str
    request_id: str


ERROR_FORMAT = ErrorFormat(_error, json_body(Error))
router = APIRouter(prefix="/pipeline", tags=["Hugging Face"])


class Parameters(BaseModel):
    """Parameters of image classification."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = Field(
        default=5, ge=0, description="How many classes, best first; 0, or more than there are, gives all."
    )
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = Field(
        default=None,
        description="Refused unless it is the checkpoint's own: softmax, or sigmoid for a multi-label one.",
    )


class ClassificationRequest(BaseModel):
    """The JSON body of image classification."""

    model_config = ConfigDict(extra="forbid")

    inputs: str = Field(description="base64, or a data: URI of it")
    parameters: Parameters = Parameters()


class FeaturesRequest(BaseModel):
    """The JSON body of feature extraction."""

    model_config = ConfigDict(extra="forbid")

    inputs: str | list[str] = Field(description="base64, or a data: URI of it; one or several")
    normalize: bool | None = Field(None, description="Scale each vector to length 1.")


class Label(BaseModel):
    """A class and its probability."""

    label: str
    score: float


def _endpoint(body: type[BaseModel], answer: Any) -> dict[str, Any]:
    return {
        "responses": {200: {"model": answer}, **responses(*PROBLEMS, shape=ERROR_FORMAT)},
        "openapi_extra": json_request(body, **{"image/*": FILE}),
    }


@router.post("/image-classification", **_endpoint(ClassificationRequest, list[Label]))
async def image_classification(request: Request, query: Annotated[ResolutionQuery, Query()]) -> Response:
    """Classify one image: its best classes with their probabilities."""
    service: Service = request.app.state.service
    engine = service.admit()
    parameters = Parameters()
    if is_json(request):
        asked = await read_json(request, service.settings, ClassificationRequest)
        parameters, uploads = asked.parameters, await from_texts([asked.inputs], service.settings)
    else:
        uploads = await _raw(request)
    _check_function(engine, parameters.function_to_apply)
    resolution, task = Resolution(query.height_width, query.resize), Task.classes(engine, parameters.top_k)

    (answered,) = await answer_all(request, engine, uploads, resolution, task)
    named = cast(Ranking, answered.answer).named(engine.labels.names)
    return _response([{"label": row["label"], "score": row["score"]} for row in named], engine, resolution, task)


@router.post("/image-feature-extraction", **_endpoint(FeaturesRequest, list[list[float]]))
async def image_feature_extraction(request: Request, query: Annotated[VectorQuery, Query()]) -> Response:
    """Embed images: a list of the vectors that /embed answers."""
    service: Service = request.app.state.service
    engine = service.admit()
    normalize = query.normalize
    if is_json(request):
        asked = await read_json(request, service.settings, FeaturesRequest)
        inputs = asked.inputs if isinstance(asked.inputs, list) else [asked.inputs]
        uploads = await from_texts(inputs, service.settings)
        normalize = normalize if asked.normalize is None else asked.normalize
    else:
        uploads = await _raw(request)
    resolution, task = Resolution(query.height_width, query.resize), Task.vector(engine, query.pool, normalize)

    answered = await answer_all(request, engine, uploads, resolution, task)
    return _response([outcome.answer for outcome in answered], engine, resolution, task)


async def _raw(request: Request) -> list[Upload]:
    service: Service = request.app.state.service
    body = await read_body(request, service.settings)
    return [body] if body else []


def _response(content: Any, engine: Engine, resolution: Resolution, task: Task) -> Response:
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return with_fingerprint(Response(body, media_type="application/json"), engine, resolution, task)


def _check_function(engine: Engine, asked: str | None) -> None:
    own = engine.labels.activation
    if asked not in (None, own):
        raise Problem("invalid_parameter", f"function_to_apply={asked!r}: this checkpoint's scores are by {own!r}")
