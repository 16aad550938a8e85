"""Tensors of the Open Inference Protocol on the wire: JSON, or JSON with raw bytes behind it.

A header says how long the JSON is; the bytes of a binary tensor follow, little-endian and row by row, each element of
BYTES behind its length in four bytes. Knows nothing of images.
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

from app.errors import Problem

HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"

Datatype = Literal["BYTES", "UINT8", "FP32"]
DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}
KINDS = {"UINT8": "iu", "FP32": "iuf"}
"""Of JSON's numbers, which ones a datatype takes."""


class TensorParameters(BaseModel):
    """Where a tensor's data is."""

    model_config = ConfigDict(extra="forbid")

    binary_data_size: int | None = Field(
        default=None, ge=0, description="Bytes behind the JSON; without it `data` holds them."
    )


class InputTensor(BaseModel):
    """A tensor that comes in."""

    model_config = ConfigDict(extra="forbid")

    name: str
    shape: list[Annotated[int, Field(ge=0)]]
    datatype: Datatype
    parameters: TensorParameters = TensorParameters()
    data: list[Any] | None = Field(None, description="Flat or nested; of BYTES, base64.")

    def elements(self, tail: bytes) -> list[bytes] | list[str]:
        """What a tensor of BYTES holds: bytes behind the JSON, or its strings. Raises Problem."""
        found = self._texts() if self._in_json(tail) else _split(self.name, tail)
        self._check_count(len(found))
        return found

    def array(self, tail: bytes) -> NDArray[Any]:
        """A tensor of numbers, its own copy. Raises Problem."""
        dtype = DTYPES[self.datatype]
        if self._in_json(tail):
            flat = self._numbers(dtype)
            self._check_count(flat.size)
        else:
            self._check_count(len(tail) / dtype.itemsize)
            flat = np.frombuffer(tail, dtype)
        return flat.reshape(self.shape).astype(dtype)

    def _in_json(self, tail: bytes) -> bool:
        size = self.parameters.binary_data_size
        if len(tail) != (size or 0):
            detail = f"{self.name!r} declares {size or 0} bytes behind the JSON, {len(tail)} are there"
            raise Problem("malformed_body", f"{detail}; the header {HEADER_LENGTH} says how long the JSON is")
        if (size is None) == (self.data is None):
            detail = f"{self.name!r} should have either 'data' or the parameter 'binary_data_size'"
            raise Problem("malformed_body", detail)
        return size is None

    def _texts(self) -> list[str]:
        flat = np.array(self.data, dtype=object).ravel().tolist()
        if not all(isinstance(text, str) for text in flat):
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
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is found as that
            return numbers.ravel().astype(dtype)

    def _bad_numbers(self) -> Problem:
        allowed = "whole numbers from 0 to 255" if self.datatype == "UINT8" else "numbers"
        return Problem("invalid_parameter", f"the data of {self.name!r} must be {allowed}, in rows of equal length")

    def _check_count(self, found: float) -> None:
        if found != math.prod(self.shape):
            detail = f"{self.name!r} has the shape {self.shape} and {found:g} elements"
            raise Problem("invalid_parameter", detail[:200])


@dataclass(frozen=True)
class OutputTensor:
    """A tensor that goes out: FP32, or strings (of the dtype object) as BYTES."""

    name: str
    values: NDArray[Any]
    binary: bool

    @property
    def datatype(self) -> Datatype:
        """The protocol's name of what the values are."""
        return "BYTES" if self.values.dtype == object else "FP32"

    def raw(self) -> bytes:
        """The values as they lie behind the JSON."""
        if self.datatype == "FP32":
            return self.values.astype("<f4").tobytes()
        encoded = [text.encode() for text in self.values.ravel()]
        return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)


def separate(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    """A request's body -> its JSON and what lies behind that. Raises Problem."""
    if header_length is None:
        return body, b""
    if not header_length.isdecimal() or int(header_length[:20]) > len(body):
        raise Problem("malformed_body", f"{HEADER_LENGTH} must be at most the body's length, {len(body)}")
    return body[: int(header_length)], body[int(header_length) :]


def respond(head: dict[str, Any], outputs: Sequence[OutputTensor]) -> Response:
    """The answer: JSON, and behind it the tensors that were wanted in binary."""
    described: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for output in outputs:
        entry = {"name": output.name, "datatype": output.datatype, "shape": output.values.shape}
        if output.binary:
            tail.append(output.raw())
            described.append(entry | {"parameters": {"binary_data_size": len(tail[-1])}})
        else:
            data = output.values.ravel()
            described.append(entry | {"data": data.tolist() if output.datatype == "BYTES" else data})
    header = orjson.dumps(head | {"outputs": described}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not tail:
        return Response(header, media_type="application/json")
    return Response(header + b"".join(tail), media_type=BINARY, headers={HEADER_LENGTH: str(len(header))})


def _split(name: str, raw: bytes) -> list[bytes]:
    """Elements of BYTES, each behind its length."""
    elements, place = [], 0
    while place < len(raw):
        length = int.from_bytes(raw[place : place + 4], "little")
        place += 4 + length
        if place > len(raw):
            raise Problem("malformed_body", f"an element of {name!r} is longer than what lies behind the JSON")
        elements.append(raw[place - length : place])
    return elements
