"""The JSON of the endpoints of heads."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class HeadClass(BaseModel):
    """A class of a head."""

    label: str = Field(description="Name of the class.")
    examples: int = Field(description="Number of its examples.")
    recall: float | None = Field(
        description="Share of its examples that are answered by it without themselves; null for a class with one."
    )


class HeadInfo(BaseModel):
    """A head. Only `name` and `state` are given of one whose file cannot be used, and `detail`."""

    name: str = Field(description="Name of the head.")
    state: Literal["ready", "stale", "broken"] = Field(
        description="`stale`: fitted on vectors that this service does not answer. `broken`: its file is damaged."
    )
    detail: str | None = Field(None, description="Why the head cannot be used.")
    version: str | None = Field(None, description="Number of the write, and a digest; the ETag.")
    created: str | None = Field(None, description="When it was fitted, in ISO 8601.")
    method: str | None = Field(None, description="How it was fitted: ridge, mean or logistic.")
    strength: float | None = Field(None, description="The regularisation that was chosen.")
    temperature: float | None = Field(None, description="What makes probabilities of scores.")
    examples: int | None = Field(None, description="Number of examples.")
    classes: list[HeadClass] | None = Field(None, description="The classes, in the order of their indices.")
    measured: str | None = Field(None, description="How the numbers below were found, such as `leave-one-out`.")
    accuracy: float | None = Field(None, description="Share of the examples that are answered rightly.")
    calibration_error: float | None = Field(None, description="Expected calibration error.")
    model: str | None = Field(None, description="Name of the model that it was fitted on.")
    fingerprint: str | None = Field(None, description="Fingerprint of the vectors that it reads.")
    dtype: str | None = Field(None, description="Number format of the forward pass.")
    pool: str | None = Field(None, description="Which vector it reads.")
    size: list[int] | None = Field(None, description="Height and width that were asked for; null: the checkpoint's.")
    resize: str | None = Field(None, description="Resize mode that was asked for.")
    max_patches: int | None = Field(None, description="Number of patches that was asked for.")


class FittedInfo(HeadInfo):
    """A head that was fitted now."""

    repeated: int = Field(description="Number of images that are in their class more than once; each counts once.")
    skipped: list[dict[str, Any]] = Field(description="With `skip_bad`: `class`, `place`, `name` and problem of each.")


class Refusal(BaseModel):
    """Why heads may not be written."""

    code: str = Field(description="Code of the error that a write would get.")
    detail: str = Field(description="What it says.")


class HeadList(BaseModel):
    """The response of GET /heads."""

    kept: Literal["memory", "directory"] = Field(description="`memory`: the heads are gone with the process.")
    writable: bool = Field(description="Whether this request's key, or none, may write heads.")
    refusal: Refusal | None = Field(description="Why it may not write; null if it may.")
    heads: list[HeadInfo] = Field(description="The heads, in alphabetical order.")


class Deleted(BaseModel):
    """The response of DELETE /heads/{name}."""

    name: str = Field(description="Name of the head.")
    deleted: str = Field(description="Version that was deleted.")
