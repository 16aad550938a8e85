"""The figures of SECURITY.md, measured anew: `make figures` prints them as rows of its table.

What is offered does not wait for what is answered (an open loop), as strangers do not. Run it on an idle machine: the
clients share the cores with the server.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.hostile import cases
from tests.faults.wire import ask, forget_peak, peak_bytes, post, resident_bytes
from tests.server import ROOT, Server, serving

CAT = (ROOT / "examples" / "cat.png").read_bytes()
REQUEST = post("/classify", CAT, connection="keep-alive")
CORPUS = ROOT.parent / "shared" / "corpus"
BOMBS = ("bomb", "scans", "13000x13000", "12000x12000", "1638", "17000x17000")
SECONDS = float(os.environ.get("SECONDS", "60"))
SLOW = 500
MIB = 2**20


@dataclass
class Outcome:
    """What a load was answered: how often each status came, and after how many seconds."""

    seconds: dict[int, list[float]] = field(default_factory=dict)

    def add(self, status: int, took: float) -> None:
        """One more answer; 0 is a connection that ended without one."""
        self.seconds.setdefault(status, []).append(took)

    def p(self, status: int, percent: int) -> float:
        """That percentile of the seconds until this status."""
        return statistics.quantiles(self.seconds[status], n=100, method="inclusive")[percent - 1]

    @property
    def statuses(self) -> Counter[int]:
        """How often each came."""
        return Counter({status: len(took) for status, took in self.seconds.items()})


class Connections:
    """Connections to a server, each used again when its answer is there."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, request: bytes, outcome: Outcome) -> None:
        """One request, and what became of it."""
        began = time.perf_counter()
        try:
            reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            outcome.add(0, time.perf_counter() - began)
            return
        outcome.add(int(head.split(b" ", 2)[1]), time.perf_counter() - began)
        if b"connection: close" in head.lower():
            writer.close()
        else:
            self._idle.append((reader, writer))


async def open_loop(server: Server, rate: float, seconds: float, request: bytes = REQUEST) -> Outcome:
    """Offer so many requests a second, evenly, whether or not they are answered."""
    outcome, connections = Outcome(), Connections(server.port)
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(began + number / rate - time.perf_counter())
            group.create_task(connections.send(request, outcome))
    return outcome


async def closed_loop(server: Server, clients: int, seconds: float) -> Outcome:
    """So many clients, each with one request at a time."""
    outcome, end = Outcome(), time.perf_counter() + seconds

    async def client() -> None:
        connections = Connections(server.port)
        while time.perf_counter() < end:
            await connections.send(REQUEST, outcome)

    await asyncio.gather(*(client() for _ in range(clients)))
    return outcome


@asynccontextmanager
async def slow_clients(server: Server, count: int):  # type: ignore[no-untyped-def]
    """Connections that send a byte of a header every second."""

    async def drip() -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(b"POST /classify HTTP/1.1\r\nhost: x\r\nx-slow: ")
                while not reader.at_eof():
                    writer.write(b"a")
                    await asyncio.sleep(1)
            except OSError:
                pass

    tasks = [asyncio.create_task(drip()) for _ in range(count)]
    await asyncio.sleep(3)
    yield
    for task in tasks:
        task.cancel()


def bombs() -> dict[str, bytes]:
    """The corpus' where it is there, and our own."""
    own = {name: data for name, (data, _) in cases().items()}
    files = sorted(path for path in CORPUS.rglob("*") if any(word in path.name for word in BOMBS))
    return own | {path.name: path.read_bytes() for path in files if path.is_file()}


def worst_picture(server: Server) -> str:
    """The longest that a hostile picture takes to be refused, and the memory that it takes on top."""
    slowest, largest = (0.0, ""), (0, "")
    for name, data in bombs().items():
        forget_peak(server)
        before = resident_bytes(server)
        times = []
        for _ in range(3):
            answer = ask(server, post("/classify", data))
            if answer.status < 400:
                break
            times.append(answer.seconds)  # since the last byte was sent
        else:
            slowest = max(slowest, (min(times), name))
            largest = max(largest, (peak_bytes(server) - before - 2 * len(data), name))
    return f"{1000 * slowest[0]:.0f} ms ({slowest[1]}); +{largest[0] / MIB:.1f} MiB ({largest[1]})"


def too_large(server: Server) -> str:
    """413 for a declared length."""
    times = []
    for _ in range(50):
        began = time.perf_counter()
        ask(server, post("/classify", content_length=10**9))
        times.append(time.perf_counter() - began)
    return f"{1000 * statistics.median(times):.1f} ms to the end of the connection"


def slow(server: Server) -> str:
    """Normal requests beside slow connections."""

    async def measure() -> tuple[Outcome, Outcome]:
        alone = await open_loop(server, 10, 20)
        async with slow_clients(server, SLOW):
            return alone, await open_loop(server, 10, 20)

    alone, beside = asyncio.run(measure())
    figures = [f"p50 {1000 * o.p(200, 50):.0f} ms, p99 {1000 * o.p(200, 99):.0f} ms" for o in (alone, beside)]
    return f"alone {figures[0]}; beside {SLOW}: {figures[1]}; {dict(beside.statuses)}"


def overload(server: Server) -> Iterator[str]:
    """Ten times what the server can do."""
    saturated = asyncio.run(closed_loop(server, 32, 20))
    capacity = saturated.statuses[200] / 20
    yield f"saturated by 32 clients: {capacity:.1f}/s, p99 {saturated.p(200, 99):.2f} s"
    before = resident_bytes(server)

    async def measure() -> tuple[Outcome, Outcome]:
        health = post("/healthz", connection="keep-alive").replace(b"POST", b"GET")
        return tuple(  # type: ignore[return-value]
            await asyncio.gather(open_loop(server, 10 * capacity, SECONDS), open_loop(server, 5, SECONDS, health))
        )

    began = time.perf_counter()
    offered, health = asyncio.run(measure())
    took = time.perf_counter() - began
    recovered = asyncio.run(open_loop(server, capacity / 4, 5))
    yield (
        f"10x for {took:.0f} s: {offered.statuses[200] / took:.1f}/s = "
        f"{offered.statuses[200] / took / capacity:.0%}; {dict(offered.statuses)}; "
        f"accepted p99 {offered.p(200, 99):.2f} s; refused p50 {1000 * offered.p(503, 50):.0f} ms, "
        f"p99 {1000 * offered.p(503, 99):.0f} ms; /healthz p99 {1000 * health.p(200, 99):.0f} ms; memory "
        f"{(resident_bytes(server) - before) / MIB:+.0f} MiB; after it p99 {1000 * recovered.p(200, 99):.0f} ms"
    )


def main(names: Sequence[str]) -> None:
    """Print them; `names` picks some."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "log") as server:
        ask(server, post("/classify", CAT))
        figures = {"picture": worst_picture, "413": too_large, "slow": slow, "overload": overload}
        for name, figure in figures.items():
            if not names or name in names:
                result = figure(server)
                for line in [result] if isinstance(result, str) else result:
                    print(f"{name}: {line}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
