"""Require an API key, if any are configured, as a Bearer token for every path that is not open.

This is pure ASGI and runs before routing: a client without a key learns nothing about the service and costs little.
Paths are closed by default.
"""

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Problem
from app.http.problems import error_format_of, problem_response

PROBES = {"/healthz", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"}
"""Probes of balancers and orchestrators, which have no key; they tell only whether the service runs."""

OPEN_PATHS = {"/", "/docs", "/docs/oauth2-redirect", "/openapi.json", *PROBES}
STATIC_FILES = ("/static/", "/static-offline-docs/")
"""Open prefixes: the files of the playground and of Swagger UI."""


class ApiKeys:
    """Middleware that requires an API key, and notes in the state of the request whether it is an admin's.

    Args:
        app: the ASGI application behind it.
        keys: the valid keys; without any, every path is open, and only what admins may do needs a key.
        admins: the valid keys of admins, which may do whatever the others may.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], admins: Sequence[str] = ()) -> None:
        self.app = app
        self._digests, self._admins = [_digest(key) for key in keys], [_digest(key) for key in admins]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request that has a valid key or an open path; answer 401 to any other."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        admin = _has_key(headers, self._admins)
        scope.setdefault("state", {})["admin"] = admin
        is_open = not self._digests or _is_open(scope["path"].removeprefix(scope["root_path"]))
        if is_open or admin or _has_key(headers, self._digests):
            await self.app(scope, receive, send)
            return
        problem = unauthorized(headers)
        await problem_response(problem, scope["state"]["request_id"], error_format_of(scope))(scope, receive, send)


def _has_key(headers: Headers, digests: Sequence[bytes]) -> bool:
    """Compare the token with every key, in constant time, so that the time reveals nothing about any key."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    digest = _digest(token.strip())
    matches = [hmac.compare_digest(digest, valid) for valid in digests]
    return scheme.lower() == "bearer" and any(matches)


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or (path.startswith(STATIC_FILES) and ".." not in path)


def unauthorized(headers: Headers) -> Problem:
    """Return the problem of a request without a valid key; it tells a wrong key from none (RFC 6750, section 3)."""
    how, challenge = "send one as 'Authorization: Bearer <key>'", "Bearer"
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if not scheme:
        detail = f"this service requires an API key: {how}"
    elif scheme.lower() != "bearer":
        detail = f"the Authorization header has another scheme than Bearer; this service requires an API key: {how}"
    elif not token.strip():
        detail = f"the Authorization header has no key after 'Bearer': {how}"
    else:
        detail, challenge = f"the API key is not one of this service's keys; {how}", 'Bearer error="invalid_token"'
    return Problem("unauthorized", detail, {"WWW-Authenticate": challenge})


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
