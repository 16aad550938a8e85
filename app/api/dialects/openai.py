"""OpenAI's dialect: POST /v1/embeddings and GET /v1/models, as its official clients speak them.

An input is an image where OpenAI's own models take text: base64, a data: URI of it, or `{"image": ...}`. The vectors
are those of /embed, whose parameters may stand beside the others.
https://platform.openai.com/docs/api-reference/embeddings
"""

from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from app.api.bodies import check_model, read_json
from app.api.openapi import OF_A_MODEL, PROBLEMS, json_body, json_request
from app.api.results import answer_all, float32_base64, with_fingerprint
from app.api.uploads import from_texts
from app.errors import Problem
from app.http.problems import ErrorFormat, responses
from app.inference.task import Task
from app.pictures.prepared import Resolution
from app.schemas import VectorQuery
from app.service.service import Service


def _error(problem: Problem, request_id: str) -> dict[str, Any]:  # noqa: ARG001 - the clients read the id in its header
    kind = "invalid_request_error" if problem.status < 500 else "server_error"
    return {"error": {"message": problem.detail, "type": kind, "param": None, "code": problem.code}}


class ErrorDetail(BaseModel):
    """What went wrong, in OpenAI's members."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: None
    code: str


class Error(BaseModel):
    """An error, as OpenAI's clients expect it."""

    error: ErrorDetail


ERROR_FORMAT = ErrorFormat(_error, json_body(Error))
router = APIRouter(prefix="/v1", tags=["OpenAI"])


class ImageItem(BaseModel):
    """An image that says of itself that it is one."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="base64, or a data: URI of it")


class EmbeddingRequest(VectorQuery):
    """The body of POST /v1/embeddings."""

    model: str = Field(description="The name of the model that is served.")
    input: str | ImageItem | list[str | ImageItem] = Field(description="One image or several.")
    encoding_format: Literal["float", "base64"] = Field("float", description="`base64`: little-endian float32.")
    dimensions: int | None = Field(None, description="Refused unless it is the length of the model's vectors.")
    user: str | None = Field(None, description="Ignored.")

    @field_validator("input", mode="wrap")
    @classmethod
    def _in_one_sentence(cls, value: Any, handler: Callable[[Any], Any]) -> Any:
        """Of a union pydantic would tell what is wrong with every member."""
        try:
            return handler(value)
        except ValidationError as error:
            allowed = 'must be base64, a data: URI of it, {"image": ...} with one of them, or a list of these'
            raise ValueError(allowed) from error

    def texts(self) -> list[str]:
        """The images, in order."""
        items = self.input if isinstance(self.input, list) else [self.input]
        return [item.image if isinstance(item, ImageItem) else item for item in items]


class Embedding(BaseModel):
    """The vector of one image."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """What the request took."""

    prompt_tokens: int = Field(description="patches and prefix tokens of all images")
    total_tokens: int


class Embeddings(BaseModel):
    """The answer of POST /v1/embeddings."""

    object: Literal["list"]
    data: list[Embedding] = Field(description="in the order of the images")
    model: str
    usage: Usage


class Model(BaseModel):
    """A model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(default=0, description="always 0: a checkpoint does not say when it was made")
    owned_by: str = "vitrine"


class Models(BaseModel):
    """The answer of GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.post(
    "/embeddings",
    responses={200: {"model": Embeddings}, **responses(*PROBLEMS, "model_not_found", shape=ERROR_FORMAT)},
    openapi_extra=json_request(EmbeddingRequest),
)
async def embeddings(request: Request) -> Response:
    """Embed images: for each the vector that /embed answers. One bad image fails the request."""
    service: Service = request.app.state.service
    engine = service.admit()
    asked = await read_json(request, service.settings, EmbeddingRequest)
    check_model(engine, asked.model)
    resolution, task = Resolution(asked.height_width, asked.resize), Task.vector(engine, asked.pool, asked.normalize)

    answered = await answer_all(request, engine, await from_texts(asked.texts(), service.settings), resolution, task)
    vectors = [cast(Any, outcome.answer) for outcome in answered]
    _check_dimensions(asked.dimensions, len(vectors[0]))
    tokens = sum(outcome.tokens for outcome in answered)
    encode = float32_base64 if asked.encoding_format == "base64" else np.asarray
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


@router.get("/models", responses=responses("loading", "draining", shape=ERROR_FORMAT))
async def models(request: Request) -> Models:
    """List the one model that is served."""
    service: Service = request.app.state.service
    return Models(data=[Model(id=service.engine.checkpoint.name)])


@router.get("/models/{name:path}", responses=responses(*OF_A_MODEL, shape=ERROR_FORMAT))
async def model(request: Request, name: str) -> Model:
    """Describe the model of this name."""
    service: Service = request.app.state.service
    check_model(service.engine, name)
    return Model(id=name)


def _check_dimensions(asked: int | None, dim: int) -> None:
    if asked is not None and asked != dim:
        raise Problem("invalid_parameter", f"dimensions={asked}: the model's vectors have {dim}, and are not cut")
