"""The Open Inference Protocol, version 2: /v2, as clients of KServe, Triton and Seldon speak it.

One input: `image`, files as BYTES (base64 in JSON); or `pixels`, UINT8 (n, 3, H, W) from 0 to 255, not normalised; or
`pixel_values`, FP32 (n, 3, H, W), normalised by the checkpoint's mean and std: what the network itself takes.
Outputs: `embedding`, what /embed answers; `scores` and `labels`, the best classes as /classify ranks them.
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

import asyncio
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from app import __version__
from app.api.bodies import check_model, parse_json
from app.api.dialects.pixels import ready_pixels
from app.api.dialects.tensors import BINARY, HEADER_LENGTH, InputTensor, OutputTensor, respond, separate
from app.api.openapi import FILE, OF_A_MODEL, PROBLEMS, json_body, json_request
from app.api.operation.health import healthz, readyz
from app.api.results import answer_all, with_fingerprint
from app.api.uploads import check_count, from_texts, read_body
from app.errors import Problem
from app.http.problems import ErrorFormat, responses
from app.inference.engine import Engine
from app.inference.jobs import Ranking
from app.inference.task import Task
from app.pictures.prepared import PreparedImage, Resolution, Upload
from app.schemas import VectorQuery
from app.service.service import Service
from models.network.vit import Readout

OutputName = Literal["embedding", "scores", "labels"]
INPUTS = {"image": "BYTES", "pixels": "UINT8", "pixel_values": "FP32"}


def _error(problem: Problem, request_id: str) -> dict[str, Any]:  # noqa: ARG001 - the protocol has one member
    return {"error": problem.detail}


class Error(BaseModel):
    """An error, in the protocol's one member."""

    error: str


ERROR_FORMAT = ErrorFormat(_error, json_body(Error))
router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])


class Server(BaseModel):
    """What serves."""

    name: str = "vitrine"
    version: str = __version__
    extensions: tuple[str, ...] = ("binary_tensor_data",)


class TensorMetadata(BaseModel):
    """A tensor that the model takes or answers; -1 is any length."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """The model. Of its inputs a request has one."""

    name: str
    platform: str = "vitrine_vit"
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Live(BaseModel):
    """The process is alive."""

    live: Literal[True] = True


class Ready(BaseModel):
    """The model takes requests."""

    ready: Literal[True] = True


class ModelReady(Ready):
    """The model of this name takes requests."""

    name: str


class OutputParameters(BaseModel):
    """How an output is to come."""

    model_config = ConfigDict(extra="forbid")

    binary_data: bool | None = Field(default=None, description="Behind the JSON, or in it.")


class RequestedOutput(BaseModel):
    """An output that is wanted."""

    model_config = ConfigDict(extra="forbid")

    name: OutputName
    parameters: OutputParameters = OutputParameters()


class InferParameters(VectorQuery):
    """Parameters of /embed and /classify; `size` and `resize` are for images."""

    top_k: int = Field(5, ge=0, description="How many classes, best first; 0, or more than there are, gives all.")
    binary_data_output: bool = Field(False, description="All outputs behind the JSON, but those that say otherwise.")


class InferRequest(BaseModel):
    """The JSON of POST /v2/models/{name}/infer."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(None, description="Comes back with the answer.")
    parameters: InferParameters = InferParameters.model_validate({})
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] = Field([], description="Default: all that the model has.")

    def wanted(self, engine: Engine) -> dict[OutputName, bool]:
        """The outputs that are to come, and whether in binary."""
        everything = [output.name for output in _outputs(engine)]
        named = self.outputs or [RequestedOutput(name=cast(OutputName, name)) for name in everything]
        default = self.parameters.binary_data_output
        chosen = {output.name: output.parameters.binary_data for output in named}
        return {name: default if binary is None else binary for name, binary in chosen.items()}


class InferResponse(BaseModel):
    """The JSON of the answer."""

    model_name: str
    id: str | None = None
    outputs: list[dict[str, Any]]


@router.get("", responses=responses("unhealthy", shape=ERROR_FORMAT))
async def server() -> Server:
    """Describe the server."""
    return Server()


@router.get("/health/live", responses=responses("unhealthy", shape=ERROR_FORMAT))
async def live(request: Request) -> Live:
    """Whether the process is alive, as /healthz says."""
    await healthz(request)
    return Live()


@router.get("/health/ready", responses=responses("loading", "draining", shape=ERROR_FORMAT))
async def ready(request: Request) -> Ready:
    """Whether the model takes requests, as /readyz says."""
    await readyz(request)
    return Ready()


@router.get("/models/{name:path}/ready", responses=responses(*OF_A_MODEL, shape=ERROR_FORMAT))
async def model_ready(request: Request, name: str) -> ModelReady:
    """Whether the model of this name takes requests."""
    await readyz(request)
    check_model(_engine(request), name)
    return ModelReady(name=name)


@router.get("/models/{name:path}", responses=responses(*OF_A_MODEL, shape=ERROR_FORMAT))
async def metadata(request: Request, name: str) -> ModelMetadata:
    """Describe the model's inputs and outputs."""
    engine = _engine(request)
    check_model(engine, name)
    inputs = [
        TensorMetadata(name=name, datatype=datatype, shape=[-1] if datatype == "BYTES" else [-1, 3, -1, -1])
        for name, datatype in INPUTS.items()
    ]
    return ModelMetadata(name=name, inputs=inputs, outputs=_outputs(engine))


@router.post(
    "/models/{name:path}/infer",
    responses={
        200: {"model": InferResponse, "content": {BINARY: {"schema": FILE}}},
        **responses(*PROBLEMS, "model_not_found", shape=ERROR_FORMAT),
    },
    openapi_extra=json_request(InferRequest, **{BINARY: FILE}),
)
async def infer(request: Request, name: str) -> Response:
    """Embed and classify images or tensors. One bad image fails the request.

    Embedding and classes are computed apart: name the outputs that you need.
    """
    service: Service = request.app.state.service
    engine = service.admit()
    check_model(engine, name)
    body = await read_body(request, service.settings)
    header, tail = separate(body, request.headers.get(HEADER_LENGTH))
    asked = await asyncio.to_thread(parse_json, header, InferRequest)

    parameters, wanted, images = asked.parameters, asked.wanted(engine), await _images(engine, asked, tail, service)
    resolution = Resolution(parameters.height_width, parameters.resize)
    of_pixels = [image for image in images if isinstance(image, PreparedImage)]
    if of_pixels:
        resolution = Resolution(of_pixels[0].plan.size)
    task = _task(engine, wanted, parameters)
    answered = await answer_all(request, engine, images, resolution, task)
    outputs = _tensors(engine, [outcome.answer for outcome in answered])
    if task.also:
        outputs |= _tensors(engine, [outcome.also for outcome in answered])
    head = {"model_name": name} | ({} if asked.id is None else {"id": asked.id})
    response = respond(head, [OutputTensor(name, outputs[name], binary) for name, binary in wanted.items()])
    return response if of_pixels else with_fingerprint(response, engine, resolution, task)


def _task(engine: Engine, wanted: Container[str], parameters: InferParameters) -> Task:
    """A vector, classes, or both."""
    classes = Task.classes(engine, parameters.top_k) if "scores" in wanted or "labels" in wanted else None
    if "embedding" not in wanted and classes:
        return classes
    return replace(Task.vector(engine, parameters.pool, parameters.normalize), also=classes)


def _engine(request: Request) -> Engine:
    service: Service = request.app.state.service
    return service.engine


def _outputs(engine: Engine) -> list[TensorMetadata]:
    """What the model answers."""
    outputs = [TensorMetadata(name="embedding", datatype="FP32", shape=[-1, engine.config.embed_dim])]
    if Readout.LOGITS in engine.readouts:
        outputs.append(TensorMetadata(name="scores", datatype="FP32", shape=[-1, -1]))
        outputs.append(TensorMetadata(name="labels", datatype="BYTES", shape=[-1, -1]))
    return outputs


async def _images(
    engine: Engine, asked: InferRequest, tail: bytes, service: Service
) -> Sequence[Upload | PreparedImage]:
    """The one input: files, or pixels that need no preparing."""
    tensor = asked.inputs[0]
    if INPUTS.get(tensor.name) != tensor.datatype:
        known = ", ".join(f"{name} ({datatype})" for name, datatype in INPUTS.items())
        given = f"{tensor.name[:100]} ({tensor.datatype})"
        raise Problem("invalid_parameter", f"there is no input {given}; there are {known}")
    if tensor.datatype == "BYTES":
        found = tensor.elements(tail)
        check_count(len(found), service.settings)
        return await from_texts(cast(list[str], found), service.settings) if tail == b"" else cast(list[bytes], found)
    if asked.parameters.size or asked.parameters.resize:
        raise Problem("invalid_parameter", "size and resize are for images; pixels are taken at the size they have")
    pixels = await asyncio.to_thread(tensor.array, tail)
    check_count(len(pixels) if pixels.ndim else 0, service.settings)
    return ready_pixels(engine, pixels)


def _tensors(engine: Engine, answers: Sequence[object]) -> dict[str, NDArray[Any]]:
    """Answers of one kind as tensors, a row for each image."""
    if not isinstance(answers[0], Ranking):
        return {"embedding": np.stack([cast(Any, answer) for answer in answers])}
    rankings = cast(list[Ranking], answers)
    names = np.array(engine.labels.names, dtype=object)
    return {
        "scores": np.stack([ranking.scores for ranking in rankings]),
        "labels": np.stack([names[ranking.indices] for ranking in rankings]),
    }
