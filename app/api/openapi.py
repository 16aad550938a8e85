"""What the OpenAPI document says of the endpoints that take images: three kinds of body, every status, examples."""

from typing import Any

from pydantic import BaseModel

from app.api.results import NPY, PNG
from app.problems import responses
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
    *("malformed_body", "no_image", "empty_image", "too_slow", "no_classifier", "no_such_pool", "no_cls_token"),
    *("body_too_large", "too_many_images", "not_an_image", "format_not_allowed"),
    *("undecodable", "too_many_pixels", "too_complex", "bad_base64"),
    *("invalid_parameter", "unknown_parameter", "too_many_tokens", "unequal_grids"),
    *("internal", "model_output_invalid"),
    *("overloaded", "loading", "draining", "out_of_memory", "timeout"),
)


def image_endpoint(response: type[BaseModel], array: str = "", picture: str = "") -> dict[str, Any]:
    """Arguments of the route: its answers as JSON (`response`), .npy (`array`) and PNG (`picture`), body, problems."""
    others = {media: {"schema": FILE | {"description": text}} for media, text in ((PNG, picture), (NPY, array)) if text}
    return {
        "responses": {
            200: {"model": response, "description": "an answer for each image", "content": others},
            **responses(*PROBLEMS),
        },
        "openapi_extra": {"requestBody": BODY},
    }
