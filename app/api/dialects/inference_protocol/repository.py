"""The endpoints of the Open Inference Protocol that describe the server, list its models, or name a version.

They come before those of `routes`, which name no version: a model's name may contain slashes, so a path with a version
would match there too.
"""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from app.api.bodies import read_body
from app.api.dialects.inference_protocol import routes
from app.api.dialects.inference_protocol.routes import (
    ERROR_FORMAT,
    INFER,
    Route,
    infer,
    metadata,
    model_ready,
)
from app.api.dialects.inference_protocol.schemas import (
    VERSION,
    IndexEntry,
    IndexRequest,
    ModelMetadata,
    ModelNames,
    ModelReady,
    Server,
)
from app.api.dialects.shared import ModelName, model_names, parse_json
from app.api.openapi import HEAD_PROBLEMS, MODEL_PROBLEMS, json_request
from app.errors import Problem
from app.http.problems import responses
from app.service import Service
from app.wording import shown

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], route_class=Route)

Version = Annotated[str, Path(description="Version of the model: `1`.", examples=[VERSION])]


@router.get("", summary="Describe the server", responses=responses("unhealthy", shape=ERROR_FORMAT))
async def server() -> Server:
    """Return the server's name, version and supported extensions."""
    return Server()


@router.get("/models", summary="List models", responses=responses("loading", "draining", shape=ERROR_FORMAT))
async def models(request: Request) -> ModelNames:
    """Return the name of the model that is served, and `model@head` for each fitted head that is kept by name."""
    service: Service = request.app.state.service
    return ModelNames(models=await model_names(service, service.engine))


@router.post(
    "/repository/index",
    summary="List models, as Triton does",
    responses=responses(
        *("malformed_body", "too_slow", "body_too_large", "unsupported_encoding", "unknown_parameter"),
        *("loading", "draining"),
        shape=ERROR_FORMAT,
    ),
    openapi_extra=json_request(IndexRequest, required=False),
)
async def repository_index(request: Request) -> list[IndexEntry]:
    """Return the model that is served and `model@head` for each fitted head, with version and state."""
    service: Service = request.app.state.service
    if body := await read_body(request, service.settings):
        await asyncio.to_thread(parse_json, body, IndexRequest)
    return [IndexEntry(name=name) for name in await model_names(service, service.engine)]


@router.get(
    "/repository/index",
    summary="List models, without a body",
    responses=responses("loading", "draining", shape=ERROR_FORMAT),
)
async def get_repository_index(request: Request) -> list[IndexEntry]:
    """Return what POST returns."""
    service: Service = request.app.state.service
    return [IndexEntry(name=name) for name in await model_names(service, service.engine)]


@router.get(
    "/models/{name:path}/versions/{version}/ready",
    summary="Check a version's readiness",
    responses=responses(*MODEL_PROBLEMS, *HEAD_PROBLEMS, "unhealthy", shape=ERROR_FORMAT),
)
async def version_ready(request: Request, name: ModelName, version: Version) -> ModelReady:
    """Return 200 while this version of the model accepts requests."""
    ready = await model_ready(request, name)
    _check_version(name, version)
    return ready


@router.get(
    "/models/{name:path}/versions/{version}",
    summary="Describe a version of a model",
    responses=responses(*MODEL_PROBLEMS, *HEAD_PROBLEMS, shape=ERROR_FORMAT),
)
async def version_metadata(request: Request, name: ModelName, version: Version) -> ModelMetadata:
    """Return the names, data types and shapes of the model's inputs and outputs."""
    found = await metadata(request, name)
    _check_version(name, version)
    return found


@router.post("/models/{name:path}/versions/{version}/infer", **INFER)
async def version_infer(request: Request, name: ModelName, version: Version) -> Response:
    """Return embeddings and classes of image files or of preprocessed pixels. If one image fails, the request fails."""
    _check_version(name, version)
    return await infer(request, name)


# Not `include_router`: the log and the metrics would show the routes without the prefix of this router.
router.routes.extend(routes.router.routes)


def _check_version(name: str, version: str) -> None:
    if version != VERSION:
        detail = f"there is no version {shown(version)} of {shown(name)}; this service serves version {VERSION!r}"
        raise Problem("model_not_found", detail)
