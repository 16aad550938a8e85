"""The endpoints of the Open Inference Protocol for health, and for a model without its version."""

import asyncio
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from app.api.bodies import read_body
from app.api.dialects.inference_protocol.pixels import prepared_images
from app.api.dialects.inference_protocol.schemas import (
    VERSION,
    Error,
    InferParameters,
    InferRequest,
    InferResponse,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    TensorMetadata,
    model_outputs,
)
from app.api.dialects.inference_protocol.tensors import (
    BINARY,
    HEADER_LENGTH,
    OutputTensor,
    split_body,
    tensor_response,
)
from app.api.dialects.shared import ModelName, answer_all, check_model_or_head, parse_json
from app.api.fingerprint import with_classes, with_fingerprint
from app.api.openapi import FILE, HEAD_PROBLEMS, IMAGE_PROBLEMS, MODEL_PROBLEMS, json_body, json_request
from app.api.operation.health import healthz, readyz
from app.api.responses import JSON, negotiate
from app.api.route import strict_route
from app.api.uploads import check_count, decode_base64
from app.errors import Problem
from app.http.problems import ErrorFormat, responses
from app.service import Classes, Engine, ImageAnswer, PreparedImage, Ranking, Resolution, Service, Task, Upload
from app.wording import shown

INPUTS = {"image": "BYTES", "pixels": "UINT8", "pixel_values": "FP32"}
"""The datatype of each input."""


def _error(problem: Problem, request_id: str) -> dict[str, Any]:  # noqa: ARG001 - the protocol has no member for the id
    return {"error": problem.detail}


ERROR_FORMAT = ErrorFormat(_error, json_body(Error))
IN_THE_BODY = "parameters are in 'parameters' of the JSON body"
Route = strict_route(IN_THE_BODY)
router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], route_class=Route)


INFER: dict[str, Any] = {
    "summary": "Embed and classify images",
    "responses": {
        200: {"model": InferResponse, "content": {BINARY: {"schema": FILE}}},
        **responses(*IMAGE_PROBLEMS, "model_not_found", *HEAD_PROBLEMS, shape=ERROR_FORMAT),
    },
    "openapi_extra": json_request(InferRequest, {BINARY: FILE}),
}
"""The arguments of a route that infers."""


@router.get("/health/live", summary="Check liveness", responses=responses("unhealthy", shape=ERROR_FORMAT))
async def live(request: Request) -> Live:
    """Return 200 while the process is alive, as /healthz does."""
    await healthz(request)
    return Live()


@router.get(
    "/health/ready",
    summary="Check readiness",
    responses=responses("loading", "draining", "unhealthy", shape=ERROR_FORMAT),
)
async def ready(request: Request) -> Ready:
    """Return 200 while the model accepts requests, as /readyz does."""
    await readyz(request)
    return Ready()


@router.get(
    "/models/{name:path}/ready",
    summary="Check a model's readiness",
    responses=responses(*MODEL_PROBLEMS, *HEAD_PROBLEMS, shape=ERROR_FORMAT),
)
async def model_ready(request: Request, name: ModelName) -> ModelReady:
    """Return 200 while the model with this name accepts requests."""
    await readyz(request)
    service: Service = request.app.state.service
    await check_model_or_head(service, service.engine, name)
    return ModelReady(name=name)


@router.get(
    "/models/{name:path}",
    summary="Describe a model",
    responses=responses(*MODEL_PROBLEMS, *HEAD_PROBLEMS, shape=ERROR_FORMAT),
)
async def metadata(request: Request, name: ModelName) -> ModelMetadata:
    """Return the names, data types and shapes of the model's inputs and outputs."""
    service: Service = request.app.state.service
    engine = service.engine
    head = await check_model_or_head(service, engine, name)
    inputs = [
        TensorMetadata(name=name, datatype=datatype, shape=[-1] if datatype == "BYTES" else [-1, 3, -1, -1])
        for name, datatype in INPUTS.items()
    ]
    return ModelMetadata(name=name, inputs=inputs, outputs=_model_outputs(service, engine, head))


@router.post("/models/{name:path}/infer", **INFER)
async def infer(request: Request, name: ModelName) -> Response:
    """Return embeddings and classes of image files or of preprocessed pixels. If one image fails, the request fails.

    Embeddings and classes are computed separately: select only the outputs that you need.
    """
    service: Service = request.app.state.service
    engine = service.admit()
    negotiate(request, JSON, BINARY)
    head_name = await check_model_or_head(service, engine, name)
    body = await read_body(request, service.settings)
    header, binary_data = split_body(body, request.headers.get(HEADER_LENGTH))
    content = await asyncio.to_thread(parse_json, header, InferRequest)

    parameters = content.parameters
    selected = content.selected_outputs(_model_outputs(service, engine, head_name))
    images = await _read_images(engine, content, binary_data, service)
    prepared = [image for image in images if isinstance(image, PreparedImage)]
    resolution = Resolution(prepared[0].plan.size) if prepared else Resolution(*parameters.resolution)
    classes = None
    if "scores" in selected or "labels" in selected:
        classes = await service.heads.classes(engine, head_name, resolution, parameters.top_k)
    task = _task(engine, selected, parameters, classes)
    resolution = classes.resolution if classes else resolution
    answers = await answer_all(request, engine, images, resolution, task)
    outputs = _outputs(answers, task, classes)
    head = {"model_name": name, "model_version": VERSION} | ({} if content.id is None else {"id": content.id})
    response = tensor_response(head, [OutputTensor(name, outputs[name], binary) for name, binary in selected.items()])
    # No fingerprint for pixels: the client preprocessed them, in a way that the service does not know.
    if prepared:
        return response
    if classes is not None and task is classes.task:
        return with_classes(response, engine, classes)
    return with_fingerprint(response, engine, resolution, task)


def _model_outputs(service: Service, engine: Engine, head: str | None) -> list[TensorMetadata]:
    return model_outputs(engine, classes=head is not None or service.heads.has_classes(engine))


async def _read_images(
    engine: Engine, content: InferRequest, binary_data: bytes, service: Service
) -> Sequence[Upload | PreparedImage]:
    """Return the images of the request's one input: files, or preprocessed pixels. Raises Problem."""
    tensor = content.inputs[0]
    if INPUTS.get(tensor.name) != tensor.datatype:
        inputs = ", ".join(f"{name} ({datatype})" for name, datatype in INPUTS.items())
        given = f"{shown(tensor.name)} ({tensor.datatype})"
        raise Problem("invalid_parameter", f"there is no input {given}; the inputs are {inputs}")
    if tensor.datatype == "BYTES":
        elements = tensor.elements(binary_data)
        check_count(len(elements), service.settings)
        if binary_data:
            return cast(list[bytes], elements)
        return await decode_base64(cast(list[str], elements), service.settings)
    if any(content.parameters.resolution):
        raise Problem("invalid_parameter", "size, resize and max_patches are only for images; pixels keep their size")
    pixels = await asyncio.to_thread(tensor.array, binary_data)
    check_count(len(pixels) if pixels.ndim else 0, service.settings)
    return prepared_images(engine, pixels)


def _task(engine: Engine, selected: Container[str], parameters: InferParameters, classes: Classes | None) -> Task:
    """Return the task that computes the selected outputs: a vector, classes, or both."""
    if classes is not None and "embedding" not in selected:
        return classes.task
    second = None if classes is None else classes.task
    return replace(Task.vector(engine, parameters.pool, parameters.normalize), second=second)


def _outputs(answers: Sequence[ImageAnswer], task: Task, classes: Classes | None) -> dict[str, NDArray[Any]]:
    """Stack the answers into tensors with one row per image: of classes, of a vector, or of both."""
    found: dict[str, NDArray[Any]] = {}
    if classes is None or task.second:
        found["embedding"] = np.stack([cast(Any, answer.answer) for answer in answers])
    if classes is not None:
        rankings = [
            cast(Ranking, classes.read(cast(Any, one.second if task.second else one.answer))) for one in answers
        ]
        names = np.array(classes.names, dtype=object)
        found["scores"] = np.stack([ranking.scores for ranking in rankings])
        found["labels"] = np.stack([names[ranking.indices] for ranking in rankings])
    return found
