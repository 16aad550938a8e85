"""The JSON of the Open Inference Protocol's requests and responses."""

from collections.abc import Sequence
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from app.api.dialects.inference_protocol.tensors import InputTensor
from app.api.dialects.shared import PASSED_OVER, VectorMembers
from app.schemas import TOP_K
from app.service import Engine
from app.version import __version__

VERSION = "1"
"""The version of the model; there is no other."""

OutputName = Literal["embedding", "scores", "labels"]


class Error(BaseModel):
    """The error response of the protocol."""

    error: str = Field(description="A sentence that names the offending value and what is allowed.")


class Server(BaseModel):
    """The server."""

    name: str = Field(default="vitrine", description="Name of the server.")
    version: str = Field(default=__version__, description="Version of the server.")
    extensions: tuple[str, ...] = Field(
        default=("binary_tensor_data",), description="Extensions of the protocol that the server supports."
    )


class TensorMetadata(BaseModel):
    """An input or output tensor of the model."""

    name: str = Field(description="Name of the tensor.")
    datatype: str = Field(description="Data type: BYTES, UINT8 or FP32.")
    shape: list[int] = Field(description="Length of each dimension; -1 for any length.")


class ModelMetadata(BaseModel):
    """The model and its tensors."""

    name: str = Field(description="Name of the model.")
    versions: tuple[str, ...] = Field(default=(VERSION,), description="The one version, `1`.")
    platform: str = Field(default="vitrine_vit", description="Always `vitrine_vit`.")
    inputs: list[TensorMetadata] = Field(description="The possible inputs; a request has exactly one of them.")
    outputs: list[TensorMetadata] = Field(description="The outputs that a request can select.")


class Live(BaseModel):
    """The process is alive."""

    live: Literal[True] = True


class Ready(BaseModel):
    """The model accepts requests."""

    ready: Literal[True] = True


class ModelReady(Ready):
    """The model with this name accepts requests."""

    name: str = Field(description="Name of the model.")


class ModelNames(BaseModel):
    """The models that are served."""

    models: list[str] = Field(description="The name of the model, and `model@head` for each fitted head.")


class IndexRequest(BaseModel):
    """The JSON of POST /v2/repository/index, which may be empty."""

    model_config = ConfigDict(extra="forbid")

    ready: bool = Field(False, description="List only models that are ready. The one that is served is.")


class IndexEntry(BaseModel):
    """A model of the repository."""

    name: str = Field(description="Name of the model.")
    version: str = Field(default=VERSION, description="Always `1`.")
    state: Literal["READY"] = Field(default="READY", description="Always `READY`: a model that is loading is a 503.")


class OutputParameters(BaseModel):
    """Parameters of an output."""

    model_config = ConfigDict(extra="forbid")

    binary_data: bool | None = Field(
        default=None,
        description="Whether the tensor follows the JSON as binary data. Default: `binary_data_output` of the request.",
    )
    content_type: Any = Field(default=None, description=PASSED_OVER)


class RequestedOutput(BaseModel):
    """An output that the response should contain."""

    model_config = ConfigDict(extra="forbid")

    name: OutputName = Field(description="Name of the output.")
    parameters: OutputParameters = OutputParameters()


class InferParameters(VectorMembers):
    """The parameters of /embed and /classify. `size`, `resize` and `max_patches` apply only to the input `image`."""

    top_k: int = Field(5, ge=0, description=TOP_K)
    timeout: Any = Field(default=None, description=PASSED_OVER)
    priority: Any = Field(default=None, description=PASSED_OVER)
    content_type: Any = Field(default=None, description=PASSED_OVER)
    headers: Any = Field(default=None, description=PASSED_OVER)
    binary_data_output: bool = Field(
        False, description="Return tensors as binary data after the JSON, except where an output overrides it."
    )


class InferRequest(BaseModel):
    """The JSON of POST /v2/models/{name}/infer."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(None, description="An id that is returned with the response.")
    parameters: InferParameters = InferParameters.model_validate({})
    inputs: list[InputTensor] = Field(min_length=1, max_length=1, description="The one input.")
    outputs: list[RequestedOutput] = Field([], description="The outputs to return. Default: all that the model has.")

    def selected_outputs(self, outputs: Sequence[TensorMetadata]) -> dict[OutputName, bool]:
        """Return the selected ones of the model's outputs, each with whether it is returned as binary data."""
        all_outputs = [RequestedOutput(name=cast(OutputName, output.name)) for output in outputs]
        default = self.parameters.binary_data_output
        binary = {output.name: output.parameters.binary_data for output in self.outputs or all_outputs}
        return {name: default if chosen is None else chosen for name, chosen in binary.items()}


class InferResponse(BaseModel):
    """The JSON of the response."""

    model_name: str = Field(description="Name of the model.")
    model_version: str = Field(default=VERSION, description="Always `1`.")
    id: str | None = Field(default=None, description="The id of the request, if it had one.")
    outputs: list[dict[str, Any]] = Field(description="The tensors: name, datatype, shape, and data or its size.")


def model_outputs(engine: Engine, *, classes: bool) -> list[TensorMetadata]:
    """Return the outputs of the model: the embedding and, with a classifier, scores and labels."""
    dims = {engine.default_dim, engine.config.embed_dim, engine.config.native_dim}
    outputs = [TensorMetadata(name="embedding", datatype="FP32", shape=[-1, dims.pop() if len(dims) == 1 else -1])]
    if classes:
        outputs.append(TensorMetadata(name="scores", datatype="FP32", shape=[-1, -1]))
        outputs.append(TensorMetadata(name="labels", datatype="BYTES", shape=[-1, -1]))
    return outputs
