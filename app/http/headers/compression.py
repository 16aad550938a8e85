"""Compress responses of JSON where the client asks for it and it is worth it.

Only JSON: PNG is compressed already, and float32 in `.npy` or as binary tensors would become a tenth smaller at best. A
client that takes nothing uncompressed (`identity;q=0`) gets every response compressed.
"""

import asyncio
import zlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.headers.quality import qualities

WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""The codings, in the order of preference, and the window bits by which zlib selects each."""

LEVEL = 1
"""The fastest. Digits of floats shrink to half at every level."""

MIN_BYTES = 1024
"""A smaller response fits into one packet in any case."""

THREAD_BYTES = 2**16
"""A larger response is compressed on a thread, so that other requests do not wait for it."""


class Compression:
    """Middleware that compresses.

    Args:
        app: the ASGI application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            accepted = qualities(Headers(scope=scope).get("accept-encoding", ""))
            send = _Compressed(send, _coding(accepted), required=_refuses_identity(accepted)).send
        await self.app(scope, receive, send)


def _coding(accepted: dict[str, float]) -> str | None:
    """Return the coding that the client prefers; None for none."""
    weights = {name: accepted.get(name, accepted.get("*", 0.0)) for name in WINDOW_BITS}
    best = max(weights, key=lambda name: weights[name])
    return best if weights[best] > 0 and weights[best] >= accepted.get("identity", 0.0) else None


def _refuses_identity(accepted: dict[str, float]) -> bool:
    return accepted.get("identity", accepted.get("*", 1.0)) == 0


class _Compressed:
    """One response.

    Args:
        send: of the ASGI application.
        coding: the coding that the client asks for.
        required: whether it takes nothing else.
    """

    def __init__(self, send: Send, coding: str | None, *, required: bool) -> None:
        self._send, self._coding, self._required = send, coding, required
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        """Hold the head back until the body is known, and pass both on; pass on a body in several parts as it is."""
        if message["type"] == "http.response.start" and self._may_be_compressed(message):
            self._start = message
            return
        if self._start is not None:
            start, self._start = self._start, None
            if not message.get("more_body", False):
                message = await self._compressed(start, message)
            await self._send(start)
        await self._send(message)

    def _may_be_compressed(self, start: Message) -> bool:
        headers = MutableHeaders(scope=start)
        is_json = headers.get("content-type", "").partition(";")[0].endswith("json")
        if is_json:
            headers.add_vary_header("Accept-Encoding")
        coded = "content-encoding" in headers or start["status"] in (204, 304)
        return self._coding is not None and not coded and (is_json or self._required)

    async def _compressed(self, start: Message, message: Message) -> Message:
        body: bytes = message.get("body", b"")
        if len(body) < MIN_BYTES and not self._required:
            return message
        headers, coding = MutableHeaders(scope=start), str(self._coding)
        bits = WINDOW_BITS[coding]
        if len(body) > THREAD_BYTES:
            small = await asyncio.to_thread(zlib.compress, body, LEVEL, bits)
        else:
            small = zlib.compress(body, LEVEL, bits)
        headers["Content-Encoding"], headers["Content-Length"] = coding, str(len(small))
        return {**message, "body": small}
