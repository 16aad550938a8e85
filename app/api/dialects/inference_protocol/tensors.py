"""Tensors of the Open Inference Protocol: in JSON, or as binary data after the JSON.

A header gives the length of the JSON. Binary tensors follow it, little-endian and in row-major order. Each element of a
BYTES tensor is preceded by its length in four bytes. This module does not know about images.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from app.api.dialects.shared import PASSED_OVER
from app.errors import Problem

HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"

Datatype = Literal["BYTES", "UINT8", "FP32"]
DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}
KINDS = {"UINT8": "iu", "FP32": "iuf"}
"""The kinds of numpy dtype that numbers in JSON may have, for each datatype."""


class TensorParameters(BaseModel):
    """Parameters of an input tensor."""

    model_config = ConfigDict(extra="forbid")

    binary_data_size: int | None = Field(
        default=None,
        ge=0,
        description="Length of the tensor's binary data in bytes. Without it, `data` has the values.",
    )
    content_type: Any = Field(default=None, description=PASSED_OVER)


class InputTensor(BaseModel):
    """A tensor of a request."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="Name of the input: `image`, `pixels` or `pixel_values`.")
    shape: list[Annotated[int, Field(ge=0)]] = Field(description="Length of each dimension.")
    datatype: Datatype = Field(description="BYTES for `image`, UINT8 for `pixels`, FP32 for `pixel_values`.")
    parameters: TensorParameters = TensorParameters()
    data: list[Any] | None = Field(None, description="The values, flat or nested: numbers, or base64 for BYTES.")

    def elements(self, binary_data: bytes) -> list[bytes] | list[str]:
        """Return the elements of a BYTES tensor: bytes from the binary data, or strings from JSON. Raises Problem."""
        elements = self._strings() if self._is_json(binary_data) else _split_elements(self.name, binary_data)
        self._check_count(len(elements))
        return elements

    def array(self, binary_data: bytes) -> NDArray[Any]:
        """Return a tensor of numbers as an array of its own. Raises Problem."""
        dtype = DTYPES[self.datatype]
        if self._is_json(binary_data):
            flat = self._numbers(dtype)
            self._check_count(flat.size)
        else:
            self._check_count(len(binary_data) / dtype.itemsize)
            flat = np.frombuffer(binary_data, dtype)
        return flat.reshape(self.shape).astype(dtype)

    def _is_json(self, binary_data: bytes) -> bool:
        """Return whether the values are in JSON. Raises Problem if they are in both places or in neither."""
        size = self.parameters.binary_data_size
        if len(binary_data) != (size or 0):
            detail = f"{self.name!r} declares {size or 0} bytes of binary data, but {len(binary_data)} follow the JSON"
            raise Problem("malformed_body", f"{detail}; the header {HEADER_LENGTH} gives the length of the JSON")
        if (size is None) == (self.data is None):
            detail = f"{self.name!r} must have either 'data' or the parameter 'binary_data_size'"
            raise Problem("malformed_body", detail)
        return size is None

    def _strings(self) -> list[str]:
        flat = np.array(self.data, dtype=object).ravel().tolist()
        if not all(isinstance(value, str) for value in flat):
            raise Problem("invalid_parameter", f"the data of {self.name!r} must be strings of base64")
        return flat

    def _numbers(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        try:
            numbers = np.asarray(self.data)
        except ValueError as error:  # rows of different lengths
            raise self._bad_numbers() from error
        if numbers.size and (
            numbers.dtype.kind not in KINDS[self.datatype]
            or (self.datatype == "UINT8" and not 0 <= numbers.min() <= numbers.max() <= 255)
        ):
            raise self._bad_numbers()
        with np.errstate(over="ignore"):  # too large for float32 becomes infinity, which is rejected later
            return numbers.ravel().astype(dtype)

    def _bad_numbers(self) -> Problem:
        allowed = "whole numbers from 0 to 255" if self.datatype == "UINT8" else "numbers"
        return Problem("invalid_parameter", f"the data of {self.name!r} must be {allowed}, in rows of equal length")

    def _check_count(self, count: float) -> None:
        if count != math.prod(self.shape):
            detail = f"{self.name!r} has {count:g} elements, which do not match its shape {self.shape}"
            raise Problem("invalid_parameter", detail[:200])


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of a response: float32, or strings (dtype object), which are sent as BYTES."""

    name: str
    values: NDArray[Any]
    binary: bool

    @property
    def datatype(self) -> Datatype:
        """The protocol's name for the data type."""
        return "BYTES" if self.values.dtype == object else "FP32"

    def binary_data(self) -> bytes:
        """Return the values in the binary format of the protocol."""
        if self.datatype == "FP32":
            return self.values.astype("<f4").tobytes()
        encoded = [value.encode() for value in self.values.ravel()]
        return b"".join(len(value).to_bytes(4, "little") + value for value in encoded)


def split_body(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    """Split a request's body into its JSON and the binary data that follows. Raises Problem."""
    if header_length is None:
        return body, b""
    if not header_length.isdecimal() or int(header_length[:20]) > len(body):
        raise Problem("malformed_body", f"{HEADER_LENGTH} must be a number up to the length of the body, {len(body)}")
    return body[: int(header_length)], body[int(header_length) :]


def tensor_response(head: dict[str, Any], outputs: Sequence[OutputTensor]) -> Response:
    """Return `head` and the outputs as JSON, followed by those outputs that are sent as binary data."""
    entries: list[dict[str, Any]] = []
    binary_data: list[bytes] = []
    for output in outputs:
        entry = {"name": output.name, "datatype": output.datatype, "shape": output.values.shape}
        if output.binary:
            binary_data.append(output.binary_data())
            entries.append(entry | {"parameters": {"binary_data_size": len(binary_data[-1])}})
        else:
            data = output.values.ravel()
            entries.append(entry | {"data": data.tolist() if output.datatype == "BYTES" else data})
    header = orjson.dumps(head | {"outputs": entries}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary_data:
        return Response(header, media_type="application/json")
    return Response(header + b"".join(binary_data), media_type=BINARY, headers={HEADER_LENGTH: str(len(header))})


def _split_elements(name: str, binary_data: bytes) -> list[bytes]:
    """Split the binary data of a BYTES tensor into its elements. Raises Problem."""
    elements, position = [], 0
    while position < len(binary_data):
        length = int.from_bytes(binary_data[position : position + 4], "little")
        position += 4 + length
        if position > len(binary_data):
            raise Problem("malformed_body", f"an element of {name!r} extends past the end of the binary data")
        elements.append(binary_data[position - length : position])
    return elements
