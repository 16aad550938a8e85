"""Requests that are refused without a handler, because one like them has just been: uvicorn's httptools protocol."""

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.http.connections.refusals import Head, Refusal, head_of, is_short
from app.http.connections.shared import Connections
from app.http.problems import problem_bytes
from app.http.request_id import request_id

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope


class RepeatingProtocol(HttpToolsProtocol):
    """A protocol that keeps refusals and repeats them.

    repeated: the refusal that the request which arrives has got already; None if a handler answers it. The body is
        then discarded as it arrives, and a connection whose body is short is used again.
    """

    server_state: Connections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.repeated: Refusal | None = None

    def linger(self) -> None:
        """End the connection of a client that is still sending."""
        raise NotImplementedError

    def on_message_begin(self) -> None:
        """Handle the first byte of a request."""
        super().on_message_begin()
        self.repeated = None
        self._unset_keepalive_if_required()  # of a repeated refusal that came in the same packet

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body, unless the request has been refused already."""
        if self.repeated is None:
            super().on_body(body)

    def refuse_again(self) -> bool:
        """Give a request the refusal that one like it has just got, if that still holds. Return whether it has."""
        state = self.server_state
        latest: RequestResponseCycle | None = self.cycle
        idle = latest is None or (latest.response_complete and not self.pipeline)
        if idle and state.refusals.hold(self.loop.time()):
            self.repeated = state.refusals.find(self._head(), self.loop.time())
        if self.repeated is None:
            return False
        keeps = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0" and is_short(self.headers)
        identifier = request_id(dict(self.headers).get(b"x-request-id", b""))
        headers = state.origins.headers(self.headers)
        if not keeps or state.leaving:
            headers["Connection"] = "close"
        repeated = self.repeated
        self.transport.write(problem_bytes(repeated.problem, identifier, headers, repeated.shape))
        state.on_refused(repeated.problem, identifier, repeated.method, repeated.route)
        if "Connection" in headers:
            self.linger()
        return True

    def keep_refusal(self, scope: "HTTPScope") -> None:
        """Keep the refusal of a request, if it holds for others, and no later request has arrived."""
        if "refusal" in scope["state"] and scope is self.scope:
            route = getattr(scope.get("route"), "path", None)
            problem, shape = scope["state"]["refusal"]
            refusal = Refusal(problem, shape, scope["method"], route)
            self.server_state.refusals.keep(self._head(), refusal, self.loop.time())

    def _head(self) -> Head:
        return head_of((self.client or ("",))[0], self.parser.get_method(), self.url, self.headers)
