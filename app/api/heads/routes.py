"""PUT, GET and DELETE /heads/{name}, GET /heads, POST /heads/{name}/examples."""

import re
from collections import Counter
from collections.abc import Awaitable, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from app.api.heads.rights import check_may_write, condition_of, etag, refusal
from app.api.heads.schemas import Deleted, FittedInfo, HeadInfo, HeadList, Refusal
from app.api.openapi import FILE, IMAGE_PROBLEMS
from app.api.responses import JSON, negotiate
from app.api.route import StrictRoute
from app.api.uploads import CLASS_HINT, Part, read_parts
from app.errors import Problem
from app.heads.describe import describe_head
from app.heads.store import Kept, always
from app.http.problems import PROBLEM_JSON, problem_response, responses
from app.schemas import HEAD_NAME, ExamplesQuery, FitQuery
from app.service import Engine, Resolution, Service, fits, misfit
from app.service.teaching import BadExamples, Picture, Taught, Teaching, Write
from app.wording import shown

router = APIRouter(tags=["heads"], route_class=StrictRoute)

Name = Annotated[str, Path(pattern=HEAD_NAME, description="Name of the head.", examples=["pets"])]

MAX_NAME = 200
"""The most characters of a class's name, and of a file's."""

CONTROL = re.compile(r"[\x00-\x1f\x7f\ufffd]")

NOT_OF_HEADS = {"no_classifier", "no_cls_token", "too_many_images", "unequal_grids"}
WRITING = (
    *(code for code in IMAGE_PROBLEMS if code not in NOT_OF_HEADS),
    *("forbidden", "heads_off", "head_changed", "too_many_classes", "too_many_examples", "heads_too_large"),
    *("bad_examples", "too_few_examples", "head_not_saved"),
)
CLASSES = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "description": "A field for each class, named like it, with the image files of that class.",
                    "additionalProperties": {"type": "array", "items": FILE},
                }
            }
        },
    }
}


@router.get("/heads", summary="List heads", responses=responses("loading", "draining"))
async def list_heads(request: Request) -> HeadList:
    """Return the fitted heads that are kept by name, and where they are kept."""
    service: Service = request.app.state.service
    engine, kept = service.engine, await service.heads.kept()
    heads = [HeadInfo.model_validate(_described(engine, name, kept[name])) for name in sorted(kept)]
    where: Literal["memory", "directory"] = "memory" if service.settings.heads is None else "directory"
    refused = refusal(request, service.settings)
    why = Refusal(code=refused.code, detail=refused.detail) if refused else None
    return HeadList(kept=where, writable=refused is None, refusal=why, heads=heads)


@router.get(
    "/heads/{name}",
    summary="Describe a head",
    response_model=HeadInfo,
    responses=responses("head_not_found", "invalid_parameter", "loading", "draining"),
)
async def get_head(request: Request, name: Name) -> Response:
    """Return the classes of a head, how it was fitted, how good it is, and the vectors that it reads."""
    service: Service = request.app.state.service
    engine, kept = service.engine, await service.heads.entry(name)
    return _response(_described(engine, name, kept), kept.head.version if kept.head else "")


@router.put(
    "/heads/{name}",
    summary="Fit a head",
    response_model=FittedInfo,
    responses=responses(*WRITING, "too_many_heads"),
    openapi_extra=CLASSES,
)
async def put_head(request: Request, name: Name, query: Annotated[FitQuery, Query()]) -> Response:
    """Fit a head from the images of named classes; the head of that name answers until the new one is whole.

    What is kept of an image is its vector, the name of its file and a digest, and never the image.
    """
    service, engine = _admit(request)
    condition = condition_of(request)
    pictures = _pictures(await read_parts(request, service.settings))
    teaching: Teaching = request.app.state.teaching
    asked = query.method, query.pool, Resolution(*query.resolution)
    work = teaching.fit(engine, Write(name, condition, query.skip_bad), pictures, asked)
    return await _taught(request, engine, name, work)


@router.post(
    "/heads/{name}/examples",
    summary="Add examples to a head",
    response_model=FittedInfo,
    responses=responses(*WRITING, "head_not_found", "head_stale", "head_broken"),
    openapi_extra=CLASSES,
)
async def post_examples(request: Request, name: Name, query: Annotated[ExamplesQuery, Query()]) -> Response:
    """Add images of old or new classes to a head, and fit it again by its own method."""
    service, engine = _admit(request)
    condition = condition_of(request)
    await service.heads.named(name)
    pictures = _pictures(await read_parts(request, service.settings))
    teaching: Teaching = request.app.state.teaching
    work = teaching.add(engine, Write(name, condition, query.skip_bad), pictures)
    return await _taught(request, engine, name, work)


@router.delete(
    "/heads/{name}",
    summary="Delete a head",
    responses=responses(
        *("unauthorized", "forbidden", "heads_off", "head_not_found", "head_changed", "invalid_parameter"),
        *("head_not_saved", "loading", "draining"),
    ),
)
async def delete_head(request: Request, name: Name) -> Deleted:
    """Delete a head."""
    service: Service = request.app.state.service
    _ = service.engine
    check_may_write(request, service.settings)
    teaching: Teaching = request.app.state.teaching
    return Deleted(name=name, deleted=await teaching.delete(name, condition_of(request) or always))


def _admit(request: Request) -> tuple[Service, Engine]:
    """Return the service and its engine, if the request may write and there is space for an image."""
    service: Service = request.app.state.service
    check_may_write(request, service.settings)
    negotiate(request, JSON)
    return service, service.admit()


def _pictures(parts: Sequence[Part]) -> list[Picture]:
    """Return the images of a form, each with its class and its place in it. Raises Problem."""
    if not parts:
        raise Problem("no_image", f"the request has no image; {CLASS_HINT}")
    places: Counter[str] = Counter()
    pictures = []
    for part in parts:
        label = part.field
        if not label.strip() or len(label) > MAX_NAME or CONTROL.search(label):
            allowed = f"the name of a class must have 1 to {MAX_NAME} characters, and no control characters"
            raise Problem("invalid_parameter", f"the form field {shown(label)}: {allowed}")
        name = CONTROL.sub("", PurePosixPath(part.filename.replace("\\", "/")).name)[:MAX_NAME]
        pictures.append(Picture(label, places[label], name, part.data))
        places[label] += 1
    return pictures


def _described(engine: Engine, name: str, kept: Kept) -> dict[str, Any]:
    if kept.head is None:
        return {"name": name, "state": "broken", "detail": kept.problem}
    fitting = fits(engine, kept.head.space)
    state: dict[str, Any] = {"name": name, "state": "ready" if fitting else "stale"}
    return state | ({} if fitting else {"detail": misfit(engine, kept.head.space)}) | describe_head(kept.head)


async def _taught(request: Request, engine: Engine, name: str, work: Awaitable[Taught]) -> Response:
    """Return the head that was fitted, or the problem of each image that cannot be used."""
    request_id: str = request.state.request_id
    try:
        taught = await work
    except BadExamples as bad:
        errors = [one.described(request_id) for one in bad.refused]
        return problem_response(bad, request_id, PROBLEM_JSON, errors=errors)
    skipped = [one.described(request_id) for one in taught.refused]
    described = _described(engine, name, Kept(taught.head)) | {"repeated": taught.repeated, "skipped": skipped}
    return _response(described, taught.head.version)


def _response(content: dict[str, Any], version: str) -> Response:
    headers = {"ETag": etag(version)} if version else {}
    return Response(orjson.dumps(content), media_type=JSON, headers=headers)
