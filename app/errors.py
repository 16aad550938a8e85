"""What goes wrong, and how a client is told: one tree, one shape (RFC 9457, `application/problem+json`).

    Problem                      status and code of api.md's table
    ├── ImageProblem             of one image: its neighbours in the request are answered
    └── (the rest)               of the whole request

A problem's detail is a sentence of ours that names the value and what is allowed: never a trace, a path or a library's
message. The codes and their statuses stand here and nowhere else.
"""

from typing import Any

STATUSES: dict[str, int] = {
    "malformed_request": 400,
    "malformed_body": 400,
    "no_image": 400,
    "empty_image": 400,
    "unauthorized": 401,
    "not_found": 404,
    "model_not_found": 404,
    "method_not_allowed": 405,
    "too_slow": 408,
    "no_classifier": 409,
    "no_such_pool": 409,
    "no_cls_token": 409,
    "body_too_large": 413,
    "too_many_images": 413,
    "not_an_image": 415,
    "format_not_allowed": 415,
    "undecodable": 422,
    "too_many_pixels": 422,
    "too_complex": 422,
    "bad_base64": 422,
    "invalid_parameter": 422,
    "unknown_parameter": 422,
    "too_many_tokens": 422,
    "unequal_grids": 422,
    "headers_too_large": 431,
    "internal": 500,
    "model_output_invalid": 500,
    "overloaded": 503,
    "loading": 503,
    "draining": 503,
    "unhealthy": 503,
    "out_of_memory": 503,
    "timeout": 504,
}


class Problem(Exception):
    """A request that is refused, and why."""

    def __init__(self, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.status = STATUSES[code]
        self.detail = detail
        self.headers = headers or {}

    def body(self, request_id: str) -> dict[str, Any]:
        """The members of a problem document."""
        return {
            "type": f"urn:vitrine:problem:{self.code}",
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
        }


class ImageProblem(Problem):
    """An image that is refused, and why; other images of the request are not touched by it."""


class Fatal(Exception):
    """What raised this cannot be used any more: the process has to end, and its supervisor to start another."""


def internal() -> Problem:
    """Our fault: the client gets the request's id, the log everything."""
    return Problem("internal", "something went wrong on our side; the request id leads to the log")
