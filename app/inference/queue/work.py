"""What waits in the queue: pieces of work, and the call that they belong to."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

P = TypeVar("P")  # payload
A = TypeVar("A")  # answer


@dataclass(frozen=True)
class Work(Generic[P]):
    """A payload for the backend, and its cost in the units of the batch budget (tokens)."""

    cost: int
    payload: P


@dataclass(frozen=True)
class Result(Generic[A]):
    """The answer to a piece of work, or its error; and how long it waited and ran, in seconds."""

    answer: A | Exception
    queue_s: float
    run_s: float


@dataclass(frozen=True)
class Asker:
    """Who waits for work, and until when.

    client: its name; clients take turns.
    deadline: on the monotonic clock; an answer after it is of no use.
    """

    client: str = ""
    deadline: float = math.inf


class Refused(Exception):
    """The queue does not take this work, or gives it up before it was begun.

    Args:
        detail: a sentence that says why.
        retry_after_s: whole seconds after which a retry may succeed.
    """

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class QueueFull(Refused):
    """There is no space for the work."""


class NotInTime(Refused):
    """The work would not end by its deadline."""


@dataclass(eq=False)
class Call(Generic[P, A]):
    """Work that is answered together or not at all.

    waiting: the cost of the entries that wait.
    trial: run it whatever the forecast says.
    """

    asker: Asker
    queued_at: float
    entries: "list[Entry[P, A]]" = field(default_factory=list)
    waiting: int = 0
    trial: bool = False

    def fail(self, error: Exception) -> None:
        """Set the error on all futures without an answer, unless the caller has gone. Call it on the event loop."""
        for entry in self.entries:
            entry.fail(error)


@dataclass(eq=False)
class Entry(Generic[P, A]):
    """A piece of work in the queue, and the future that its caller awaits."""

    work: Work[P]
    future: asyncio.Future[Result[A]]
    call: Call[P, A]

    @property
    def has_answer(self) -> bool:
        """Whether it was run and answered."""
        return self.future.done() and not self.future.cancelled() and self.future.exception() is None

    def fail(self, error: Exception) -> None:
        """Set the error on the future, unless the caller has gone. Call it on the event loop."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # a request of several reads the first error only; asyncio would warn of the others


def call_of(works: Sequence[Work[P]], asker: Asker, now: float, loop: asyncio.AbstractEventLoop) -> Call[P, A]:
    """Return a call with an entry for each piece of work."""
    call: Call[P, A] = Call(asker, now)
    call.entries = [Entry(work, loop.create_future(), call) for work in works]
    return call
