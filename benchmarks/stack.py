"""The cost of serving besides decoding and the network: requests per second, processor time, latency.

Processor time is what the system counts for each thread (/proc/PID/task); waiting does not count. With one thread for
decoding and one for the network, these two are the busiest threads besides the event loop. The cost of serving is the
time of these two threads beyond the histograms of /metrics for decoding and forward passes, plus the time of all other
threads, mainly the event loop.
"""

import statistics
import subprocess
import sys
import time

from benchmarks import load, models, photos
from benchmarks.run import Run, classify, header, row
from benchmarks.services import LIT, Service
from tests.server import ROOT

CEILING_CLIENTS, OVERHEAD_CLIENTS = 64, 32
ONE_THREAD = {"torch_threads": 1, "decode_threads": 1}
LONE_REQUESTS = 200
STARTS = 3


def ceiling(run: Run) -> None:
    """A network of two small blocks, so that the stack takes most of the time; with LitServe and plain FastAPI."""
    with run.all_three(run.write(models.TOY)) as running:
        header(
            "body", "clients", "service", "requests/s", "relative to LitServe", "CPU ms per request", "p50 ms", "p99 ms"
        )
        picture = photos.small_jpeg()
        lit_rate = 0.0
        for body, multipart in (("multipart", True), ("raw", False)):
            # The other services only accept forms.
            tested = [service for service in running if multipart or service is running[0]]
            before = [service.cpu_s() for service in tested]
            loads = run.in_turn(
                tested,
                lambda one: load.closed(one.port, CEILING_CLIENTS, [classify(picture, multipart)], run.seconds),  # noqa: B023 - called at once
            )
            lit_rate = next(
                (one.rate for one, service in zip(loads, tested, strict=True) if service.name == LIT), lit_rate
            )
            for service, one, cpu_s in zip(tested, loads, before, strict=True):
                # Processor time is of all rounds; the number of requests is estimated from the median round.
                cpu_ms = 1000 * (service.cpu_s() - cpu_s) / (run.rounds * one.statuses[200])
                tail = (one.percentile(50), one.percentile(99))
                row(body, CEILING_CLIENTS, service.name, one.rate, one.rate / lit_rate, cpu_ms, *tail)
    print()


def overhead(run: Run) -> None:
    """Milliseconds of processor time per image, by what they are spent on."""
    header("model", "clients", "forward", "decode", "rest", "of which event loop", "rest / forward")
    for architecture in run.architectures:
        with run.vitrine(run.write(architecture), **ONE_THREAD) as service:
            requests = [classify(run.photo)]
            load.closed(service.port, OVERHEAD_CLIENTS, requests, 1)
            before = _spent(service)
            done = load.closed(service.port, OVERHEAD_CLIENTS, requests, run.rounds * run.seconds)
            spent = [after - earlier for after, earlier in zip(_spent(service), before, strict=True)]
        images = done.statuses[200]
        forwards, decodes, loop, *others = (1000 * seconds / images for seconds in spent)
        device, decoder, *small = sorted(others, reverse=True)
        # A forward pass that waits for a core takes longer by the wall clock than in processor time.
        forward, decode = min(forwards, device), min(decodes, decoder)
        rest = loop + sum(small) + device - forward + decoder - decode
        row(architecture.name, OVERHEAD_CLIENTS, forward, decode, rest, loop, f"{rest / forward:.1%}")
    print()


def _spent(service: Service) -> list[float]:
    """Return the wall-clock time of forward passes and of decoding, then each thread's processor time, main first."""
    steps = (f"vitrine_{step}_duration_seconds_sum" for step in ("forward", "preprocess"))
    return [*map(service.metric, steps), *(seconds for _, seconds in sorted(service.threads_cpu_s().items()))]


def lone(run: Run) -> None:
    """One client that waits for each answer: the time beyond decoding and the forward pass, from Server-Timing."""
    header("model", "body", "total ms", "decode ms", "forward ms", "rest ms")
    for architecture in (models.TOY, *run.architectures):
        with run.vitrine(run.write(architecture)) as service:
            for body, multipart in (("multipart", True), ("raw", False)):
                timings = load.closed(service.port, 1, [classify(run.photo, multipart)], run.seconds).timings
                spans = [statistics.median(one[name] for one in timings) for name in ("total", "decode", "forward")]
                rest = statistics.median(one["total"] - one["decode"] - one["forward"] for one in timings)
                row(architecture.name, body, *spans, rest)
    print()


def start(run: Run) -> None:
    """The time from `vitrine serve` until ready, with and without the time of `import torch`."""
    header("model", "until ready s", "import torch s", "without torch s")
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
