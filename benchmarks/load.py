"""Clients that cost little: bytes made beforehand over open connections, answers read by their lengths.

An HTTP library takes longer over a request than the service does, and takes it from the same cores. Closed loops ask
again when they are answered; open loops ask when it is time, answered or not, as strangers do.
"""

import asyncio
import itertools
import random
import re
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
LAST = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
TIMING = re.compile(rb"(\w+);dur=([\d.]+)")
BOUNDARY = "vitrine-benchmark"

LOST = 0
"""The status of a request whose connection ended before its answer."""


def request(path: str, body: bytes, multipart: bool = True, field: str = "image") -> bytes:
    """POST this picture, as a form with one file or as it is."""
    kind = "application/octet-stream"
    if multipart:
        name = f'Content-Disposition: form-data; name="{field}"; filename="picture"\r\nContent-Type: image/jpeg'
        body = f"--{BOUNDARY}\r\n{name}\r\n\r\n".encode() + body + f"\r\n--{BOUNDARY}--\r\n".encode()
        kind = f"multipart/form-data; boundary={BOUNDARY}"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def get(path: str) -> bytes:
    """GET this."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


@dataclass
class Load:
    """What a load was answered: the seconds that each answer took, by status, and the service's word of its steps."""

    seconds: float = 0.0
    took: dict[int, list[float]] = field(default_factory=dict)
    timings: list[dict[str, float]] = field(default_factory=list)
    refusal: bytes = b""

    @property
    def statuses(self) -> Counter[int]:
        """How often each came."""
        return Counter({status: len(took) for status, took in self.took.items()})

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return self.statuses[200] / self.seconds

    def percentile(self, percent: int, status: int = 200) -> float:
        """The latency in milliseconds that so many percent of the answers of a status stayed below."""
        ordered = sorted(self.took[status])
        return 1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]

    def add(self, answer: bytes, asked: float) -> None:
        """One more answer, now; an empty one is none."""
        status = int(answer[9:12]) if answer else LOST
        self.took.setdefault(status, []).append(time.perf_counter() - asked)
        if status != 200:
            self.refusal = answer
        elif timing := TIMING.findall(answer[: answer.find(b"\r\n\r\n")]):
            self.timings.append({name.decode(): float(milliseconds) for name, milliseconds in timing})


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.open = False
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._wanted = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream's protocol
        """It is open."""
        self._transport, self.open = transport, True

    async def ask(self, data: bytes) -> bytes:
        """The whole answer to a request. Raises ConnectionError where the server ends the connection instead."""
        self._received, self._wanted = bytearray(), 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        """More of the answer."""
        self._received += data
        if not self._wanted and (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self._received, 0, end)
            self._wanted = end + 4 + (int(length[1]) if length else 0)
        if self._wanted and len(self._received) >= self._wanted and self._answer and not self._answer.done():
            self._answer.set_result(bytes(self._received))
            if LAST.search(self._received, 0, self._wanted):
                self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has ended it."""
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def close(self) -> None:
        """End it."""
        self.open = False
        self._transport.close()


class _Clients:
    """Connections to a port, each of which is used again when its answer is there."""

    def __init__(self, port: int) -> None:
        self.load = Load()
        self._port = port
        self._idle: list[Connection] = []
        self.started = time.perf_counter()

    async def open(self, count: int) -> None:
        """Have so many connections ready; time runs from now."""
        self._idle += [await _connect(self._port) for _ in range(count)]
        self.started = time.perf_counter()

    async def send(self, data: bytes, due: float) -> None:
        """One request, whose latency runs from when it was due."""
        try:
            connection = await self._free()
            answer = await connection.ask(data)
        except OSError:
            self.load.add(b"", due)
            return
        self.load.add(answer, due)
        if connection.open:
            self._idle.append(connection)

    def close(self) -> Load:
        """End all connections; what came of them."""
        self.load.seconds = time.perf_counter() - self.started
        for connection in self._idle:
            connection.close()
        return self.load

    async def _free(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:  # servers close what nobody used for some seconds
                return connection
        return await _connect(self._port)


async def closed_loop(port: int, clients: int, requests: Sequence[bytes], seconds: float) -> Load:
    """So many clients, each of which asks again as soon as it has its answer; they go through `requests` in turn.

    All that is asked is counted, and lasts until the last answer.
    """
    together, turn = _Clients(port), itertools.cycle(requests)
    await together.open(clients)

    async def client() -> None:
        asked = together.started
        while asked - together.started < seconds:
            await together.send(next(turn), asked)
            asked = time.perf_counter()

    await asyncio.gather(*(client() for _ in range(clients)))
    return together.close()


async def open_loop(port: int, due: Iterable[float], requests: Sequence[bytes], ready: int = 0) -> Load:
    """Requests at these times, in seconds from the start: answered or not, and on new connections where all are busy.

    `ready` connections are open before the first.
    """
    together, turn = _Clients(port), itertools.cycle(requests)
    await together.open(ready)
    started = together.started
    async with asyncio.TaskGroup() as group:
        for when in due:
            await asyncio.sleep(started + when - time.perf_counter())
            group.create_task(together.send(next(turn), started + when))
    return together.close()


def evenly(rate: float, seconds: float) -> Iterator[float]:
    """So many times a second, at equal distances."""
    return (number / rate for number in range(int(rate * seconds)))


def by_chance(rate: float, seconds: float, seed: int = 1) -> Iterator[float]:
    """So many times a second on average, each independent of the others (a Poisson process)."""
    chance, when = random.Random(seed), 0.0
    while (when := when + chance.expovariate(rate)) < seconds:
        yield when


def closed(port: int, clients: int, requests: Sequence[bytes], seconds: float) -> Load:
    """A closed loop of which everything must be answered. Raises RuntimeError."""
    return _answered(closed_loop(port, clients, requests, seconds))


def poisson(port: int, rate: float, requests: Sequence[bytes], seconds: float) -> Load:
    """An open loop, by chance, of which everything must be answered. Raises RuntimeError."""
    return _answered(open_loop(port, by_chance(rate, seconds), requests, ready=64))


def ask(port: int, data: bytes) -> bytes:
    """The body of the answer to one request. Raises RuntimeError for a refusal."""

    async def once() -> bytes:
        connection = await _connect(port)
        answer = await connection.ask(data)
        connection.close()
        return answer

    head, _, body = uvloop.run(once()).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(_shown(head + b"\r\n\r\n" + body))
    return body


async def _connect(port: int) -> Connection:
    loop = asyncio.get_running_loop()
    return (await loop.create_connection(Connection, "127.0.0.1", port))[1]


def _answered(loop: Coroutine[Any, Any, Load]) -> Load:
    load = uvloop.run(loop)
    if set(load.took) - {200}:
        raise RuntimeError(f"{dict(load.statuses)}: {_shown(load.refusal)}")
    return load


def _shown(answer: bytes) -> str:
    return answer.decode("utf-8", "replace")[:1000]
