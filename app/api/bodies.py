"""Receive the body of a request: decoded, within the limit of its size, by its deadline."""

import asyncio
from collections.abc import AsyncIterator, Callable

from fastapi import Request

from app.errors import Problem
from app.http.headers.coding import Decoding, coding_of
from app.settings import Settings


async def read_body(request: Request, settings: Settings) -> bytes:
    """Return the whole body. Raises Problem if it exceeds the limits."""
    body = bytearray()  # not a list of chunks: many small chunks must not take more memory
    await receive(request, settings, body.extend)
    return bytes(body)


async def receive(request: Request, settings: Settings, consume: Callable[[bytes], object]) -> None:
    """Pass each part of the body to `consume` as it arrives.

    Raises Problem for a body that is compressed in an unknown way, too large (before it is read, if it declares its
    length), or not complete by the deadline.
    """
    coding = coding_of(request.headers.get("content-encoding"))
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > settings.max_upload_bytes:
        raise _too_large(settings)
    # Vitrine's own server knows when the request's first byte arrived. Under another server the time starts here.
    deadline = request.scope["state"].get("receive_deadline")
    chunks = _chunks(request)
    parts = chunks if coding is None else _decoded(request, _within(chunks, settings), coding)
    try:
        async with asyncio.timeout_at(deadline or asyncio.get_running_loop().time() + settings.receive_timeout_s):
            async for part in _within(parts, settings):
                consume(part)
    except TimeoutError as error:
        detail = f"the request was not received completely within {settings.receive_timeout_s:g} s"
        raise Problem("too_slow", detail) from error


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            # No client receives this; it ends the handler.
            raise Problem("malformed_body", "the client disconnected before the body was complete")
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _within(parts: AsyncIterator[bytes], settings: Settings) -> AsyncIterator[bytes]:
    received = 0
    async for part in parts:
        received += len(part)
        if received > settings.max_upload_bytes:
            raise _too_large(settings)
        yield part


async def _decoded(request: Request, chunks: AsyncIterator[bytes], coding: str) -> AsyncIterator[bytes]:
    """Decode a compressed body on a thread, in steps: a small one may become huge."""
    decoding = Decoding(coding)
    async for chunk in chunks:
        pieces = decoding.pieces(chunk)
        while piece := await asyncio.to_thread(next, pieces, b""):
            request.state.hold_body(len(piece))  # of the memory of all bodies
            yield piece
    decoding.end()


def _too_large(settings: Settings) -> Problem:
    return Problem("body_too_large", f"the body is larger than the limit of {settings.max_upload_bytes} bytes")
