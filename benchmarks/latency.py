"""How long an answer takes when requests come as they do: by chance, whether or not others have been answered."""

from benchmarks import load
from benchmarks.run import Run, classify, header, row

SHARES = (0.3, 0.6, 0.9)
"""Of the rate that the slowest service reaches at its best: none is to be flooded."""

CLIENTS = 8


def latency(run: Run) -> None:
    """Poisson load at the same rates for all; the latency counts from when a request is due."""
    header("model", "requests/s", "of the slowest's most", "service", "p50 ms", "p99 ms")
    for architecture in run.architectures:
        with run.all_three(run.write(architecture)) as running:
            asked = [classify(run.photo)]
            most = min(load.closed(one.port, CLIENTS, asked, run.seconds).rate for one in running)
            for share in SHARES:
                loads = run.in_turn(
                    running,
                    lambda one: load.poisson(one.port, share * most, asked, 2 * run.seconds),  # noqa: B023 - called at once
                )
                for service, done in zip(running, loads, strict=True):
                    row(architecture.name, share * most, share, service.name, done.percentile(50), done.percentile(99))
    print()
