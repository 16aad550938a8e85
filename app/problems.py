"""Problems as answers: whatever is raised while a request is handled -> `application/problem+json`."""

from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import STATUSES, Problem
from app.schemas import SIZE

MEDIA_TYPE = "application/problem+json"


def problem_response(problem: Problem, request_id: str, **members: Any) -> Response:
    """The answer that tells a client of a problem; `members` go beside the standard ones."""
    return _ProblemResponse(problem, orjson.dumps(problem.body(request_id) | members))


class _ProblemResponse(Response):
    """Tells the request's state which problem was answered, for its log line and the metrics."""

    def __init__(self, problem: Problem, body: bytes) -> None:
        super().__init__(body, problem.status, problem.headers, MEDIA_TYPE)
        self._code = problem.code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["problem"] = self._code
        await super().__call__(scope, receive, send)


def install(app: FastAPI) -> None:
    """Answer every error of the routes in the one shape."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, problem: Problem) -> Response:
        return problem_response(problem, request.state.request_id)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> Response:
        return problem_response(_of_parameter(error), request.state.request_id)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        problem = _of_http(request, error)
        return problem_response(problem, request.state.request_id)


def _of_parameter(error: RequestValidationError) -> Problem:
    fault = error.errors()[0]
    name = str(fault["loc"][-1])[:100]
    if fault["type"] == "extra_forbidden":
        return Problem("unknown_parameter", f"unknown query parameter {name!r}")
    value = str(fault.get("input"))[:100]
    return Problem("invalid_parameter", f"{name}={value!r}: {_allowed(fault)}")


def _allowed(fault: Any) -> str:
    """Pydantic's sentence about what is allowed."""
    if fault.get("ctx", {}).get("pattern") == SIZE:
        return "it should be N or HxW in pixels, each side from 1 to 99999, as in 224 or 140x98"
    message: str = fault["msg"]
    return message.replace("Input should", "it should").replace("String should", "it should")


def _of_http(request: Request, error: HTTPException) -> Problem:
    if error.status_code == STATUSES["method_not_allowed"]:
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"{request.method} is not allowed here; allowed is {allowed}"
        return Problem("method_not_allowed", detail, {"Allow": allowed})
    return Problem("not_found", "there is nothing at this path; /docs lists what there is")


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """What an endpoint says of these problems in the OpenAPI document: each status with an example of its codes."""
    documented: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        problem = Problem(code, "a sentence that names the offending value and what is allowed")
        entry = documented.setdefault(
            problem.status,
            {
                "description": "",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        entry["description"] += f"{', ' if entry['description'] else ''}`{code}`"
        entry["content"][MEDIA_TYPE]["examples"][code] = {"value": problem.body("8f14e45fceea167a5a36dedd4bea2543")}
    return documented
