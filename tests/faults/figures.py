"""Measure the figures of SECURITY.md: `make figures` prints them as rows of its table.

Run it on an idle machine: the clients share the cores with the server.
"""

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx

from benchmarks.load import Load, closed_loop, evenly, get, open_loop
from tests.environment import AS_IT_COMES
from tests.faults.fixtures import faulty_in
from tests.faults.hostile import cases
from tests.faults.wire import ask, forget_peak, peak_bytes, post, resident_bytes
from tests.server import ROOT, Server, serving

CAT = (ROOT / "examples" / "cat.png").read_bytes()
REQUEST = post("/classify", CAT, connection="keep-alive")
CORPUS = ROOT.parent / "shared" / "corpus"
BOMBS = ("bomb", "scans", "13000x13000", "12000x12000", "1638", "17000x17000")
SECONDS = float(os.environ.get("SECONDS", "60"))
SLOW = 500
BATCHES = ("vitrine_forward_duration_seconds_count", "vitrine_forward_duration_seconds_sum")
MIB = 2**20


@asynccontextmanager
async def slow_clients(server: Server, count: int) -> AsyncIterator[None]:
    """Keep connections open that send one byte of a header per second."""

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
    """Return the generated hostile files, and those of the corpus if it is present."""
    own = {name: data for name, (data, _) in cases().items()}
    files = sorted(path for path in CORPUS.rglob("*") if any(word in path.name for word in BOMBS))
    return own | {path.name: path.read_bytes() for path in files if path.is_file()}


def worst_picture(server: Server) -> str:
    """Measure the slowest refusal of a hostile image, and the largest additional memory."""
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
    """Measure a 413 for a declared length."""
    times = []
    for _ in range(50):
        began = time.perf_counter()
        ask(server, post("/classify", content_length=10**9))
        times.append(time.perf_counter() - began)
    return f"{1000 * statistics.median(times):.1f} ms to the end of the connection"


def slow(server: Server) -> str:
    """Measure normal requests beside slow connections."""

    async def measure() -> tuple[Load, Load]:
        alone = await offer(server, 10, 20)
        async with slow_clients(server, SLOW):
            return alone, await offer(server, 10, 20)

    alone, beside = asyncio.run(measure())
    figures = [f"p50 {one.percentile(50):.0f} ms, p99 {one.percentile(99):.0f} ms" for one in (alone, beside)]
    return f"alone {figures[0]}; beside {SLOW}: {figures[1]}; {dict(beside.statuses)}"


def overload(server: Server) -> Iterator[str]:
    """Measure ten times the load that the server can serve."""
    saturated = asyncio.run(closed_loop(server.port, 32, [REQUEST], 20))
    capacity = saturated.rate
    yield f"saturated by 32 clients: {capacity:.1f}/s, p99 {saturated.percentile(99) / 1000:.2f} s"
    before = resident_bytes(server)

    async def measure() -> tuple[Load, Load]:
        return await asyncio.gather(offer(server, 10 * capacity, SECONDS), offer(server, 5, SECONDS, get("/healthz")))

    offered, health = asyncio.run(measure())
    recovered = asyncio.run(offer(server, capacity / 4, 5))
    yield (
        f"10x for {offered.seconds:.0f} s: {offered.rate:.1f}/s = {offered.rate / capacity:.0%}; "
        f"{dict(offered.statuses)}; accepted p99 {offered.percentile(99) / 1000:.2f} s; "
        f"refused p50 {offered.percentile(50, 503):.0f} ms, p99 {offered.percentile(99, 503):.0f} ms; "
        f"/healthz p99 {health.percentile(99):.0f} ms; memory {(resident_bytes(server) - before) / MIB:+.0f} MiB; "
        f"after it p99 {recovered.percentile(99):.0f} ms"
    )


DEVICES = {
    "slow network": {"FORWARD_S": 2.0, "request_timeout_s": 30},
    "timeout of three batches": {"FORWARD_S": 1.0, "request_timeout_s": 3.3},
}
"""Seconds of a batch of eight, whatever its size, and the timeout: the clients' work costs nothing beside it."""


@contextmanager
def slow_network(values: Mapping[str, float]) -> Iterator[Server]:
    """Serve with one of `DEVICES`."""
    limits = {"max_batch_tokens": 8 * 67, "max_queue_tokens": 16 * 8 * 67}
    with tempfile.TemporaryDirectory() as folder, faulty_in(Path(folder))(**limits, **values) as server:
        yield server


def late() -> Iterator[str]:
    """Measure ten times the load, in closed and open loops, of a network that is slow beside its timeout."""
    for name, values in DEVICES.items():
        with slow_network(values) as server:
            saturated = asyncio.run(closed_loop(server.port, 16, [REQUEST], SECONDS / 3))
            yield f"{name}: saturated by 16 clients: {saturated.rate:.2f}/s"
            for loop in ("closed", "open"):
                before = computed(server)
                if loop == "closed":
                    load = asyncio.run(closed_loop(server.port, 64, [REQUEST], SECONDS))
                else:
                    load = asyncio.run(offer(server, 10 * saturated.rate, SECONDS))
                tokens, in_vain = (after - earlier for after, earlier in zip(computed(server), before, strict=True))
                yield (
                    f"{name}, {loop} loop: {load.rate:.2f}/s = {load.rate / saturated.rate:.0%}; "
                    f"{dict(load.statuses)}; {in_vain / tokens:.1%} in vain"
                )


def computed(server: Server) -> tuple[float, float]:
    """Return the tokens of all batches, and of what was computed in vain."""
    tokens, in_vain = counted(server, "vitrine_batch_tokens_sum", "vitrine_tokens_in_vain_total")
    return tokens, in_vain


def counted(server: Server, *names: str) -> list[float]:
    """Return metrics by their names."""
    lines = dict(line.rsplit(" ", 1) for line in httpx.get(f"{server.url}/metrics").text.splitlines())
    return [float(lines[name]) for name in names]


def greedy() -> Iterator[str]:
    """Measure a client with a request a second beside ten times the load of another one, by their addresses."""

    async def measure(server: Server, polite: str = "127.0.0.2") -> str:
        saturated = await closed_loop(server.port, 16, [REQUEST], SECONDS / 3)
        alone = await offer(server, 1, SECONDS / 2, source=polite)
        before = counted(server, *BATCHES)
        greedy, beside = await asyncio.gather(
            offer(server, 10 * saturated.rate, SECONDS), offer(server, 1, SECONDS, source=polite)
        )
        batches, seconds = (now - then for now, then in zip(counted(server, *BATCHES), before, strict=True))
        figures = [f"p99 {one.percentile(99):.0f} ms, {dict(one.statuses)}" for one in (alone, beside)]
        return (
            f"alone {figures[0]}; beside ten times {saturated.rate:.1f}/s ({greedy.rate / saturated.rate:.0%} "
            f"answered), while a batch takes {seconds / batches:.2f} s: {figures[1]}"
        )

    for name, values in DEVICES.items():
        with slow_network(values) as server:
            yield f"{name}: {asyncio.run(measure(server))}"
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "log", **AS_IT_COMES) as server:
        yield f"shipped network: {asyncio.run(measure(server))}"


def memory(server: Server) -> str:
    """Measure the memory after 5,000 images of 200 sizes."""
    rng = random.Random(1)
    sizes = [(14 * rng.randrange(4, 25), 14 * rng.randrange(4, 25)) for _ in range(200)]
    before, held = resident_bytes(server), []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for number in range(5000):
            height, width = rng.choice(sizes)
            client.post(f"/embed?size={height}x{width}&resize=squash", content=CAT).raise_for_status()
            if number % 1000 == 999:
                held.append(resident_bytes(server) / before)
    time.sleep(15)
    growth = ", ".join(f"{factor:.2f}" for factor in held)
    idle = resident_bytes(server) / before
    return f"{before / MIB:.0f} MiB after the warm-up; x {growth} after each 1,000; x {idle:.2f} when idle"


async def offer(
    server: Server, rate: float, seconds: float, request: bytes = REQUEST, source: str | None = None
) -> Load:
    """Send requests at a constant rate, whether or not they are answered, from an address of this machine."""
    return await open_loop(server.port, evenly(rate, seconds), [request], source=source)


def main(names: Sequence[str]) -> None:
    """Print the figures, or those of `names`."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "log", **AS_IT_COMES) as server:
        model = httpx.get(f"{server.url}/model").json()
        print(f"{os.cpu_count()} cores, {model['dtype']} on {model['device']}", flush=True)
        ask(server, post("/classify", CAT))
        figures = {
            "picture": worst_picture,
            "413": too_large,
            "slow": slow,
            "overload": overload,
            "memory": memory,
        }
        for name, figure in figures.items():
            if not names or name in names:
                result = figure(server)
                for line in [result] if isinstance(result, str) else result:
                    print(f"{name}: {line}", flush=True)
    for name, lines in {"late": late, "greedy": greedy}.items():
        if not names or name in names:
            for line in lines():
                print(f"{name}: {line}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
