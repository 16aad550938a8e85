"""OpenAI's API: POST /v1/embeddings and GET /v1/models, for OpenAI's official clients.

Where OpenAI's models take text, an input is an image (`openai_inputs.py`). The vectors are those of /embed, and the
request may also contain its parameters.
https://platform.openai.com/docs/api-reference/embeddings
"""

from typing import Any, Literal, Self, cast

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, model_validator

from app.api.dialects.openai_inputs import Chat, ImageInput
from app.api.dialects.shared import PASSED_OVER, ModelName, VectorMembers, answer_all, check_model, read_json
from app.api.fingerprint import with_fingerprint
from app.api.openapi import IMAGE_PROBLEMS, MODEL_PROBLEMS, json_body, json_request
from app.api.responses import JSON, float32_base64, negotiate
from app.api.route import strict_route
from app.api.uploads import decode_base64
from app.errors import Problem
from app.http.problems import ErrorFormat, responses
from app.service import Resolution, Service, Task


def _error(problem: Problem, request_id: str) -> dict[str, Any]:  # noqa: ARG001 - clients read the id from its header
    kind = "invalid_request_error" if problem.status < 500 else "server_error"
    return {"error": {"message": problem.detail, "type": kind, "param": None, "code": problem.code}}


class ErrorDetail(BaseModel):
    """An error in OpenAI's format."""

    message: str = Field(description="A sentence that names the offending value and what is allowed.")
    type: Literal["invalid_request_error", "server_error"] = Field(
        description="Whether the client or the server erred."
    )
    param: None = Field(description="Always null.")
    code: str = Field(description="The error code, for programs.")


class Error(BaseModel):
    """The error response that OpenAI's clients expect."""

    error: ErrorDetail


ERROR_FORMAT = ErrorFormat(_error, json_body(Error))
router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=strict_route("parameters are members of the JSON body"))


class EmbeddingRequest(VectorMembers):
    """The body of POST /v1/embeddings."""

    model: str = Field(description="Name of the model, as in GET /v1/models.")
    input: ImageInput | None = Field(
        None,
        description="One image or a list, each as base64, a data: URI of base64, or an object. Without it, `messages`.",
    )
    messages: Chat | None = Field(None, description="A chat with one image, in the place of `input`.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="Encoding of the vectors. `float`: a list of numbers. `base64`: little-endian float32."
    )
    dimensions: int | None = Field(None, description="If given, it must be the length of the model's vectors.")
    user: Any = Field(default=None, description=PASSED_OVER)
    input_type: Any = Field(default=None, description=PASSED_OVER)
    truncate: Any = Field(default=None, description=PASSED_OVER)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.input is None) == (self.messages is None):
            raise ValueError("must have either 'input' or 'messages'")
        return self

    def encoded_images(self) -> list[str]:
        """Return the images as base64 or data: URIs, in order."""
        return [self.messages] if self.messages is not None else self.input or []


class EmbeddingItem(BaseModel):
    """The vector of one image."""

    object: Literal["embedding"]
    index: int = Field(description="Position of the image in the request, from 0.")
    embedding: list[float] | str = Field(description="The vector: a list of numbers, or base64 of float32.")


class Usage(BaseModel):
    """Number of tokens that the network processed."""

    prompt_tokens: int = Field(description="Patches and prefix tokens of all images.")
    total_tokens: int = Field(description="The same number.")


class Embeddings(BaseModel):
    """The response of POST /v1/embeddings."""

    object: Literal["list"]
    data: list[EmbeddingItem] = Field(description="One item per image, in the order of the request.")
    model: str = Field(description="Name of the model.")
    usage: Usage


class Model(BaseModel):
    """A model that is served."""

    id: str = Field(description="Name of the model.")
    object: Literal["model"] = "model"
    created: int = Field(default=0, description="Always 0, because a checkpoint does not record when it was created.")
    owned_by: str = Field(default="vitrine", description="Always `vitrine`.")


class Models(BaseModel):
    """The response of GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[Model] = Field(description="The one model that is served.")


@router.post(
    "/embeddings",
    summary="Embed images, for the clients of OpenAI",
    responses={200: {"model": Embeddings}, **responses(*IMAGE_PROBLEMS, "model_not_found", shape=ERROR_FORMAT)},
    openapi_extra=json_request(EmbeddingRequest),
)
async def embeddings(request: Request) -> Response:
    """Return one vector per image, the same as /embed. If one image fails, the whole request fails."""
    service: Service = request.app.state.service
    engine = service.admit()
    negotiate(request, JSON)
    parameters = await read_json(request, service.settings, EmbeddingRequest)
    check_model(engine, parameters.model)
    resolution = Resolution(*parameters.resolution)
    task = Task.vector(engine, parameters.pool, parameters.normalize)

    uploads = await decode_base64(parameters.encoded_images(), service.settings)
    answers = await answer_all(request, engine, uploads, resolution, task)
    vectors = [cast(Any, answer.answer) for answer in answers]
    _check_dimensions(parameters.dimensions, len(vectors[0]))
    tokens = sum(answer.tokens for answer in answers)
    encode = float32_base64 if parameters.encoding_format == "base64" else np.asarray
    body = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": encode(vector)} for index, vector in enumerate(vectors)
        ],
        "model": engine.checkpoint.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    response = Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
    return with_fingerprint(response, engine, resolution, task)


@router.get("/models", summary="List models", responses=responses("loading", "draining", shape=ERROR_FORMAT))
async def models(request: Request) -> Models:
    """Return a list with the one model that is served."""
    service: Service = request.app.state.service
    return Models(data=[Model(id=service.engine.checkpoint.name)])


@router.get("/models/{name:path}", summary="Describe a model", responses=responses(*MODEL_PROBLEMS, shape=ERROR_FORMAT))
async def model(request: Request, name: ModelName) -> Model:
    """Return the model with this name, or 404 if another one is served."""
    service: Service = request.app.state.service
    check_model(service.engine, name)
    return Model(id=name)


def _check_dimensions(dimensions: int | None, dim: int) -> None:
    if dimensions is not None and dimensions != dim:
        detail = f"dimensions={dimensions}: the model's vectors have {dim} numbers and cannot be shortened"
        raise Problem("invalid_parameter", detail)
