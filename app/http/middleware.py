"""What wraps every request, as pure ASGI: its id, its timing, its client's presence, and the last resort for errors.

It also counts the bytes of all bodies in hand: many uploads at once must not take more memory than there is.

Not a `BaseHTTPMiddleware`: that one hides a client's disconnect from everything behind it.
"""

import asyncio
import logging
import random
import re
import time
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Problem, internal
from app.http.problems import error_format_of, problem_response
from app.telemetry import tracing
from app.telemetry.metrics import CLIENT_LEFT, Metrics
from app.telemetry.timings import Timings

logger = logging.getLogger("vitrine")
access = logging.getLogger("vitrine.access")

ids = random.Random()  # noqa: S311 - an id is no secret, and asking the system for each would cost a wait for the lock
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class BodyMemory:
    """The bodies of all requests in hand, in bytes."""

    most: int
    held: int = 0

    def take(self, count: int) -> None:
        """Hold more. Raises Problem where that would be too much; a single body never is."""
        if self.held and self.held + count > self.most:
            raise Problem("overloaded", "too many uploads are in hand", {"Retry-After": "1"})
        self.held += count


class RequestContext:
    """Gives a request its id and its timings, ends its handler when the client leaves, answers what nobody caught.

    `max_body_bytes` is what the bodies of all requests may take together.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self._bodies = BodyMemory(max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; anything else (lifespan) passes through."""
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
                raise  # too late for an answer: the server closes the connection
            await problem_response(problem, exchange.request_id, error_format_of(scope))(scope, receive, exchange.send)
        finally:
            self.metrics.http.in_progress.dec()
            exchange.end(self.metrics)


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, bodies: BodyMemory) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        offered = headers.get(b"x-request-id", b"").decode("latin-1")
        self.request_id = offered if REQUEST_ID.fullmatch(offered) else f"{ids.getrandbits(128):032x}"
        self.timings = Timings()
        self.status = 0
        self.started = time.perf_counter()
        self._scope, self._receive, self._send = scope, receive, send
        self._bodies, self._held = bodies, 0
        self._body_ahead = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        self._watcher: asyncio.Task[None] | None = None
        self._client_left = False
        scope.setdefault("state", {}).update(request_id=self.request_id, timings=self.timings)

    async def run(self, app: ASGIApp) -> None:
        """Run the handler until it ends or its client leaves."""
        try:
            await app(self._scope, self.receive, self.send)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            if not self._client_left:  # the server has waited long enough for this request
                detail = "the service is shutting down, and the request was not finished in time"
                raise Problem("draining", detail, {"Retry-After": "1", "Connection": "close"}) from None
        finally:
            if self._watcher is not None:
                self._watcher.cancel()

    async def receive(self) -> Message:
        """Hand the body on; once it is whole, begin to watch for the client's leaving."""
        message = await self._receive()
        self._hold(len(message.get("body", b"")))
        if message["type"] == "http.request" and not message.get("more_body", False):
            if self._body_ahead:
                self.timings.add("receive", time.perf_counter() - self.started)
            self._body_ahead = False
            if self._watcher is None:
                self._watcher = asyncio.create_task(self._watch(asyncio.current_task()))
        return message

    def _hold(self, count: int) -> None:
        if count:
            self._bodies.take(count)
            self._held += count

    async def _watch(self, handler: asyncio.Task[Any] | None) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if handler is not None and not self.status:
            self._client_left = True
            handler.cancel()

    async def send(self, message: Message) -> None:
        """Put the request's id and timings on the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.timings.add("total", time.perf_counter() - self.started)
            # Here and not at the end: the request's span is closed with the last byte of its answer.
            tracing.record_steps(self.timings.ended_at, self.timings.spans, self._facts())
            spans = ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in self.timings.spans.items())
            own = [(b"x-request-id", self.request_id.encode()), (b"server-timing", spans.encode())]
            message["headers"] = [*message.get("headers", ()), *own]
            if self._body_ahead:
                # The rest of a refused body is not worth reading.
                MutableHeaders(scope=message)["Connection"] = "close"
        await self._send(message)

    @property
    def problem(self) -> str | None:
        """The code of the problem that was answered, if one was."""
        code: str | None = self._scope["state"].get("problem")
        return code

    def _facts(self) -> dict[str, Any]:
        """What is known of the request beside its times."""
        problem = {"problem": self.problem} if self.problem else {}
        return {**self.timings.facts, **problem, "request_id": self.request_id}

    def end(self, metrics: Metrics) -> None:
        """Let go of the body; one log line and the metrics: of what the client wrote they have the checked id alone."""
        self._bodies.held -= self._held
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


def record_refusal(metrics: Metrics, problem: Problem, request_id: str) -> None:
    """One log line and the metrics for what was no request that a handler could see: too slow, too large, no HTTP."""
    metrics.http.answered(None, "-", problem.status, 0.0, problem.code)
    fields = {"method": "-", "route": None, "status": problem.status, "problem": problem.code, "request_id": request_id}
    access.info("request", extra={"fields": fields})
