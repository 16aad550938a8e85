"""The two deadlines of a connection: for a request to arrive, and for a response to be read."""

import asyncio
from collections.abc import Callable


class ArrivalDeadline:
    """The time by which a request must have arrived whole.

    Args:
        loop: the event loop of the connection.
        timeout_s: how long a request may take.
        on_expired: called when the deadline passes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float, on_expired: Callable[[], None]) -> None:
        self.time = 0.0
        """The deadline that was started last, by the loop's clock."""
        self._loop = loop
        self._timeout_s = timeout_s
        self._on_expired = on_expired
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        """Whether a request is expected or arriving; stays true after the deadline, until `cancel`."""
        return self._timer is not None

    def start(self) -> None:
        """Expect a request from now on."""
        self.time = self._loop.time() + self._timeout_s
        self._timer = self._loop.call_at(self.time, self._on_expired)

    def grant(self, seconds: float, callback: Callable[[], None]) -> None:
        """After the deadline has passed: wait this much longer for `cancel`, then call `callback`."""
        self._timer = self._loop.call_later(seconds, callback)

    def cancel(self) -> None:
        """Stop the timer: the request has arrived, or the connection ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class DeliveryDeadline:
    """Abort a connection whose client does not read its response in time.

    Args:
        loop: the event loop of the connection.
        transport: the connection's transport.
        timeout_s: how long the client may take to read what has been written.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, timeout_s: float) -> None:
        self._loop = loop
        self._transport = transport
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the timer if there is unread data and it is not running yet."""
        if self._timer is None and self._transport.get_write_buffer_size():
            self._timer = self._loop.call_later(self._timeout_s, self._expired)

    def cancel(self) -> None:
        """Stop the timer: the client has read what was written, or the connection ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        self._timer = None
        if self._transport.get_write_buffer_size():
            self._transport.abort()
