"""API keys: with any configured, everything but the open paths wants one, as a Bearer token.

Pure ASGI, before routing, so that whoever has no key learns nothing and costs nothing. A path that is not known to be
open is closed.
"""

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Problem
from app.http.problems import error_format_of, problem_response

OPEN_PATHS = {"/", "/healthz", "/readyz", "/docs", "/docs/oauth2-redirect", "/openapi.json"}
STATIC_FILES = ("/static/", "/static-offline-docs/")
"""The playground's and Swagger UI's own files."""


class ApiKeys:
    """Asks for a key."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], root_path: str = "") -> None:
        self.app = app
        self._digests = [_digest(key) for key in keys]
        self._root_path = root_path.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass that is for everybody or carries a key."""
        if scope["type"] != "http" or self._is_open(scope["path"]) or self._has_key(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        problem = Problem(
            "unauthorized",
            "this service wants an API key: send it as 'Authorization: Bearer <key>'",
            {"WWW-Authenticate": "Bearer"},
        )
        await problem_response(problem, scope["state"]["request_id"], error_format_of(scope))(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        if self._root_path and path.startswith(f"{self._root_path}/"):
            path = path.removeprefix(self._root_path)
        return path in OPEN_PATHS or (path.startswith(STATIC_FILES) and ".." not in path)

    def _has_key(self, headers: Headers) -> bool:
        """Compare with every key and in constant time: how long it takes tells nothing of any of them."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        offered = _digest(token.strip())
        matches = [hmac.compare_digest(offered, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
