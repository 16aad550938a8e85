"""Middleware around every request: its id, its timings, client disconnects, and errors that nothing else handled.

It also counts the bytes of all request bodies in memory, so that many uploads at once do not exhaust it.

This is pure ASGI and not a `BaseHTTPMiddleware`, which hides a client disconnect from everything behind it.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Problem, internal
from app.http.headers.origins import Origins
from app.http.problems import error_format_of, problem_response
from app.http.request_id import request_id
from app.telemetry import tracing
from app.telemetry.metrics import CLIENT_LEFT, Metrics
from app.telemetry.timings import Timings

logger = logging.getLogger("vitrine")
access = logging.getLogger("vitrine.access")


@dataclass
class BodyMemory:
    """A limit on the bytes of all request bodies in memory.

    max_bytes: the limit.
    held_bytes: how much is held now.
    """

    max_bytes: int
    held_bytes: int = 0

    def take(self, count: int) -> None:
        """Hold `count` more bytes. Raises Problem if they exceed the limit and other bytes are held."""
        if self.held_bytes and self.held_bytes + count > self.max_bytes:
            raise Problem("overloaded", "too many uploads are being received", {"Retry-After": "1"})
        self.held_bytes += count

    def give_back(self, count: int) -> None:
        """Release bytes that were taken."""
        self.held_bytes -= count


class RequestContext:
    """Middleware that identifies and times requests, cancels handlers and answers unhandled errors.

    Args:
        app: the ASGI application behind it.
        max_body_bytes: the limit for the bodies of all requests together.
        metrics: where requests are counted.
        origins: those that may read the response to an unhandled error, which passes no other middleware.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, metrics: Metrics, origins: Origins) -> None:
        self.app = app
        self.metrics = metrics
        self._origins = origins
        self._bodies = BodyMemory(max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; pass anything else (lifespan) on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._bodies)
        self.metrics.http.in_progress.inc()
        try:
            await exchange.run(self.app)
        except Exception as error:
            problem = error if isinstance(error, Problem) else internal()
            if problem is not error:
                logger.error("request %s failed", exchange.request_id, exc_info=error)
            if exchange.status:
                raise  # the response has begun: the server closes the connection
            response = problem_response(problem, exchange.request_id, error_format_of(scope))
            await self._origins.wrap(response)(scope, receive, exchange.send)
        finally:
            self.metrics.http.in_progress.dec()
            exchange.end(self.metrics)


class _Exchange:
    """One request and its response.

    Args:
        scope, receive, send: of the ASGI application.
        bodies: the memory of all request bodies.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, bodies: BodyMemory) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = request_id(headers.get(b"x-request-id", b""))
        self.timings = Timings()
        self.status = 0  # until the response begins
        self.started = time.perf_counter()
        self._scope, self._receive, self._send = scope, receive, send
        self._bodies, self._held_bytes = bodies, 0
        self._body_unread = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        self._watcher: asyncio.Task[None] | None = None
        self._client_left = False
        self._is_head = scope["method"] == "HEAD"
        scope.setdefault("state", {}).update(request_id=self.request_id, timings=self.timings, hold_body=self._hold)

    async def run(self, app: ASGIApp) -> None:
        """Run the handler until it ends or the client disconnects. Raises Problem if the server cancels it.

        HEAD is answered like GET, without the body. The server needs its own method to write the response.
        """
        if self._is_head:
            self._scope["method"] = "GET"
        try:
            await app(self._scope, self.receive, self.send)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            if not self._client_left:  # the drain timeout of the server has passed
                detail = "the service is shutting down, and the request did not finish in time"
                raise Problem("draining", detail, {"Retry-After": "1", "Connection": "close"}) from None
        finally:
            if self._is_head:
                self._scope["method"] = "HEAD"
            if self._watcher is not None:
                self._watcher.cancel()

    async def receive(self) -> Message:
        """Pass a part of the body on; after the last one, start to watch for a client disconnect."""
        message = await self._receive()
        self._hold(len(message.get("body", b"")))
        if message["type"] == "http.request" and not message.get("more_body", False):
            if self._body_unread:
                self.timings.add("receive", time.perf_counter() - self.started)
            self._body_unread = False
            if self._watcher is None:
                self._watcher = asyncio.create_task(self._watch(asyncio.current_task()))
        return message

    def _hold(self, count: int) -> None:
        if count:
            self._bodies.take(count)
            self._held_bytes += count

    async def _watch(self, handler: asyncio.Task[Any] | None) -> None:
        """Cancel the handler when the client disconnects before the response begins."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if handler is not None and not self.status:
            self._client_left = True
            handler.cancel()

    async def send(self, message: Message) -> None:
        """Pass a part of the response on; add the request id and the timings to its headers."""
        if self._is_head:
            self._scope["method"] = "HEAD"
            message = message if message["type"] == "http.response.start" else {**message, "body": b""}
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.timings.add("total", time.perf_counter() - self.started)
            # Now and not at the end: the span of the request is closed with the last byte of its response.
            tracing.record_steps(self.timings.ended_at, self.timings.spans, self._facts())
            spans = ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in self.timings.spans.items())
            own = [(b"x-request-id", self.request_id.encode()), (b"server-timing", spans.encode())]
            message["headers"] = [*message.get("headers", ()), *own]
            if self._body_unread:
                # Keeping the connection would mean to read the rest of a refused body.
                MutableHeaders(scope=message)["Connection"] = "close"
        await self._send(message)

    @property
    def problem(self) -> str | None:
        """The code of the problem in the response, if there is one."""
        code: str | None = self._scope["state"].get("problem")
        return code

    def _facts(self) -> dict[str, Any]:
        """What is known of the request besides its timings."""
        problem = {"problem": self.problem} if self.problem else {}
        return {**self.timings.facts, **problem, "request_id": self.request_id}

    def end(self, metrics: Metrics) -> None:
        """Release the memory of the body, write the log line and update the metrics.

        Of what the client sent, log and metrics get only the request id, which is checked.
        """
        self._bodies.give_back(self._held_bytes)
        if self._scope["state"].get("refused"):
            return  # by the connection, in the middle of the body, which has counted and logged it
        seconds = time.perf_counter() - self.started
        route = getattr(self._scope.get("route"), "path", None)
        method = self._scope["method"] if route else "-"
        metrics.http.answered(route, method, self.status, seconds, self.problem)
        milliseconds = {f"{name}_ms": round(1000 * s, 1) for name, s in self.timings.spans.items()}
        fields = {
            "method": method,
            "route": route,
            "status": self.status or CLIENT_LEFT,
            **milliseconds,
            "total_ms": round(1000 * seconds, 1),
            **self._facts(),
        }
        if trace_id := tracing.trace_id():
            fields["trace_id"] = trace_id
        access.info("request", extra={"fields": fields})


def record_refusal(
    metrics: Metrics, problem: Problem, identifier: str, method: str = "-", route: str | None = None
) -> None:
    """Log and count a request that no handler saw: too slow, too large, not HTTP, or like one just refused."""
    metrics.http.answered(route, method, problem.status, 0.0, problem.code)
    facts = {"status": problem.status, "problem": problem.code, "request_id": identifier}
    access.info("request", extra={"fields": {"method": method, "route": route, **facts}})
