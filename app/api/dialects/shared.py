"""Functions that several dialects share: read a JSON body, check the model's name, answer all images or none."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Path, Request
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, WithJsonSchema

from app.api.bodies import read_body
from app.api.responses import all_answers
from app.api.uploads import check_count, check_given_once, json_object
from app.errors import Problem
from app.http.problems import invalid
from app.schemas import SIZE, VectorQuery
from app.service import Engine, ImageAnswer, PreparedImage, Resolution, Service, Task, Upload, check_fits, fits
from app.settings import Settings
from app.wording import shown

Content = TypeVar("Content", bound=BaseModel)

ModelName = Annotated[str, Path(description="Name of the model, as in GET /model.")]
"""The parameter of a route with the model's name in its path."""


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Size = Annotated[
    str | None,
    BeforeValidator(_number_as_text),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": SIZE}, {"type": "integer", "minimum": 1, "maximum": 99999}]}
    ),
]
"""The member `size` of a JSON body, where a number is as good as a string."""

PASSED_OVER = "Ignored: it cannot change the answer."
"""Describes a member that a protocol's clients send for other kinds of models or servers."""


class VectorMembers(VectorQuery):
    """The parameters of a vector as members of a JSON body."""

    size: Size = Field(
        None, pattern=SIZE, description=str(VectorQuery.model_fields["size"].description), examples=["224", 224]
    )


def is_json(request: Request) -> bool:
    """Return whether the Content-Type is JSON."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower() == "application/json"


async def read_json(
    request: Request, settings: Settings, model: type[Content], belongs: Mapping[str, str] | None = None
) -> Content:
    """Read the body as JSON and validate it against a model; see `parse_json`. Raises Problem."""
    body = await read_body(request, settings)
    # On a thread: parsing many megabytes of base64 would block the event loop.
    return await asyncio.to_thread(parse_json, body, model, belongs)


def parse_json(body: bytes, model: type[Content], belongs: Mapping[str, str] | None = None) -> Content:
    """Validate JSON against a model without converting types: "1" is not a number. Raises Problem.

    Args:
        body: the JSON.
        model: what it must be.
        belongs: for the name of a member that is unknown here, where it belongs.
    """
    content = json_object(body)
    check_given_once(body, content)
    content = _without_nulls(content)
    try:
        return model.model_validate(content, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = (belongs or {}).get(str(fault["loc"][-1])) if fault["type"] == "extra_forbidden" else None
        raise invalid(fault, "member", f"; it belongs in {place}" if place else "") from error


def _without_nulls(value: Any) -> Any:
    """Return JSON without the members that are null: clients write it for what they leave out."""
    if isinstance(value, dict):
        return {name: _without_nulls(member) for name, member in value.items() if member is not None}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_without_nulls(item) for item in value]
    return value


def check_model(engine: Engine, name: str) -> None:
    """Raise Problem unless this is the name of the model that is served."""
    if name != engine.checkpoint.name:
        detail = f"there is no model {shown(name)}; this service serves {engine.checkpoint.name!r}"
        raise Problem("model_not_found", detail)


async def check_model_or_head(service: Service, engine: Engine, name: str) -> str | None:
    """Return the name of the fitted head in `model@head`; None for the name of the model. Raises Problem."""
    model, at, head = name.partition("@") if name != engine.checkpoint.name else (name, "", "")
    if not at or model != engine.checkpoint.name:
        check_model(engine, name)
        return None
    check_fits(engine, await service.heads.named(head), f"the head {head!r}")
    return head


async def model_names(service: Service, engine: Engine) -> list[str]:
    """Return the name of the model and, for each fitted head that it can be used with, `model@head`."""
    name, kept = engine.checkpoint.name, await service.heads.kept()
    return [name, *(f"{name}@{head}" for head, one in kept.items() if one.head and fits(engine, one.head.space))]


async def answer_all(
    request: Request, engine: Engine, uploads: Sequence[Upload | PreparedImage], resolution: Resolution, task: Task
) -> list[ImageAnswer]:
    """Return the answers to all images.

    Raises Problem if one image fails, because the dialects' responses have no place for the error of a single image.
    """
    service: Service = request.app.state.service
    if not uploads:
        raise Problem("no_image", "the request has no image")
    check_count(len(uploads), service.settings)
    return all_answers(await service.answer(engine, uploads, resolution, task, request.state.timings))
