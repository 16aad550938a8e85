"""Refusals that are given again without a handler.

Under overload a client may be refused a thousand times a second. Middleware, routing and the handler then take the time
of the event loop from the requests that are served, and the response that ends the connection makes the client open
another one. So a refusal that does not depend on the body (`Problem.holds_s`) is kept for as long as it holds, and is
given again to requests of the same client with the same head.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from app.errors import Problem
from app.http.problems import ErrorFormat

MAX_KEPT = 256
"""Heads whose refusals are kept."""

MAX_HEAD_BYTES = 4096
"""Size of the largest head whose refusal is kept."""

MAX_DISCARDED_BYTES = 2**18
"""Size of the largest body that is read and discarded, so that the connection can be used again."""

PROXY_HEADERS = b"x-forwarded-"

Head: TypeAlias = tuple[object, ...]


@dataclass(frozen=True)
class Refusal:
    """A refusal of a request.

    problem: what is wrong.
    shape: the error format of the request's path.
    method, route: of the request, for the log line and the metrics.
    """

    problem: Problem
    shape: ErrorFormat
    method: str
    route: str | None


class Refusals:
    """The refusals of all connections that hold now."""

    def __init__(self) -> None:
        self._kept: dict[Head, tuple[float, Refusal]] = {}
        self._until = 0.0

    def keep(self, head: Head, refusal: Refusal, now: float) -> None:
        """Keep a refusal for as long as it holds; the oldest one makes space."""
        if sum(len(part) for part in head if isinstance(part, bytes)) > MAX_HEAD_BYTES:
            return
        self._kept = {key: kept for key, kept in self._kept.items() if kept[0] > now}
        if len(self._kept) == MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        until = now + refusal.problem.holds_s
        self._kept[head] = until, refusal
        self._until = max(self._until, until)

    def find(self, head: Head, now: float) -> Refusal | None:
        """Return the refusal that holds for a head now."""
        until, refusal = self._kept.get(head, (0.0, None))
        return refusal if now < until else None

    def hold(self, now: float) -> bool:
        """Whether any refusal may hold now."""
        return now < self._until


def head_of(client: object, method: bytes, url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """Return what decides about a request before its body is read.

    That is where it comes from (its address, its key, what a proxy says) and what it asks for, and no other header.
    """
    origin = (
        part
        for header in headers
        if header[0] in (b"authorization", b"forwarded") or header[0].startswith(PROXY_HEADERS)
        for part in header
    )
    return client, method, url, *origin


def is_short(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a body has a known size that is worth reading for nothing, and the client sends it without a word."""
    sizes = dict(headers)
    size = sizes.get(b"content-length", b"0")
    known = b"transfer-encoding" not in sizes and b"expect" not in sizes and size.isdigit()
    return known and int(size) <= MAX_DISCARDED_BYTES
