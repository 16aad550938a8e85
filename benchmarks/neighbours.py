"""What other busy programs on the same machine cost: the rate and the processor time of an image, with and without."""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks import load
from benchmarks.run import Run, classify, header, row
from benchmarks.services import Service

CLIENTS = 8
NEIGHBOURS = 2


def neighbours(run: Run) -> None:
    """Eight clients, alone and beside two programs that each keep a core busy; the services take turns."""
    for architecture in run.architectures:
        print(f"### {architecture.name}, {architecture.side} pixels\n")
        with run.all_three(run.write(architecture)) as running:
            compare(run, running)


def compare(run: Run, running: Sequence[Service]) -> None:
    """Print what each service keeps of its own rate, which is measured directly before: machines change their speed."""
    header(
        "service",
        "images/s alone",
        "beside two",
        "beside / alone",
        "CPU ms an image alone",
        "CPU beside two",
        "CPU beside / alone",
    )
    requests = [classify(run.photo)]

    def measure(service: Service) -> tuple[float, ...]:
        (rate, ms), (beside_rate, beside_ms) = (_rate(run, service, requests, count) for count in (0, NEIGHBOURS))
        return rate, beside_rate, beside_rate / rate, ms, beside_ms, beside_ms / ms

    for service, rounds in zip(running, run.rounds_of(running, measure), strict=True):
        row(service.name, *(statistics.median(column) for column in zip(*rounds, strict=True)))
    print()


def _rate(run: Run, service: Service, requests: Sequence[bytes], count: int) -> tuple[float, float]:
    """Return the images a second beside so many programs, and the milliseconds of processor time of an image."""
    with busy(count):
        before = service.cpu_s()
        done = load.closed(service.port, CLIENTS, requests, run.seconds)
        return done.rate, 1000 * (service.cpu_s() - before) / done.statuses[200]


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run so many programs that each keep a core busy."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"], env=os.environ) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()
