"""One connection: uvicorn's httptools protocol with the limits that it lacks.

A request has to arrive whole by a deadline that runs from its first byte, or from the connection's opening, and its
head has to be small. Who is refused early gets the answer and an end of the connection, not an endless reader; who
does not take an answer is cut off; who leaves while waiting is noticed, and who only stops sending is not taken for
one who left.
"""

import asyncio
import socket
import uuid
from collections.abc import Callable, Sized
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.errors import Problem
from app.http.problems import problem_response

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

MAX_HEAD_BYTES = 64 * 2**10
"""The request line and all headers."""

LINGER_S, LINGER_BYTES = 2.0, 2**20
"""How long and how much of a refused body is thrown away, so that the answer is not lost to a reset (RFC 9112, 9.6)."""

HALF_CLOSED_S = 0.25
"""After a client has stopped sending: when to find out whether it still listens."""

GRACE_S = 1.0
"""For a handler to answer that a body has not come in time, before the connection is cut."""


class Connections(ServerState):
    """What all connections share."""

    def __init__(self, client_timeout_s: float, refused: Callable[[Problem, str], None]) -> None:
        super().__init__()
        self.client_timeout_s = client_timeout_s
        """How long a request may take to arrive, and an answer to be taken."""
        self.refused = refused
        """Told of what was answered before any handler saw it, with the request's id."""
        self.leaving = False
        """Whether every answer is to be the last one of its connection."""


class Connection(HttpToolsProtocol):
    """A connection and its requests, one after the other."""

    server_state: Connections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline = 0.0  # of the request that is arriving, by the loop's clock
        self._arrival: asyncio.TimerHandle | None = None
        self._delivery: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True
        self._running: RequestResponseCycle | None = None  # uvicorn's `cycle` is the one that arrived last
        self._lingering = False
        self._lingered_bytes = 0

    @property
    def fresh(self) -> bool:
        """Whether no request has come yet."""
        return self.cycle is None and not self._lingering

    # --- what arrives ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Expect a request."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Parse what has come, within the limits."""
        if self._lingering:
            self._throw_away(data)
            return
        if self._arrival is None:
            self._expect()
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Start the handler, unless the head is one to be refused."""
        self._in_head, self._head_bytes = False, 0
        names = {name for name, _ in self.headers}
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD_BYTES:
            self._head_bytes = MAX_HEAD_BYTES + 1
            raise ValueError("the head is too large")
        if names >= {b"content-length", b"transfer-encoding"}:
            # Whoever stands before us may believe the other one (RFC 9112, 6.3: request smuggling).
            raise ValueError("two lengths")
        super().on_headers_complete()
        self.scope["state"]["receive_deadline"] = self._deadline
        self.cycle.transport = _LastWord(self.transport, self, self.cycle)  # type: ignore[assignment]
        self.cycle.keep_alive = self.cycle.keep_alive and not self.server_state.leaving

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        """The request has arrived whole."""
        super().on_message_complete()
        self._stop_expecting()
        self._in_head, self._head_bytes = True, 0

    def _expect(self) -> None:
        self._deadline = self.loop.time() + self.server_state.client_timeout_s
        self._arrival = self.loop.call_at(self._deadline, self._too_slow)

    def _stop_expecting(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _too_slow(self) -> None:
        """The deadline has passed: a handler that reads the body knows it, and has the first word."""
        if not self._in_head:
            self._arrival = self.loop.call_later(GRACE_S, self.transport.abort)
        elif self._head_bytes:
            self._answer(
                Problem("too_slow", f"the request did not arrive within {self.server_state.client_timeout_s:g} s")
            )
        else:
            self.transport.close()

    # --- refusals ---

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's sentence is none for our clients
        """What is no HTTP is answered in the one shape that errors have."""
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        else:
            self._answer(Problem("malformed_request", "this is not a valid HTTP/1.1 request"))

    def _refuse_head(self) -> None:
        detail = f"the request line and the headers have more than {MAX_HEAD_BYTES} bytes, the most that is allowed"
        self._answer(Problem("headers_too_large", detail))

    def _answer(self, problem: Problem) -> None:
        """Answer without a handler, and end the connection; a handler that has begun is told that the client left."""
        cycle = self._running
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        response = problem_response(problem, request_id := uuid.uuid4().hex)
        response.headers.update({"X-Request-ID": request_id, "Connection": "close"})
        head = f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n".encode()
        fields = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
        self.transport.write(head + fields + b"\r\n" + bytes(response.body))
        self.server_state.refused(problem, request_id)
        self.linger()

    # --- ends ---

    def linger(self) -> None:
        """End the connection of a client that still sends: an end to our side, a little patience, then the close."""
        if self._lingering or self.transport.is_closing():
            return
        self._stop_expecting()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        self._lingering = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_S, self.close)

    def close(self) -> None:
        """Close once what was written has been taken, or the client had its time for that."""
        if not self.transport.is_closing():
            self._expect_delivery()
            self.transport.close()

    def _throw_away(self, data: bytes) -> None:
        self._lingered_bytes += len(data)
        if self._lingered_bytes > LINGER_BYTES:
            self.flow.pause_reading()

    def on_response_complete(self) -> None:
        """Go on with the next request, unless this one's body is still to come and nobody wants it."""
        if self._running is not None:
            cast(_LastWord, self._running.transport).flush()
            if self._running.more_body:
                self.linger()
        if self._lingering:
            self.server_state.total_requests += 1
            return
        self._expect_delivery()
        super().on_response_complete()

    def shutdown(self) -> None:
        """The server stops: an idle connection is closed, one with a request in hand when that has been answered."""
        if self._arrival is not None and self._head_bytes:
            return  # its request has begun to arrive, and will be answered
        if not self._lingering:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_expecting()
        self._stop_delivery()
        super().connection_lost(exc)
        if self._running is not None:  # uvicorn tells the last one only, where a client does not wait for its answers
            self._running.disconnected = not self._running.response_complete
            self._running.message_event.set()

    # --- clients that do not take their answer ---

    def pause_writing(self) -> None:
        """The client takes its answer slowly, or not at all."""
        self._expect_delivery()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client has taken most of what there was."""
        self._stop_delivery()
        super().resume_writing()

    def _expect_delivery(self) -> None:
        if self._delivery is None and self.transport.get_write_buffer_size():
            self._delivery = self.loop.call_later(self.server_state.client_timeout_s, self._not_taken)

    def _stop_delivery(self) -> None:
        if self._delivery is not None:
            self._delivery.cancel()
            self._delivery = None

    def _not_taken(self) -> None:
        self._delivery = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    # --- clients that leave ---

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio allows for it
        """The client has stopped sending: it may have left, or may wait for the answer to what it sent."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body or self._lingering:
            return False
        cycle.keep_alive = False
        self.loop.call_later(HALF_CLOSED_S, self._ask, cycle)
        return True

    def _ask(self, cycle: RequestResponseCycle) -> None:
        """Write something that a client has to pass over: the system of one that has left answers it with a reset."""
        waits = self._running is cycle and not cycle.response_started and not self.transport.is_closing()
        if waits and cycle.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.loop.call_later(0.05, self._listen, cycle, 0.1)

    def _listen(self, cycle: RequestResponseCycle, again_s: float) -> None:
        if cycle.response_started or self.transport.is_closing():
            return
        sock = self.transport.get_extra_info("socket")
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        elif again_s < 5:
            self.loop.call_later(again_s, self._listen, cycle, 2 * again_s)


class _Flow(FlowControl):
    """Reads no more while requests that came before their turn wait: uvicorn would read on after each answer."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Read on, when all that has come is being handled."""
        if not self._pipeline:
            super().resume_reading()


class _LastWord:
    """What an answer writes to; its end is the connection's affair.

    The head waits for what follows it: a small answer is one packet and one call of the system, not two of each.
    """

    def __init__(self, transport: asyncio.Transport, connection: Connection, cycle: RequestResponseCycle) -> None:
        self.is_closing = transport.is_closing
        self._transport = transport
        self._connection = connection
        self._cycle = cycle
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Write, as long as there is somebody to read it."""
        if self._head is None and self._cycle.response_started:  # before that it may be a 100 Continue
            self._head = data
        elif not self.is_closing():
            self._transport.write(self._head + data if self._head else data)
            self._head = b""

    def flush(self) -> None:
        """Write a head that nothing has followed."""
        if self._head and not self.is_closing():
            self._transport.write(self._head)
        self._head = b""

    def close(self) -> None:
        """The last answer has been written."""
        self.flush()
        if self._cycle.more_body:
            self._connection.linger()
        else:
            self._connection.close()
