"""Find out whether a client that has stopped sending still waits for its response."""

import asyncio
import socket
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

HALF_CLOSED_S = 0.25
"""Delay before the probe, after a client has stopped sending."""

FIRST_CHECK_S, SECOND_CHECK_S, MAX_CHECK_S = 0.05, 0.1, 5
"""Delays before the socket is checked for a reset. Each one after the second is twice as long as the one before; the
checks end when a delay would reach the maximum."""


class DisconnectProbe:
    """Abort the connection if its client has disconnected.

    A client that closes its socket and one that closes only the sending half of it look alike: both end the stream. So
    the probe writes an interim response (100 Continue), which every HTTP/1.1 client has to skip (RFC 9110, 15.2). The
    operating system of a client that has disconnected answers it with a reset, which then shows as an error of the
    socket. The event loop does not report that error, because it stopped reading at the end of the stream.

    Args:
        loop: the event loop of the connection.
        transport: the connection's transport.
        cycle: the request whose client has stopped sending.
        is_running: tells whether this request is the one that is being handled.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        cycle: RequestResponseCycle,
        is_running: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._cycle = cycle
        self._is_running = is_running

    def start(self) -> None:
        """Probe the client after a short delay."""
        self._loop.call_later(HALF_CLOSED_S, self._write)

    def _write(self) -> None:
        waits = self._is_running() and not self._cycle.response_started and not self._transport.is_closing()
        if waits and self._cycle.scope["http_version"] == "1.1":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._loop.call_later(FIRST_CHECK_S, self._check, SECOND_CHECK_S)

    def _check(self, next_delay_s: float) -> None:
        if self._cycle.response_started or self._transport.is_closing():
            return
        sock = self._transport.get_extra_info("socket")
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
        elif next_delay_s < MAX_CHECK_S:
            self._loop.call_later(next_delay_s, self._check, 2 * next_delay_s)
