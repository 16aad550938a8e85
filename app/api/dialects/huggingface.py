"""Hugging Face's API: the requests that `InferenceClient` sends to a custom URL, for two tasks.

For image classification the client sends the file's bytes or, with parameters, base64 in JSON. For feature extraction
it sends JSON, with the image in place of the text. Parameters that the client does not know go into the query string.
https://huggingface.co/docs/inference-providers/tasks/image-classification
https://huggingface.co/docs/inference-providers/tasks/feature-extraction
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.bodies import read_body
from app.api.dialects.shared import PASSED_OVER, answer_all, is_json, read_json
from app.api.fingerprint import with_classes, with_fingerprint
from app.api.openapi import FILE, HEAD_PROBLEMS, IMAGE_PROBLEMS, json_body, json_request
from app.api.responses import JSON, negotiate
from app.api.route import strict_route
from app.api.uploads import decode_base64
from app.errors import Problem
from app.http.problems import ErrorFormat, responses
from app.schemas import TOP_K, HeadQuery, VectorQuery
from app.service import Classes, Resolution, Service, Task, Upload


def _error(problem: Problem, request_id: str) -> dict[str, Any]:
    return {"error": problem.detail, "error_type": problem.code, "request_id": request_id}


class Error(BaseModel):
    """The error response that Hugging Face's clients expect."""

    error: str = Field(description="A sentence that names the offending value and what is allowed.")
    error_type: str = Field(description="The error code, for programs.")
    request_id: str = Field(description="The request's id, also in the X-Request-ID header and in the log.")


ERROR_FORMAT = ErrorFormat(_error, json_body(Error))
IN_THE_BODY = "top_k and function_to_apply of /pipeline/image-classification belong in 'parameters' of the JSON body"
router = APIRouter(prefix="/pipeline", tags=["Hugging Face"], route_class=strict_route(IN_THE_BODY))


IN_PARAMETERS = """'parameters', as in {"inputs": "<base64>", "parameters": {"top_k": 2}}, for image classification"""
IN_THE_QUERY = "the query, as in ?size=224"
BELONGS = {
    **dict.fromkeys(("top_k", "function_to_apply"), IN_PARAMETERS),
    **dict.fromkeys(("size", "resize", "max_patches", "pool", "head"), IN_THE_QUERY),
}
"""Where a parameter belongs that is written in another place of the JSON body."""


class Parameters(BaseModel):
    """Parameters of image classification."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = Field(default=5, ge=0, description=TOP_K)
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = Field(
        default=None,
        description="If given, it must be the checkpoint's own function: softmax, or sigmoid for a multi-label model.",
    )


class ClassificationRequest(BaseModel):
    """The JSON body of image classification."""

    model_config = ConfigDict(extra="forbid")

    inputs: str = Field(description="An image file as base64, or as a data: URI of base64.")
    parameters: Parameters = Parameters()
    options: Any = Field(default=None, description=PASSED_OVER)


class FeaturesRequest(BaseModel):
    """The JSON body of feature extraction."""

    model_config = ConfigDict(extra="forbid")

    inputs: str | list[str] = Field(description="One image or a list, each as base64 or as a data: URI of base64.")
    normalize: bool | None = Field(None, description="Scale each vector to length 1.")
    options: Any = Field(default=None, description=PASSED_OVER)
    truncate: Any = Field(default=None, description=PASSED_OVER)
    truncation_direction: Any = Field(default=None, description=PASSED_OVER)


class Label(BaseModel):
    """A class and its probability."""

    label: str = Field(description="Name of the class.")
    score: float = Field(description="Probability, from 0 to 1.")


def _endpoint(summary: str, body: type[BaseModel], response: Any, problems: Sequence[str] = ()) -> dict[str, Any]:
    """Return the arguments of a route; `problems` are codes beside those of every route that takes images."""
    return {
        "summary": summary,
        "responses": {200: {"model": response}, **responses(*IMAGE_PROBLEMS, *problems, shape=ERROR_FORMAT)},
        "openapi_extra": json_request(body, {"image/*": FILE}),
    }


@router.post(
    "/image-classification", **_endpoint("Classify an image", ClassificationRequest, list[Label], HEAD_PROBLEMS)
)
async def image_classification(request: Request, query: Annotated[HeadQuery, Query()]) -> Response:
    """Return the best classes of one image with their probabilities."""
    service: Service = request.app.state.service
    engine = service.admit()
    negotiate(request, JSON)
    parameters = Parameters()
    if is_json(request):
        body = await read_json(request, service.settings, ClassificationRequest, BELONGS)
        parameters, uploads = body.parameters, await decode_base64([body.inputs], service.settings)
    else:
        uploads = await _read_file(request)
    classes = await service.heads.classes(engine, query.head, Resolution(*query.resolution), parameters.top_k)
    _check_function(classes, parameters.function_to_apply)

    (answer,) = await answer_all(request, engine, uploads, classes.resolution, classes.task)
    rows = [{"label": row["label"], "score": row["score"]} for row in classes.named(answer.answer)]
    return with_classes(_json(rows), engine, classes)


@router.post("/image-feature-extraction", **_endpoint("Embed images", FeaturesRequest, list[list[float]]))
async def image_feature_extraction(request: Request, query: Annotated[VectorQuery, Query()]) -> Response:
    """Return a list with one vector per image, the same as /embed."""
    service: Service = request.app.state.service
    engine = service.admit()
    negotiate(request, JSON)
    normalize = query.normalize
    if is_json(request):
        body = await read_json(request, service.settings, FeaturesRequest, BELONGS)
        inputs = body.inputs if isinstance(body.inputs, list) else [body.inputs]
        uploads = await decode_base64(inputs, service.settings)
        normalize = normalize if body.normalize is None else body.normalize
    else:
        uploads = await _read_file(request)
    resolution, task = Resolution(*query.resolution), Task.vector(engine, query.pool, normalize)

    answers = await answer_all(request, engine, uploads, resolution, task)
    return with_fingerprint(_json([answer.answer for answer in answers]), engine, resolution, task)


async def _read_file(request: Request) -> list[Upload]:
    """Read the body as one image file; an empty body has none."""
    service: Service = request.app.state.service
    body = await read_body(request, service.settings)
    return [body] if body else []


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _check_function(classes: Classes, function: str | None) -> None:
    if function not in (None, classes.activation):
        detail = f"function_to_apply={function!r}: this checkpoint uses {classes.activation!r}"
        raise Problem("invalid_parameter", detail)
