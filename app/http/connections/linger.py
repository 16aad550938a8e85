"""End a connection whose client is still sending."""

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl

LINGER_S, LINGER_BYTES = 2.0, 2**20
"""How long the rest of a refused body is read and discarded, and how much of it."""


class Linger:
    """A lingering close.

    Closing a socket that has unread data resets the connection, and the client can lose the response to the reset
    (RFC 9112, 9.6). So only the sending half is closed at first. What the client sends is discarded for a while, then
    the connection is closed.

    Args:
        loop: the event loop of the connection.
        transport: the connection's transport.
        flow: pauses and resumes reading.
        close: closes the connection.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        flow: FlowControl,
        close: Callable[[], None],
    ) -> None:
        self.active = False
        """Whether `start` was called."""
        self._loop = loop
        self._transport = transport
        self._flow = flow
        self._close = close
        self._discarded_bytes = 0

    def start(self) -> None:
        """Close the sending half now and the connection after `LINGER_S`."""
        self.active = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._flow.resume_reading()
        self._loop.call_later(LINGER_S, self._close)

    def discard(self, data: bytes) -> None:
        """Drop what has arrived, and stop reading after `LINGER_BYTES`."""
        self._discarded_bytes += len(data)
        if self._discarded_bytes > LINGER_BYTES:
            self._flow.pause_reading()
