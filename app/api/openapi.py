"""What the OpenAPI document says of the endpoints that take images: three kinds of body, every status, examples."""

from typing import Any

from pydantic import BaseModel

from app.api.results import NPY, PNG
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
                "properties": {"image": {"type": "array", "items": FILE, "description": "one file or several"}},
            }
        },
        "image/*": {"schema": FILE},
        "application/json": {"schema": JsonUpload.model_json_schema()},
    },
}

PROBLEMS = (
    *(
        "malformed_body",
        "no_image",
        "empty_image",
        "unauthorized",
        "too_slow",
        "no_classifier",
        "no_such_pool",
        "no_cls_token",
    ),
    *("headers_too_large", "malformed_request"),
    *("body_too_large", "too_many_images", "not_an_image", "format_not_allowed"),
    *("undecodable", "too_many_pixels", "too_complex", "bad_base64"),
    *("invalid_parameter", "unknown_parameter", "too_many_tokens", "unequal_grids"),
    *("internal", "model_output_invalid"),
    *("overloaded", "loading", "draining", "out_of_memory", "timeout"),
)

OF_A_MODEL = ("loading", "draining", "model_not_found", "invalid_parameter")
"""Of a route with the model's name in its path; without the last one FastAPI would document a 422 of its own shape."""


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """A model's schema in one piece: the document has no place for the parts of what no route declares."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(item) for item in value]
        if not isinstance(value, dict):
            return value
        name = value.get("$ref", "").removeprefix("#/$defs/")
        return whole(parts[name]) if name else {key: whole(item) for key, item in value.items()}

    inlined: dict[str, Any] = whole(schema)
    return inlined


def json_request(model: type[BaseModel], **others: dict[str, Any]) -> dict[str, Any]:
    """Argument of a route that reads its body itself: JSON of this model, or one of `others` by media type."""
    content = {"application/json": {"schema": json_body(model)}} | {
        kind: {"schema": schema} for kind, schema in others.items()
    }
    return {"requestBody": {"required": True, "content": content}}


def image_endpoint(response: Any, array: str = "", picture: str = "") -> dict[str, Any]:
    """Arguments of the route: its answers as JSON (`response`), .npy (`array`) and PNG (`picture`), body, problems."""
    others = {media: {"schema": FILE | {"description": text}} for media, text in ((PNG, picture), (NPY, array)) if text}
    return {
        "responses": {
            200: {"model": response, "description": "an answer for each image", "content": others},
            **responses(*PROBLEMS),
        },
        "openapi_extra": {"requestBody": BODY},
    }
