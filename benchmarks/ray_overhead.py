"""`make bench-ray`: what Ray Serve adds to a request, beside the plain service, in one run.

The same app, the same model and threads, one replica; the two take turns, so that a change of the machine meets both.
`/healthz` is the way alone: no picture, no queue. One client shows the time that is added, many the rate that is left.
"""

import argparse
import asyncio
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles

import httpx

from tests.ray.cluster import request
from tests.ray.conftest import ray_environment
from tests.server import ROOT, serving

PHOTO = (ROOT / "examples" / "espresso.jpg").read_bytes()
ASKED = {
    "GET /healthz": ("GET", "/healthz", b""),
    "POST /classify, 72 kB": ("POST", "/classify", PHOTO),
}


@contextmanager
def on_ray(log: Path, threads: int) -> Iterator[str]:
    """One replica on a local Ray."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.ray.cluster", str(port)]
    # Each writes its lines into a file; Ray's driver does not gather them.
    settings = ray_environment() | {"RAY_LOG_TO_DRIVER": "0"}
    pipe = subprocess.PIPE
    with (
        log.open("w") as file,
        subprocess.Popen(command, cwd=ROOT, env=settings, stdin=pipe, stdout=pipe, stderr=file, text=True) as process,
    ):
        request(process, replicas=1, torch_threads=threads)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            assert process.stdin is not None
            process.stdin.close()


async def times(url: str, asked: str, clients: int, seconds: float) -> tuple[list[float], float]:
    """Milliseconds of each request, and requests a second."""
    method, path, body = ASKED[asked]
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def client(session: httpx.AsyncClient) -> None:
        while time.perf_counter() < end:
            started = time.perf_counter()
            response = await session.request(method, path, content=body or None)
            response.raise_for_status()
            took.append(1000 * (time.perf_counter() - started))

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as session:
        await session.request(method, path, content=body or None)
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return took, len(took) / (time.perf_counter() - started)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    threads = max(1, (os.cpu_count() or 2) // 2)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Ray {version('ray')}, {threads} threads for the forward pass\n"
    )
    print(
        "| asked | clients | plain: median, p95 ms, per s | Ray Serve: median, p95 ms, per s | added, ms | rate kept |"
    )
    print("|---|---|---|---|---|---|")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "plain", torch_threads=threads) as server,
        on_ray(Path(folder) / "ray", threads) as ray,
    ):
        for asked in ASKED:
            for clients in (1, 8, 32):
                turns = [
                    [asyncio.run(times(url, asked, clients, options.seconds)) for url in (server.url, ray)]
                    for _ in range(options.turns)
                ]
                cells, medians, rates = [], [], []
                for side in (0, 1):
                    took = [one for turn in turns for one in turn[side][0]]
                    rate = median(turn[side][1] for turn in turns)
                    medians.append(median(took))
                    rates.append(rate)
                    cells.append(f"{medians[-1]:.1f}, {quantiles(took, n=20)[-1]:.1f}, {rate:.0f}")
                added, kept = medians[1] - medians[0], rates[1] / rates[0]
                print(f"| {asked} | {clients} | {cells[0]} | {cells[1]} | {added:.1f} | {kept:.2f} |", flush=True)


if __name__ == "__main__":
    main()
