"""A queue in simulated time: requests that arrive, a device whose batches take a known time, and what becomes of each.

Nothing waits and no thread runs, so that a load of minutes takes moments and always ends the same.
"""

import asyncio
import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from app.inference.queue.queue import Queue
from app.inference.queue.work import Asker, Call, Entry, Refused, Work, call_of

RETRY_S = 0.2
"""After this time a client of a closed loop repeats a request that was refused."""

EPSILON_S = 1e-9
"""A batch with no more than this left has ended; sums of shares are rounded."""


@dataclass
class Outcome:
    """What became of the requests, by client.

    answered, refused, late: how many.
    took: seconds from each request to its answer.
    computed, in_vain: the cost of all batches, and of what was in them for requests that were not answered.
    """

    answered: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    computed: int = 0
    in_vain: int = 0

    def percentile(self, client: str, percent: int) -> float:
        """Return a percentile of the latency of a client's answers."""
        ordered = sorted(self.took[client])
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


@dataclass
class Batch:
    """A batch that runs: the cost of its entries, and the seconds of the whole device that are left of it."""

    entries: list[Entry[None, None]]
    cost: int
    left_s: float


class Simulation:
    """A device that computes what the queue gives it; batches that run side by side have equal shares of it.

    Args:
        takes: the seconds of a batch of a cost that runs alone; `noise` is the relative deviation of a single batch.
        timeout_s: how long a request may take.
        budget: the cost of the largest batch.
        measured: the costs of the batches that were measured before the first request.
        streams: how many batches run side by side.
    """

    def __init__(
        self,
        takes: Callable[[int], float],
        timeout_s: float,
        budget: int = 2000,
        batches: int = 16,
        noise: float = 0.0,
        measured: Sequence[int] = (100, 200),
        streams: int = 1,
    ) -> None:
        self.now = 0.0
        self.outcome = Outcome()
        self.queue: Queue[None, None] = Queue(batches * budget, lambda: self.now)
        self.queue.forecast.budget, self.queue.streams.usual = budget, streams
        for cost in measured:
            self.queue.forecast.observe(cost, takes(cost))
        self._takes, self._timeout_s, self._budget, self._noise = takes, timeout_s, budget, noise
        self._random = random.Random(1)
        self._loop = asyncio.new_event_loop()
        self._loop.close()  # futures belong to one; nothing runs on it
        self._number = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._again: dict[Call[None, None], Callable[[float], None]] = {}
        self._idle = list(range(streams))
        self._running: dict[int, Batch] = {}
        self._since = 0.0

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do something at a time."""
        heapq.heappush(self._events, (when, next(self._number), action))

    def open_loop(self, client: str, rate: float, seconds: float, cost: int = 100) -> None:
        """Send requests at a constant rate, whether or not they are answered."""
        for number in range(int(rate * seconds)):
            self.at(number / rate, lambda: self.ask(client, cost))

    def closed_loop(self, client: str, clients: int, seconds: float, cost: int = 100) -> None:
        """Let as many threads of a client send their next request after the answer to the last one."""

        def again(delay_s: float) -> None:
            if self.now + delay_s < seconds:
                self.at(self.now + delay_s, lambda: self.ask(client, cost, again))

        for number in range(clients):
            self.at(number * 1e-3, lambda: self.ask(client, cost, again))

    def run(self) -> Outcome:
        """Run until nothing is left to happen."""
        while self._events:
            self.now, _, action = heapq.heappop(self._events)
            self._compute()
            action()
            while self._idle and len(self.queue):
                self._begin(min(self._idle))
        return self.outcome

    def _compute(self) -> None:
        """Let the time that has passed be the device's, in equal shares."""
        for batch in self._running.values():
            batch.left_s -= (self.now - self._since) / len(self._running)
        self._since = self.now

    def ask(self, client: str, cost: int, again: Callable[[float], None] = lambda _: None) -> None:
        """Send a request now; `again` is called with a delay when it has ended."""
        asker = Asker(client, self.now + self._timeout_s)
        call: Call[None, None] = call_of([Work(cost, None)], asker, self.now, self._loop)
        self._again[call] = again
        try:
            self.queue.put(call)
        except Refused:
            self._refuse(call)
        else:
            self._watch(call)

    def _watch(self, call: Call[None, None]) -> None:
        """A call that the queue evicts is failed at once; its future is seen at the next event."""
        fail = call.fail

        def failed(error: Exception) -> None:
            fail(error)
            self._refuse(call)

        call.fail = failed  # type: ignore[method-assign]

    def _refuse(self, call: Call[None, None]) -> None:
        self.outcome.refused[call.asker.client] += 1
        self._again.pop(call)(RETRY_S)

    def _begin(self, stream: int) -> None:
        entries, late = self.queue.take(lambda: self._budget, stream)
        for call in late:
            call.fail(Refused("", 1))
        if entries:
            cost = sum(entry.work.cost for entry in entries)
            seconds = self._takes(cost) * self._random.uniform(1 - self._noise, 1 + self._noise)
            self._running[stream] = Batch(entries, cost, seconds)
            self._idle.remove(stream)
            self._expect()

    def _expect(self) -> None:
        """Look again when the first of the batches should have ended, if no other one begins or ends before."""
        if self._running:
            first = min(batch.left_s for batch in self._running.values())
            self.at(self.now + max(0.0, first) * len(self._running), self._end)

    def _end(self) -> None:
        done = [stream for stream, batch in self._running.items() if batch.left_s < EPSILON_S]
        for stream in done:
            self._idle.append(stream)
            batch = self._running.pop(stream)
            self.queue.ended(stream, batch.cost)
            self._answer(batch)
        if done:
            self._expect()

    def _answer(self, batch: Batch) -> None:
        self.outcome.computed += batch.cost
        for entry in batch.entries:
            client, took = entry.call.asker.client, self.now - entry.call.queued_at
            if entry.future.done() or took > self._timeout_s:
                self.outcome.late[client] += 1
                self.outcome.in_vain += entry.work.cost
            else:
                self.outcome.answered[client] += 1
                self.outcome.took[client].append(took)
            if entry.call in self._again:
                self._again.pop(entry.call)(0)
