"""What the service costs beside decoding and the network: requests a second, seconds of the processor, milliseconds.

The processor's seconds are the system's own account of each thread (/proc/PID/task), to which waiting adds nothing.
With one thread for decoding and one for the network these two are the busiest beside the event loop's. What they took
beyond what the histograms of /metrics say of decoding and of forwards, and all other threads, the loop's first of all,
are what serving costs.
"""

import statistics
import subprocess
import sys
import time

from benchmarks import load, models
from benchmarks.run import Run, classify, header, row
from benchmarks.services import LIT, Service
from tests.server import ROOT

CEILING_CLIENTS, OVERHEAD_CLIENTS = 64, 32
ONE_THREAD = {"torch_threads": 1, "decode_threads": 1}
LONE_REQUESTS = 200
STARTS = 3


def ceiling(run: Run) -> None:
    """A network of two small layers: what remains is the stack. Against LitServe and against plain FastAPI."""
    with run.all_three(run.write(models.TOY)) as running:
        header("body", "clients", "service", "requests/s", "of LitServe's", "CPU ms a request", "p50 ms", "p99 ms")
        picture = models.small_jpeg()
        lit_rate = 0.0
        for what, multipart in (("multipart", True), ("raw", False)):
            # The others take forms only.
            asked = [service for service in running if multipart or service is running[0]]
            before = [service.cpu_s() for service in asked]
            loads = run.in_turn(
                asked,
                lambda one: load.closed(one.port, CEILING_CLIENTS, [classify(picture, multipart)], run.seconds),  # noqa: B023 - called at once
            )
            lit_rate = next((one.rate for one, who in zip(loads, asked, strict=True) if who.name == LIT), lit_rate)
            for service, one, cpu_s in zip(asked, loads, before, strict=True):
                # All rounds took processor time; the median round tells how many requests they were.
                cpu_ms = 1000 * (service.cpu_s() - cpu_s) / (run.rounds * one.statuses[200])
                tail = (one.percentile(50), one.percentile(99))
                row(what, CEILING_CLIENTS, service.name, one.rate, one.rate / lit_rate, cpu_ms, *tail)
    print()


def overhead(run: Run) -> None:
    """Milliseconds of the processor an image, by what they were spent on."""
    header("model", "clients", "forward", "decode", "the rest", "of it the event loop", "the rest / forward")
    for architecture in run.architectures:
        with run.vitrine(run.write(architecture), **ONE_THREAD) as service:
            asked = [classify(run.photo)]
            load.closed(service.port, OVERHEAD_CLIENTS, asked, 1)
            before = _spent(service)
            done = load.closed(service.port, OVERHEAD_CLIENTS, asked, run.rounds * run.seconds)
            spent = [after - earlier for after, earlier in zip(_spent(service), before, strict=True)]
        images = done.statuses[200]
        forwards, decodes, loop, *others = (1000 * seconds / images for seconds in spent)
        device, decoder, *some_names = sorted(others, reverse=True)
        # A forward that waits for a core is longer by the clock than by the account.
        forward, decode = min(forwards, device), min(decodes, decoder)
        rest = loop + sum(some_names) + device - forward + decoder - decode
        row(architecture.name, OVERHEAD_CLIENTS, forward, decode, rest, loop, f"{rest / forward:.1%}")
    print()


def _spent(service: Service) -> list[float]:
    """Seconds of all forwards and all decoding by the clock, then of each thread by the account, the loop's first."""
    steps = (f"vitrine_{step}_duration_seconds_sum" for step in ("forward", "preprocess"))
    return [*map(service.metric, steps), *(seconds for _, seconds in sorted(service.threads_cpu_s().items()))]


def lone(run: Run) -> None:
    """One client, who waits for each answer: what it takes beyond decoding and the forward, by Server-Timing."""
    header("model", "body", "total ms", "decode ms", "forward ms", "beyond both ms")
    for architecture in (models.TOY, *run.architectures):
        with run.vitrine(run.write(architecture)) as service:
            for what, multipart in (("multipart", True), ("raw", False)):
                timings = load.closed(service.port, 1, [classify(run.photo, multipart)], run.seconds).timings
                spans = [statistics.median(one[name] for one in timings) for name in ("total", "decode", "forward")]
                beyond = statistics.median(one["total"] - one["decode"] - one["forward"] for one in timings)
                row(architecture.name, what, *spans, beyond)
    print()


def start(run: Run) -> None:
    """From `vitrine serve` to ready, without what `import torch` takes by itself."""
    header("model", "to ready s", "import torch s", "without it s")
    for architecture in run.architectures:
        model = run.write(architecture)
        ready, torch = [], []
        for _ in range(STARTS):
            started = time.perf_counter()
            with run.vitrine(model):
                ready.append(time.perf_counter() - started)
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import torch"], cwd=ROOT, check=True)
            torch.append(time.perf_counter() - started)
        row(architecture.name, statistics.median(ready), statistics.median(torch), min(ready) - min(torch))
    print()
