"""The errors that a client can receive, and their HTTP statuses (RFC 9457, `application/problem+json`).

    Problem                      fails the whole request
    └── ImageProblem             fails one image; the other images of the request are still answered

The detail of a problem is a sentence written here, which names the offending value and what is allowed. It never
contains a traceback, a path or a library's message. All error codes and their statuses are defined in this module.
"""

from typing import Any

STATUSES: dict[str, int] = {
    "malformed_request": 400,
    "malformed_body": 400,
    "no_image": 400,
    "empty_image": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "heads_off": 403,
    "not_found": 404,
    "model_not_found": 404,
    "head_not_found": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "too_slow": 408,
    "no_classifier": 409,
    "no_such_pool": 409,
    "no_cls_token": 409,
    "head_stale": 409,
    "head_broken": 409,
    "too_many_heads": 409,
    "head_changed": 412,
    "body_too_large": 413,
    "too_many_images": 413,
    "too_many_classes": 413,
    "too_many_examples": 413,
    "heads_too_large": 413,
    "not_an_image": 415,
    "format_not_allowed": 415,
    "unsupported_encoding": 415,
    "undecodable": 422,
    "too_many_pixels": 422,
    "crop_too_large": 422,
    "too_complex": 422,
    "bad_base64": 422,
    "invalid_parameter": 422,
    "unknown_parameter": 422,
    "too_many_tokens": 422,
    "unequal_grids": 422,
    "bad_examples": 422,
    "too_few_examples": 422,
    "headers_too_large": 431,
    "internal": 500,
    "model_output_invalid": 500,
    "unsupported_transfer_encoding": 501,
    "overloaded": 503,
    "loading": 503,
    "draining": 503,
    "unhealthy": 503,
    "out_of_memory": 503,
    "head_not_saved": 503,
    "timeout": 504,
}


class Problem(Exception):
    """An error that is reported to the client.

    Args:
        code: one of `STATUSES`.
        detail: a sentence that names the offending value and what is allowed.
        headers: headers of the response, such as Retry-After.
    """

    holds_s = 0.0
    """For how many seconds every request of the same client for the same path is refused, whatever its body is."""

    def __init__(self, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.status = STATUSES[code]
        self.detail = detail
        self.headers = headers or {}

    def body(self, request_id: str) -> dict[str, Any]:
        """Return the members of the problem document."""
        return {
            "type": f"urn:vitrine:problem:{self.code}",
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
        }


class ImageProblem(Problem):
    """An error of one image; the other images of the request are not affected."""


class Fatal(Exception):
    """An error after which the process cannot continue: it must exit, so that its supervisor starts another."""


def internal() -> Problem:
    """Return the problem for an unexpected error. The client gets only the request id; the log has the traceback."""
    return Problem("internal", "an unexpected error occurred on the server; quote the request id to find it in the log")
