"""Find out which client a request comes from: its API key, else its address."""

import hashlib
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.fairness.client import CLIENT

IPV6_PREFIX = 64
"""The network of one subscriber: any address of it may be the same client (RFC 6177)."""


class Clients:
    """Middleware that names the client of each request. It runs behind API keys and what reads a proxy's headers.

    Args:
        app: the ASGI application behind it.
        keyed: whether API keys are configured: then each request that it sees and that computes has a valid one.
    """

    def __init__(self, app: ASGIApp, keyed: bool) -> None:
        self.app = app
        self._keyed = keyed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name the client and pass the request on."""
        if scope["type"] == "http":
            CLIENT.set(_with_key(scope) if self._keyed else client_at((scope.get("client") or ("",))[0]))
        await self.app(scope, receive, send)


def _with_key(scope: Scope) -> str:
    token = Headers(scope=scope).get("authorization", "").partition(" ")[2].strip()
    return hashlib.sha256(token.encode()).hexdigest()


def client_at(address: str) -> str:
    """Return the name of the client at an address: the address itself, or the network of an IPv6 address."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address  # a Unix socket, or a proxy's own name for a client
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or ip_network((int(found), IPV6_PREFIX), strict=False))
