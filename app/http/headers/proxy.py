"""What a proxy in front says of a request: the client, the scheme, and the path under which the service is published.

A proxy may keep that path in front of the request's own, or cut it. Both become one form, that of ASGI: the path begins
with `root_path`. Links and redirects are right in both.
"""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any, cast
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.errors import Problem
from app.settings import ROOT_PATH

PREFIX = "X-Forwarded-Prefix"


class Proxied:
    """Middleware that reads the headers of trusted proxies.

    Args:
        app: the ASGI application behind it.
        trusted: addresses and networks of the proxies; `*` for all.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        if trusted:
            self._app = cast(ASGIApp, ProxyHeadersMiddleware(cast(Any, app), list(trusted)))
        self._all = "*" in trusted
        self._networks = [ip_network(name) for name in trusted if name != "*"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, its path in the form of ASGI. Raises Problem for a prefix that is not a path."""
        if scope["type"] == "http":
            root: str = scope.get("root_path", "")
            prefix = Headers(scope=scope).get(PREFIX)
            if prefix is not None and self._trusts(scope.get("client")):
                if not ROOT_PATH.fullmatch(prefix):
                    raise Problem("malformed_request", f"{PREFIX} must be one path that begins with a slash")
                root = prefix.rstrip("/")
            _set_root(scope, root)
        await self._app(scope, receive, _with_relative_location(send))

    def _trusts(self, client: Sequence[Any] | None) -> bool:
        if self._all or not self._networks or client is None:
            return self._all
        try:
            address = ip_address(client[0])
        except ValueError:  # a Unix socket, or a name that another server has taken from a header
            return False
        return any(address in network for network in self._networks)


def _set_root(scope: Scope, root: str) -> None:
    scope["root_path"] = root
    if root and scope["path"] != root and not scope["path"].startswith(f"{root}/"):
        scope["path"] = root + scope["path"]
        scope["raw_path"] = root.encode() + (scope.get("raw_path") or b"")


def _with_relative_location(send: Send) -> Send:
    """Return `send`, with the addresses of redirects without scheme and host: a proxy may have others than `Host`."""

    async def send_relative(message: Message) -> None:
        if message["type"] == "http.response.start" and 300 <= message["status"] < 400:
            headers = MutableHeaders(scope=message)
            if location := headers.get("Location"):
                parts = urlsplit(location)
                headers["Location"] = parts.path + (f"?{parts.query}" if parts.query else "")
        await send(message)

    return send_relative
