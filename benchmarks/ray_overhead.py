"""`make bench-ray`: the overhead of Ray Serve compared with the plain service, in one run.

Both run the same app, model and number of threads, with one replica, and take turns, so that both are exposed to the
same disturbances. `/healthz` has neither a picture nor a queue and shows the overhead of routing only. One client shows
the added latency, many clients the remaining rate.
"""

import argparse
import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from benchmarks import load
from benchmarks.load import Load
from tests.deploy.ray.cluster import request
from tests.deploy.ray.conftest import ray_environment
from tests.environment import AS_IT_COMES
from tests.server import ROOT, serving

PHOTO = (ROOT / "examples" / "espresso.jpg").read_bytes()
REQUESTS = {
    "GET /healthz": load.get("/healthz"),
    "POST /classify, 72 kB": load.request("/classify", PHOTO, multipart=False),
}


@contextmanager
def on_ray(log: Path, threads: int) -> Iterator[int]:
    """Run one replica on a local Ray cluster and yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.deploy.ray.cluster", str(port)]
    # Each process logs into a file; Ray's driver does not collect the lines.
    settings = ray_environment(**AS_IT_COMES) | {"RAY_LOG_TO_DRIVER": "0"}
    pipe = subprocess.PIPE
    with (
        log.open("w") as file,
        subprocess.Popen(command, cwd=ROOT, env=settings, stdin=pipe, stdout=pipe, stderr=file, text=True) as process,
    ):
        request(process, replicas=1, torch_threads=threads)
        try:
            yield port
        finally:
            assert process.stdin is not None
            process.stdin.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each turn")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    threads = max(1, (os.cpu_count() or 2) // 2)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Ray {version('ray')}, {threads} threads for the forward pass\n"
    )
    print("| request | clients | plain: median, p95 ms, per s | Ray Serve: median, p95 ms, per s | added ms | ratio |")
    print("|---|---|---|---|---|---|")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "plain", **AS_IT_COMES | {"torch_threads": threads}) as server,
        on_ray(Path(folder) / "ray", threads) as ray,
    ):
        for name, data in REQUESTS.items():
            for clients in (1, 8, 32):
                turns = [
                    [load.closed(port, clients, [data], options.seconds) for port in (server.port, ray)]
                    for _ in range(options.turns)
                ]
                plain, served = (_merge(side) for side in zip(*turns, strict=True))
                cells = [
                    f"{one.percentile(50):.1f}, {one.percentile(95):.1f}, {one.rate:.0f}" for one in (plain, served)
                ]
                added, ratio = served.percentile(50) - plain.percentile(50), served.rate / plain.rate
                print(f"| {name} | {clients} | {cells[0]} | {cells[1]} | {added:.1f} | {ratio:.2f} |", flush=True)


def _merge(turns: Sequence[Load]) -> Load:
    return Load(sum(turn.seconds for turn in turns), {200: [took for turn in turns for took in turn.took[200]]})


if __name__ == "__main__":
    main()
