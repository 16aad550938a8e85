"""What dialects ask of a body: JSON of any shape that a schema describes, and the name of the model that is served."""

import asyncio
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from app.api.uploads import json_object, read_body
from app.errors import Problem
from app.http.problems import invalid
from app.inference.engine import Engine
from app.settings import Settings

Content = TypeVar("Content", bound=BaseModel)


def is_json(request: Request) -> bool:
    """Whether the body is declared as JSON."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower() == "application/json"


async def read_json(request: Request, settings: Settings, model: type[Content]) -> Content:
    """The body as this model describes it. Raises Problem."""
    body = await read_body(request, settings)
    # Many megabytes of base64 would hold up the loop.
    return await asyncio.to_thread(parse_json, body, model)


def parse_json(body: bytes, model: type[Content]) -> Content:
    """JSON, held against a model by JSON's own types: "1" is no number. Raises Problem."""
    content = json_object(body)
    try:
        return model.model_validate(content, strict=True)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False)[0], "member") from error


def check_model(engine: Engine, name: str) -> None:
    """No model answers for another one. Raises Problem."""
    if name != engine.checkpoint.name:
        raise Problem("model_not_found", f"there is no model {name[:100]!r} here; there is {engine.checkpoint.name!r}")
