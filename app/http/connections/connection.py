"""One connection: uvicorn's httptools protocol, with limits that it lacks.

A request must arrive whole by a deadline, which runs from its first byte or from the opening of the connection, and its
head must be small. A request that is refused early gets its response, and the connection ends without reading the rest.
A client that does not read its response is cut off. A client that disconnects while it waits is detected, and one that
only closes its sending half is served.
"""

import asyncio
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.errors import Problem
from app.http.connections.deadlines import ArrivalDeadline, DeliveryDeadline
from app.http.connections.disconnect import DisconnectProbe
from app.http.connections.head import head_problem, refused_head_problem
from app.http.connections.linger import Linger
from app.http.connections.repeating import RepeatingProtocol
from app.http.connections.transport import PipelineFlow, ResponseTransport
from app.http.problems import problem_bytes
from app.http.request_id import request_id

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

MAX_HEAD_BYTES = 64 * 2**10
"""Size of the request line and all headers."""

GRACE_S = 1.0
"""How long a handler may take to answer that a body is late, before the connection is cut."""


class Connection(RepeatingProtocol):
    """A connection and its requests, one after the other."""

    _arrival: ArrivalDeadline
    _delivery: DeliveryDeadline
    _lingering: Linger

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = self.server_state.keep_alive_s  # type: ignore[assignment]  # need not be whole
        self._head_bytes = 0
        self._in_head = True
        self._last_data = b""  # of a head
        self._problem: Problem | None = None  # of the head that arrived last
        self._running: RequestResponseCycle | None = None  # uvicorn's `cycle` is the one that arrived last

    @property
    def fresh(self) -> bool:
        """Whether no request has arrived yet."""
        return self.cycle is None and self.repeated is None and not self._lingering.active

    # --- requests ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Expect a request."""
        super().connection_made(transport)
        timeout_s = self.server_state.client_timeout_s
        self.flow = PipelineFlow(transport, self.pipeline)
        self._arrival = ArrivalDeadline(self.loop, timeout_s, self._too_slow)
        self._delivery = DeliveryDeadline(self.loop, transport, timeout_s)
        self._lingering = Linger(self.loop, transport, self.flow, self.close)
        self._arrival.start()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, within the limits."""
        if self._lingering.active:
            self._lingering.discard(data)
            return
        if not self._arrival.running:
            self._arrival.start()
        if self._in_head:
            self._head_bytes += len(data)
            self._last_data = data
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()

    def on_message_begin(self) -> None:
        """Handle the first byte of a request."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Start the handler, unless the head has to be refused."""
        self._in_head, self._head_bytes, self._last_data = False, 0, b""
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD_BYTES:
            self._head_bytes = MAX_HEAD_BYTES + 1
            raise ValueError("the head is too large")
        self._problem = head_problem(self.parser.get_http_version(), self.headers)
        if self._problem is not None:
            raise ValueError(self._problem.detail)
        if self.refuse_again():
            return
        super().on_headers_complete()
        self.scope["state"]["receive_deadline"] = self._arrival.time
        response = ResponseTransport(self.transport, self.cycle, self.close, self.linger)
        self.cycle.transport = response  # type: ignore[assignment]
        self.cycle.keep_alive = self.cycle.keep_alive and not self.server_state.leaving

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        """Handle the last byte of a request."""
        if self.repeated is None:
            super().on_message_complete()
        elif not self._lingering.active:
            self._delivery.start()
            super().on_response_complete()
        self._arrival.cancel()
        self._in_head, self._head_bytes = True, 0

    def _too_slow(self) -> None:
        """The arrival deadline has passed. A handler that reads the body knows it too, and may answer first."""
        if self.repeated is not None:
            self.transport.close()
        elif not self._in_head:
            self._arrival.grant(GRACE_S, self.transport.abort)
        elif self._head_bytes:
            timeout_s = self.server_state.client_timeout_s
            self._refuse(Problem("too_slow", f"the request did not arrive within {timeout_s:g} s"))
        else:
            self.transport.close()

    # --- refusals ---

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text is not in the format of our errors
        """Refuse what is not valid HTTP."""
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        else:
            invalid = Problem("malformed_request", "this is not a valid HTTP/1.1 request")
            own = self._problem or (refused_head_problem(self._last_data) if self._in_head else None)
            self._refuse(own or invalid)

    def _refuse_head(self) -> None:
        detail = f"the request line and the headers are larger than {MAX_HEAD_BYTES} bytes, the most that is allowed"
        self._refuse(Problem("headers_too_large", detail))

    def _refuse(self, problem: Problem) -> None:
        """Respond without a handler and end the connection; a handler that is running sees a client disconnect."""
        cycle = self._running
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.scope["state"]["refused"] = not cycle.response_started
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        identifier = request_id()
        headers = self.server_state.origins.headers(self.headers or []) | {"Connection": "close"}
        self.transport.write(problem_bytes(problem, identifier, headers))
        self.server_state.on_refused(problem, identifier)
        self.linger()

    # --- responses ---

    def on_response_complete(self) -> None:
        """Go on with the next request, unless the rest of this one's body has not arrived and is not needed."""
        if self._running is not None:
            self.keep_refusal(self._running.scope)
            cast(ResponseTransport, self._running.transport).flush()
            if self._running.more_body:
                self.linger()
        if self._lingering.active:
            self.server_state.total_requests += 1
            return
        self._delivery.start()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Give the client a deadline: it reads its response slowly, or not at all."""
        self._delivery.start()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Cancel the deadline: the client has read most of what was written."""
        self._delivery.cancel()
        super().resume_writing()

    # --- the end of the connection ---

    def linger(self) -> None:
        """End the connection of a client that is still sending."""
        if self._lingering.active or self.transport.is_closing():
            return
        self._arrival.cancel()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        self._lingering.start()

    def close(self) -> None:
        """Close the connection once the client has read what was written, or its deadline has passed."""
        if not self.transport.is_closing():
            self._delivery.start()
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio allows for it
        """Handle the end of what the client sends: it may have disconnected, or may wait for its response."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body or self._lingering.active:
            return False
        cycle.keep_alive = False
        DisconnectProbe(self.loop, self.transport, cycle, lambda: self._running is cycle).start()
        return True

    def shutdown(self) -> None:
        """Close an idle connection when the server stops; close another one after its response."""
        if self._arrival.running and self._head_bytes:
            return  # a request has begun to arrive, and will be answered
        if self.repeated is not None and self._arrival.running:
            self.linger()  # it is refused, and its body still arrives
        if not self._lingering.active:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers and tell the running handler."""
        self._arrival.cancel()
        self._delivery.cancel()
        super().connection_lost(exc)
        # uvicorn tells only the last request, and a client that pipelines may have several.
        if self._running is not None:
            self._running.disconnected = not self._running.response_complete
            self._running.message_event.set()
