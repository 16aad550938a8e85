"""Turn problems into responses: whatever is raised while a request is handled -> `application/problem+json`.

A dialect reports the same problems in an error format of its own, on the paths under its prefix.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import STATUSES, Problem
from app.wording import SHOWN, requirement, shown


@dataclass(frozen=True)
class ErrorFormat:
    """How a dialect reports a problem.

    body: makes the JSON body from the problem and the request id.
    schema: documents that body in the OpenAPI document.
    """

    body: Callable[[Problem, str], dict[str, Any]]
    schema: dict[str, Any]
    media_type: str = "application/json"


PROBLEM_JSON = ErrorFormat(Problem.body, {"$ref": "#/components/schemas/Problem"}, "application/problem+json")


def problem_response(problem: Problem, request_id: str, shape: ErrorFormat = PROBLEM_JSON, **members: Any) -> Response:
    """Return the response for a problem; `members` are added to the body."""
    return _ProblemResponse(problem, orjson.dumps(shape.body(problem, request_id) | members), shape)


def problem_bytes(
    problem: Problem, request_id: str, headers: Mapping[str, str], shape: ErrorFormat = PROBLEM_JSON
) -> bytes:
    """Return the response for a problem as HTTP/1.1 writes it, for a request that no handler sees.

    Args:
        problem: what is wrong.
        request_id: of the request.
        headers: further headers of the response.
        shape: the error format.
    """
    response = problem_response(problem, request_id, shape)
    response.headers.update({"X-Request-ID": request_id, **headers})
    status_line = f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n".encode()
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
    return status_line + lines + b"\r\n" + bytes(response.body)


class _ProblemResponse(Response):
    """A response that stores its problem in the state of the request, for the log line, the metrics, the connection."""

    def __init__(self, problem: Problem, body: bytes, shape: ErrorFormat) -> None:
        super().__init__(body, problem.status, problem.headers, shape.media_type)
        self._problem, self._shape = problem, shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["problem"] = self._problem.code
        if self._problem.holds_s:
            scope["state"]["refusal"] = self._problem, self._shape
        await super().__call__(scope, receive, send)


def error_format_of(scope: Scope) -> ErrorFormat:
    """Return the error format for the path of a request."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    formats: Mapping[str, ErrorFormat] = scope["app"].state.error_formats
    matches = (found for prefix, found in formats.items() if path == prefix or path.startswith(f"{prefix}/"))
    return next(matches, PROBLEM_JSON)


def install(app: FastAPI, error_formats: Mapping[str, ErrorFormat]) -> None:
    """Answer every error of the routes in one format.

    Args:
        app: gets the exception handlers.
        error_formats: the dialects' formats, by the prefix of their paths; other paths use `PROBLEM_JSON`.
    """
    app.state.error_formats = error_formats

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


def invalid(fault: Any, what: str, hint: str = "") -> Problem:
    """Return the problem of a value that pydantic refused.

    Args:
        fault: one of `ValidationError.errors()`.
        what: the kind of value, such as "query parameter".
        hint: how the sentence about an unknown name ends.
    """
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return Problem("unknown_parameter", f"unknown {what} {shown(name)}{hint}")
    if fault["type"] == "missing":
        return Problem("invalid_parameter", f"{what} {shown(name)} is missing")
    if not name:  # the values do not fit together
        return Problem("invalid_parameter", f"the {what}s {requirement(fault)}")
    label = name if len(name) <= SHOWN else shown(name)
    return Problem("invalid_parameter", f"{label}={shown(fault.get('input'))}: {requirement(fault)}")


def _of_http(request: Request, error: HTTPException) -> Problem:
    if error.status_code == STATUSES["method_not_allowed"]:
        allowed = (error.headers or {}).get("Allow", "")
        if "GET" in allowed:
            allowed = ", ".join(sorted({*allowed.split(", "), "HEAD"}))
        detail = f"{request.method} is not allowed on this path; allowed is {allowed}"
        return Problem("method_not_allowed", detail, {"Allow": allowed})
    return Problem("not_found", "there is no endpoint at this path; /docs lists all endpoints")


def responses(*codes: str, shape: ErrorFormat = PROBLEM_JSON) -> dict[int | str, dict[str, Any]]:
    """Document these problems for an endpoint in the OpenAPI document: each status, with an example for each code."""
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
