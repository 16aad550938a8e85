"""`make bench-ray`: what Ray Serve adds to a request, beside the plain service, in one run.

The same app, the same model and threads, one replica; the two take turns, so that a change of the machine meets both.
`/healthz` is the way alone: no picture, no queue. One client shows the time that is added, many the rate that is left.
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
ASKED = {
    "GET /healthz": load.get("/healthz"),
    "POST /classify, 72 kB": load.request("/classify", PHOTO, multipart=False),
}


@contextmanager
def on_ray(log: Path, threads: int) -> Iterator[int]:
    """One replica on a local Ray, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.deploy.ray.cluster", str(port)]
    # Each writes its lines into a file; Ray's driver does not gather them.
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
        serving(Path(folder) / "plain", **AS_IT_COMES | {"torch_threads": threads}) as server,
        on_ray(Path(folder) / "ray", threads) as ray,
    ):
        for what, asked in ASKED.items():
            for clients in (1, 8, 32):
                turns = [
                    [load.closed(port, clients, [asked], options.seconds) for port in (server.port, ray)]
                    for _ in range(options.turns)
                ]
                plain, served = (_together(side) for side in zip(*turns, strict=True))
                cells = [
                    f"{one.percentile(50):.1f}, {one.percentile(95):.1f}, {one.rate:.0f}" for one in (plain, served)
                ]
                added, kept = served.percentile(50) - plain.percentile(50), served.rate / plain.rate
                print(f"| {what} | {clients} | {cells[0]} | {cells[1]} | {added:.1f} | {kept:.2f} |", flush=True)


def _together(turns: Sequence[Load]) -> Load:
    return Load(sum(turn.seconds for turn in turns), {200: [took for turn in turns for took in turn.took[200]]})


if __name__ == "__main__":
    main()
