"""Latency when requests arrive at random times, whether or not earlier ones are answered."""

from benchmarks import load
from benchmarks.run import Run, classify, header, row

SHARES = (0.3, 0.6, 0.9)
"""Shares of the slowest service's maximum rate, so that no service is overloaded."""

CLIENTS = 8


def latency(run: Run) -> None:
    """Poisson arrivals at the same rates for all services; latency counts from the time at which a request is due."""
    header("model", "requests/s", "share of the slowest's maximum", "service", "p50 ms", "p99 ms")
    for architecture in run.architectures:
        with run.all_three(run.write(architecture)) as running:
            requests = [classify(run.photo)]
            maximum = min(load.closed(one.port, CLIENTS, requests, run.seconds).rate for one in running)
            for share in SHARES:
                loads = run.in_turn(
                    running,
                    lambda one: load.poisson(one.port, share * maximum, requests, 2 * run.seconds),  # noqa: B023 - called at once
                )
                for service, done in zip(running, loads, strict=True):
                    row(
                        architecture.name,
                        share * maximum,
                        share,
                        service.name,
                        done.percentile(50),
                        done.percentile(99),
                    )
    print()
