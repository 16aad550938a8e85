"""A load generator that uses little CPU: prepared request bytes, open connections, answers delimited by Content-Length.

An HTTP library would take longer for a request than the service, on the same cores. In a closed loop, each client sends
its next request after the answer to the previous one; in an open loop, requests are sent at given times, whether or not
earlier ones are answered, like those of independent clients.
"""

import asyncio
import itertools
import random
import re
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop

Result = TypeVar("Result")

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CONNECTION_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
TIMING = re.compile(rb"(\w+);dur=([\d.]+)")
BOUNDARY = "vitrine-benchmark"

HANG_S = 120
"""A service that still owes an answer so long after the end of a measurement hangs."""

LOST = 0
"""The status of a request whose connection was closed before the answer."""


def request(path: str, body: bytes, multipart: bool = True, field: str = "image") -> bytes:
    """Return the bytes of a POST request with this body, as a form with one file or raw."""
    content_type = "application/octet-stream"
    if multipart:
        part = f'Content-Disposition: form-data; name="{field}"; filename="picture"\r\nContent-Type: image/jpeg'
        body = f"--{BOUNDARY}\r\n{part}\r\n\r\n".encode() + body + f"\r\n--{BOUNDARY}--\r\n".encode()
        content_type = f"multipart/form-data; boundary={BOUNDARY}"
    headers = f"Host: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    return f"POST {path} HTTP/1.1\r\n{headers}\r\n\r\n".encode() + body


def get(path: str) -> bytes:
    """Return the bytes of a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


@dataclass
class Load:
    """The answers to a load.

    Args:
        seconds: the duration of the load.
        took: the latencies in seconds, by status.
        timings: the milliseconds in the Server-Timing header of each answer.
        refusal: the last answer whose status is not 200.
    """

    seconds: float = 0.0
    took: dict[int, list[float]] = field(default_factory=dict)
    timings: list[dict[str, float]] = field(default_factory=list)
    refusal: bytes = b""

    @property
    def statuses(self) -> Counter[int]:
        """The number of answers by status."""
        return Counter({status: len(took) for status, took in self.took.items()})

    @property
    def rate(self) -> float:
        """Requests answered with 200 per second."""
        return self.statuses[200] / self.seconds

    def percentile(self, percent: int, status: int = 200) -> float:
        """Return a percentile of the latency of answers with this status, in milliseconds."""
        ordered = sorted(self.took[status])
        return 1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]

    def add(self, answer: bytes, sent: float) -> int:
        """Count an answer that arrives now and return its status; an empty one means that the connection was closed."""
        status = int(answer[9:12]) if answer else LOST
        self.took.setdefault(status, []).append(time.perf_counter() - sent)
        if status != 200:
            self.refusal = answer
        elif timing := TIMING.findall(answer[: answer.find(b"\r\n\r\n")]):
            self.timings.append({name.decode(): float(milliseconds) for name, milliseconds in timing})
        return status


class Connection(asyncio.Protocol):
    """A connection that sends one request at a time."""

    def __init__(self) -> None:
        self.open = False
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._length = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # asyncio passes a Transport
        """Keep the transport."""
        self._transport, self.open = transport, True

    async def ask(self, data: bytes) -> bytes:
        """Send a request and return the whole answer. Raises ConnectionError if the server closes the connection."""
        self._received, self._length = bytearray(), 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()
            raise

    def data_received(self, data: bytes) -> None:
        """Collect the answer; complete it when all of its bytes are here."""
        self._received += data
        if not self._length and (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self._received, 0, end)
            self._length = end + 4 + (int(length[1]) if length else 0)
        if self._length and len(self._received) >= self._length and self._answer and not self._answer.done():
            self._answer.set_result(bytes(self._received))
            if CONNECTION_CLOSE.search(self._received, 0, self._length):
                self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the pending request: the server has closed the connection."""
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def close(self) -> None:
        """Close the connection."""
        self.open = False
        self._transport.close()


class _Clients:
    """A pool of connections to a port, which are reused after each answer, and the load that they measure."""

    def __init__(self, port: int, source: str | None = None) -> None:
        self.load = Load()
        self._port = port
        self._source = source
        self._idle: list[Connection] = []
        self.started = time.perf_counter()

    async def open(self, count: int) -> None:
        """Open connections and start the clock."""
        self._idle += [await _connect(self._port, self._source) for _ in range(count)]
        self.started = time.perf_counter()

    async def send(self, data: bytes, due: float) -> int:
        """Send one request and return the status of its answer; its latency counts from `due`."""
        try:
            connection = await self._idle_connection()
            answer = await connection.ask(data)
        except OSError:
            return self.load.add(b"", due)
        if connection.open:
            self._idle.append(connection)
        return self.load.add(answer, due)

    def close(self) -> None:
        """Stop the clock and close all connections that wait for no answer."""
        self.load.seconds = time.perf_counter() - self.started
        for connection in self._idle:
            connection.close()

    async def _idle_connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:  # servers close connections that are idle for some seconds
                return connection
        return await _connect(self._port, self._source)


async def closed_loop(port: int, clients: int, requests: Sequence[bytes], seconds: float) -> Load:
    """Run clients that each send their next request as soon as they have an answer; they take turns through `requests`.

    Every request counts; the duration lasts until the last answer.
    """
    pool, turn = _Clients(port), itertools.cycle(requests)
    await pool.open(clients)

    async def client() -> None:
        sent = pool.started
        while sent - pool.started < seconds:
            await pool.send(next(turn), sent)
            sent = time.perf_counter()

    try:
        await asyncio.gather(*(client() for _ in range(clients)))
    finally:
        pool.close()
    return pool.load


async def open_loop(
    port: int, due: Iterable[float], requests: Sequence[bytes], ready: int = 0, source: str | None = None
) -> Load:
    """Send requests at these times, in seconds from the start, whether or not earlier ones are answered.

    A new connection is opened if all are busy; `ready` connections are opened before the start, all of them from the
    address `source` if it is given.
    """
    pool, turn = _Clients(port, source), itertools.cycle(requests)
    await pool.open(ready)
    started = pool.started
    try:
        async with asyncio.TaskGroup() as group:
            for when in due:
                await asyncio.sleep(started + when - time.perf_counter())
                group.create_task(pool.send(next(turn), started + when))
    finally:
        pool.close()
    return pool.load


def evenly(rate: float, seconds: float) -> Iterator[float]:
    """Yield times at a constant rate per second, at equal intervals."""
    return (number / rate for number in range(int(rate * seconds)))


def poisson_times(rate: float, seconds: float, seed: int = 1) -> Iterator[float]:
    """Yield the times of a Poisson process with this mean rate per second."""
    rng, when = random.Random(seed), 0.0
    while (when := when + rng.expovariate(rate)) < seconds:
        yield when


def closed(port: int, clients: int, requests: Sequence[bytes], seconds: float) -> Load:
    """Run a closed loop. Raises RuntimeError unless all answers come, with 200."""
    return _answered(closed_loop(port, clients, requests, seconds), seconds)


def poisson(port: int, rate: float, requests: Sequence[bytes], seconds: float) -> Load:
    """Run an open loop with Poisson arrivals. Raises RuntimeError unless all answers come, with 200."""
    return _answered(open_loop(port, poisson_times(rate, seconds), requests, ready=64), seconds)


def ask(port: int, data: bytes) -> bytes:
    """Send one request and return the body of its answer. Raises RuntimeError for another status than 200, or none."""

    async def once() -> bytes:
        connection = await _connect(port)
        answer = await connection.ask(data)
        connection.close()
        return answer

    head, _, body = _run(once(), 0).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(_excerpt(head + b"\r\n\r\n" + body))
    return body


async def _connect(port: int, source: str | None = None) -> Connection:
    loop = asyncio.get_running_loop()
    local = (source, 0) if source else None
    return (await loop.create_connection(Connection, "127.0.0.1", port, local_addr=local))[1]


def _run(work: Coroutine[Any, Any, Result], seconds: float) -> Result:
    """Run what should take so many seconds. Raises RuntimeError if it is not done long after."""
    try:
        return uvloop.run(asyncio.wait_for(work, seconds + HANG_S))
    except TimeoutError as error:
        raise RuntimeError(f"a request is not answered {HANG_S} seconds after its time") from error


def _answered(loop: Coroutine[Any, Any, Load], seconds: float) -> Load:
    load = _run(loop, seconds)
    if set(load.took) - {200}:
        raise RuntimeError(f"{dict(load.statuses)}: {_excerpt(load.refusal)}")
    return load


def _excerpt(answer: bytes) -> str:
    return answer.decode("utf-8", "replace")[:1000]
