"""What other busy programs on the same machine cost: the rate and the processor time of an image, with and without."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import load
from benchmarks.run import Run, classify, header, row
from benchmarks.services import Service

CLIENTS = 8
NEIGHBOURS = 2


def neighbours(run: Run) -> None:
    """Eight clients, alone and beside two programs that each keep a core busy; the services take turns."""
    header("model", "service", "images/s alone", "beside two", "beside / alone", "CPU ms an image alone", "beside two")
    for architecture in run.architectures:
        requests = [classify(run.photo)]
        with run.all_three(run.write(architecture)) as running:
            used: dict[str, float] = {}

            def measure(service: Service) -> load.Load:
                before = service.cpu_s()
                done = load.closed(service.port, CLIENTS, requests, run.seconds)  # noqa: B023 - called at once
                used[service.name] = 1000 * (service.cpu_s() - before) / done.statuses[200]  # noqa: B023 - called at once
                return done

            alone, alone_ms = run.in_turn(running, measure), dict(used)
            with busy(NEIGHBOURS):
                beside = run.in_turn(running, measure)
        for service, quiet, disturbed in zip(running, alone, beside, strict=True):
            rates = quiet.rate, disturbed.rate, disturbed.rate / quiet.rate
            row(architecture.name, service.name, *rates, alone_ms[service.name], used[service.name])
    print()


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
