"""Describe the endpoints that take images in the OpenAPI document: three kinds of body, every status, examples."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from app.api.responses import NPY, PNG
from app.http.problems import responses
from app.schemas import JsonUpload

FILE = {"type": "string", "format": "binary"}

BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "array", "items": FILE, "description": "One or more image files."}},
            }
        },
        "image/*": {"schema": FILE},
        "application/json": {"schema": JsonUpload.model_json_schema()},
    },
}

IMAGE_PROBLEMS = (
    *(
        "malformed_body",
        "no_image",
        "empty_image",
        "unauthorized",
        "not_acceptable",
        "too_slow",
        "no_classifier",
        "no_such_pool",
        "no_cls_token",
    ),
    *("headers_too_large", "malformed_request"),
    *("body_too_large", "too_many_images", "not_an_image", "format_not_allowed", "unsupported_encoding"),
    *("undecodable", "too_many_pixels", "crop_too_large", "too_complex", "bad_base64"),
    *("invalid_parameter", "unknown_parameter", "too_many_tokens", "unequal_grids"),
    *("internal", "model_output_invalid"),
    *("overloaded", "loading", "draining", "out_of_memory", "timeout"),
)

HEAD_PROBLEMS = ("head_not_found", "head_stale", "head_broken")
"""Problems of a request that may name a fitted head."""

MODEL_PROBLEMS = ("loading", "draining", "model_not_found", "invalid_parameter")
"""Problems of a route with the model's name in its path.

`invalid_parameter` is listed because FastAPI would otherwise document a 422 in its own format.
"""


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's schema with all references inlined.

    FastAPI adds only the models that a route declares to the document's components, so references would dangle.
    """
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, list):
            return [inline(item) for item in value]
        if not isinstance(value, dict):
            return value
        name = value.get("$ref", "").removeprefix("#/$defs/")
        return inline(definitions[name]) if name else {key: inline(item) for key, item in value.items()}

    inlined: dict[str, Any] = inline(schema)
    return inlined


def json_request(
    model: type[BaseModel], others: Mapping[str, dict[str, Any]] | None = None, *, required: bool = True
) -> dict[str, Any]:
    """Return `openapi_extra` for a route that reads its body itself: JSON of this model, or `others` by media type."""
    content = {"application/json": {"schema": json_body(model)}} | {
        kind: {"schema": schema} for kind, schema in (others or {}).items()
    }
    return {"requestBody": {"required": required, "content": content}}


def image_endpoint(response: Any, npy: str = "", png: str = "", problems: Sequence[str] = ()) -> dict[str, Any]:
    """Return the arguments of a route that takes images: its body, its responses and its problems.

    Args:
        response: the model of the JSON response.
        npy: description of the .npy response, if there is one.
        png: description of the PNG response, if there is one.
        problems: codes beside those of every route that takes images.
    """
    others = {media: {"schema": FILE | {"description": text}} for media, text in ((PNG, png), (NPY, npy)) if text}
    return {
        "responses": {
            200: {
                "model": response,
                "description": "One result per image, in request order.",
                "content": others,
            },
            **responses(*IMAGE_PROBLEMS, *problems),
        },
        "openapi_extra": {"requestBody": BODY},
    }
