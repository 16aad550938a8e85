"""Replacements for what uvicorn reads with and writes to: flow control, and the transport of a response."""

import asyncio
from collections.abc import Callable, Sized

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class PipelineFlow(FlowControl):
    """Flow control that does not read on while pipelined requests wait; uvicorn's reads on after each response.

    Args:
        transport: the connection's transport.
        pipeline: the requests that have arrived and wait for their turn.
    """

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Read on if no request waits."""
        if not self._pipeline:
            super().resume_reading()


class ResponseTransport:
    """The transport that uvicorn writes one response to; it leaves the end of the connection to `close` and `linger`.

    It holds the head of the response back until the first part of the body: a small response is then one packet and
    one system call, not two of each.

    Args:
        transport: the connection's transport.
        cycle: the request and its response.
        close: closes the connection once the response has been read.
        linger: closes the connection of a client that is still sending its request.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        cycle: RequestResponseCycle,
        close: Callable[[], None],
        linger: Callable[[], None],
    ) -> None:
        self.is_closing = transport.is_closing
        self._transport = transport
        self._cycle = cycle
        self._close = close
        self._linger = linger
        self._head: bytes | None = None  # None before the head, empty after it was written

    def write(self, data: bytes) -> None:
        """Write the next part of the response, unless the connection is closing."""
        if self._head is None and self._cycle.response_started:  # before that it may be a 100 Continue
            self._head = data
        elif not self.is_closing():
            self._transport.write(self._head + data if self._head else data)
            self._head = b""

    def flush(self) -> None:
        """Write a head that no body has followed."""
        if self._head and not self.is_closing():
            self._transport.write(self._head)
        self._head = b""

    def close(self) -> None:
        """End the connection after this response."""
        self.flush()
        if self._cycle.more_body:
            self._linger()
        else:
            self._close()
