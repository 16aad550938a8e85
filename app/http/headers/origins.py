"""Cross-origin resource sharing for responses that no middleware sees: those to a broken request or to a fault."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

EXPOSED_HEADERS = [
    *("X-Request-ID", "Server-Timing", "Retry-After", "Accept-Encoding", "Vitrine-Fingerprint"),
    *("Vitrine-Image", "Vitrine-Network", "Vitrine-Steps", "Vitrine-Attention", "Vitrine-Head", "ETag"),
]
"""Response headers that other origins may read."""


class Origins:
    """The origins whose pages may read responses.

    Args:
        allowed: the origins; `*` for all, none for no origin.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = allowed

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Return the application with the headers of CORS on its responses; it answers preflight requests itself."""
        if not self._allowed:
            return app
        return CORSMiddleware(
            app,
            allow_origins=self._allowed,
            allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )

    def headers(self, request_headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
        """Return the headers of a response to a request of which only these headers were read."""
        if not self._allowed:
            return {}
        origin = Headers(raw=list(request_headers)).get("origin")
        every = "*" in self._allowed
        if not every and origin not in self._allowed:
            return {"Vary": "Origin"}
        # For all origins the header does not depend on the request, whose own may not have been read.
        headers = {"Access-Control-Allow-Origin": "*" if every or origin is None else origin}
        return headers | {"Access-Control-Expose-Headers": ", ".join(EXPOSED_HEADERS), "Vary": "Origin"}


class Sharing:
    """Middleware that adds the headers of CORS.

    Args:
        app: the ASGI application behind it.
        origins: the origins that are allowed.
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = origins.wrap(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        await self._app(scope, receive, send)
