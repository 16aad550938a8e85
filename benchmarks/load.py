"""Clients that cost little: bytes made beforehand over open connections, answers read by their lengths.

An HTTP library takes longer over a request than the service does, and takes it from the same cores.
"""

import asyncio
import itertools
import random
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
TIMING = re.compile(rb"(\w+);dur=([\d.]+)")
BOUNDARY = "vitrine-benchmark"


def request(path: str, body: bytes, multipart: bool = True, field: str = "image") -> bytes:
    """POST this picture, as a form with one file or as it is."""
    kind = "application/octet-stream"
    if multipart:
        name = f'Content-Disposition: form-data; name="{field}"; filename="picture"\r\nContent-Type: image/jpeg'
        body = f"--{BOUNDARY}\r\n{name}\r\n\r\n".encode() + body + f"\r\n--{BOUNDARY}--\r\n".encode()
        kind = f"multipart/form-data; boundary={BOUNDARY}"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass
class Load:
    """What a run of load brought: answers, seconds, and what each answer took."""

    seconds: float
    latencies: list[float]
    timings: list[dict[str, float]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: int) -> float:
        """The latency in milliseconds that so many percent of the requests stayed below."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]

    def beyond_ms(self, *steps: str) -> float:
        """The median of what requests took by the service's own account, without these steps, in milliseconds."""
        rest = [timing["total"] - sum(timing.get(step, 0.0) for step in steps) for timing in self.timings]
        return statistics.median(rest)


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[bytes]
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._wanted = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream's protocol
        """It is open."""
        self._transport = transport

    async def ask(self, data: bytes) -> bytes:
        """The whole answer to a request. Raises RuntimeError for one that is not 200."""
        self._received, self._wanted = bytearray(), 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        answer = await self._answer
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer.decode("utf-8", "replace")[:1000])
        return answer

    def data_received(self, data: bytes) -> None:
        """More of the answer."""
        self._received += data
        if not self._wanted and (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self._received, 0, end)
            self._wanted = end + 4 + (int(length[1]) if length else 0)
        if self._wanted and len(self._received) >= self._wanted:
            self._answer.set_result(bytes(self._received))

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has ended it."""
        if not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def close(self) -> None:
        """End it."""
        self._transport.close()


def ask(port: int, data: bytes) -> bytes:
    """The body of the answer to one request."""

    async def once() -> bytes:
        (connection,) = await _connect(port, 1)
        answer = await connection.ask(data)
        connection.close()
        return answer.partition(b"\r\n\r\n")[2]

    return uvloop.run(once())


def closed(port: int, clients: int, requests: Sequence[bytes], seconds: float) -> Load:
    """So many clients, each of which asks again as soon as it has its answer; they go through `requests` in turn.

    All that is asked is counted, and lasts until the last answer.
    """

    async def run() -> Load:
        connections = await _connect(port, clients)
        turn, load, started = itertools.cycle(requests), Load(0, []), time.perf_counter()

        async def client(connection: Connection) -> None:
            asked = started
            while asked - started < seconds:
                _count(load, await connection.ask(next(turn)), asked)
                asked = time.perf_counter()

        await asyncio.gather(*map(client, connections))
        load.seconds = time.perf_counter() - started
        for connection in connections:
            connection.close()
        return load

    return uvloop.run(run())


def poisson(port: int, rate: float, requests: Sequence[bytes], seconds: float, seed: int = 1) -> Load:
    """Requests that come when they come, `rate` a second: a latency runs from then, connections or no connections."""

    async def run() -> Load:
        chance, turn, load = random.Random(seed), itertools.cycle(requests), Load(0, [])
        idle = await _connect(port, 64)
        opened = list(idle)

        async def client(due: float) -> None:
            if not idle:
                idle.extend(more := await _connect(port, 1))
                opened.extend(more)
            connection = idle.pop()
            _count(load, await connection.ask(next(turn)), due)
            idle.append(connection)

        started = due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while (due := due + chance.expovariate(rate)) < started + seconds:
                await asyncio.sleep(due - time.perf_counter())
                group.create_task(client(due))
        load.seconds = time.perf_counter() - started
        for connection in opened:
            connection.close()
        return load

    return uvloop.run(run())


def _count(load: Load, answer: bytes, asked: float) -> None:
    load.latencies.append(time.perf_counter() - asked)
    head = answer[: answer.find(b"\r\n\r\n")]
    if timing := TIMING.findall(head):
        load.timings.append({name.decode(): float(milliseconds) for name, milliseconds in timing})


async def _connect(port: int, count: int) -> list[Connection]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Connection, "127.0.0.1", port))[1] for _ in range(count)]
