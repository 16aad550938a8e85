"""Problems as answers: whatever is raised while a request is handled -> `application/problem+json`.

A dialect tells of the same problems in a shape of its own, on the paths under its prefix.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import STATUSES, Problem
from app.wording import requirement


@dataclass(frozen=True)
class ErrorFormat:
    """How a dialect tells of a problem: its body, made of the problem and the request's id, and what documents it."""

    body: Callable[[Problem, str], dict[str, Any]]
    schema: dict[str, Any]
    media_type: str = "application/json"


PROBLEM_JSON = ErrorFormat(Problem.body, {"$ref": "#/components/schemas/Problem"}, "application/problem+json")


def problem_response(problem: Problem, request_id: str, shape: ErrorFormat = PROBLEM_JSON, **members: Any) -> Response:
    """The answer that tells a client of a problem; `members` go beside the standard ones."""
    return _ProblemResponse(problem, orjson.dumps(shape.body(problem, request_id) | members), shape.media_type)


class _ProblemResponse(Response):
    """Tells the request's state which problem was answered, for its log line and the metrics."""

    def __init__(self, problem: Problem, body: bytes, media_type: str) -> None:
        super().__init__(body, problem.status, problem.headers, media_type)
        self._code = problem.code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["problem"] = self._code
        await super().__call__(scope, receive, send)


def error_format_of(scope: Scope) -> ErrorFormat:
    """The shape that whoever asks at this path expects."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    shapes: Mapping[str, ErrorFormat] = scope["app"].state.shapes
    return next(
        (shape for prefix, shape in shapes.items() if path == prefix or path.startswith(f"{prefix}/")), PROBLEM_JSON
    )


def install(app: FastAPI, shapes: Mapping[str, ErrorFormat]) -> None:
    """Answer every error of the routes in one shape: that of the dialect whose prefix the path has, or the usual."""
    app.state.shapes = shapes

    @app.exception_handler(Problem)
    async def _problem(request: Request, problem: Problem) -> Response:
        return problem_response(problem, request.state.request_id, error_format_of(request.scope))

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        problem = invalid({**fault, "loc": fault["loc"][1:]}, "query parameter")
        return problem_response(problem, request.state.request_id, error_format_of(request.scope))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        problem = _of_http(request, error)
        return problem_response(problem, request.state.request_id, error_format_of(request.scope))


def invalid(fault: Any, what: str) -> Problem:
    """What pydantic found wrong with one of the request's values, as a problem; `what` names their kind."""
    name = ".".join(str(part) for part in fault["loc"])[:100]
    if fault["type"] == "extra_forbidden":
        return Problem("unknown_parameter", f"unknown {what} {name!r}")
    if fault["type"] == "missing":
        return Problem("invalid_parameter", f"{what} {name!r} is missing")
    value = str(fault.get("input"))[:100]
    return Problem("invalid_parameter", f"{name}={value!r}: {requirement(fault)}")


def _of_http(request: Request, error: HTTPException) -> Problem:
    if error.status_code == STATUSES["method_not_allowed"]:
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"{request.method} is not allowed here; allowed is {allowed}"
        return Problem("method_not_allowed", detail, {"Allow": allowed})
    return Problem("not_found", "there is nothing at this path; /docs lists what there is")


def responses(*codes: str, shape: ErrorFormat = PROBLEM_JSON) -> dict[int | str, dict[str, Any]]:
    """What an endpoint says of these problems in the OpenAPI document: each status with an example of its codes."""
    documented: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        problem = Problem(code, "a sentence that names the offending value and what is allowed")
        entry = documented.setdefault(
            problem.status,
            {
                "description": "",
                "content": {shape.media_type: {"schema": shape.schema, "examples": {}}},
            },
        )
        entry["description"] += f"{', ' if entry['description'] else ''}`{code}`"
        example = {"value": shape.body(problem, "8f14e45fceea167a5a36dedd4bea2543")}
        entry["content"][shape.media_type]["examples"][code] = example
    return documented
