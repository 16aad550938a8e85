"""`make bench`: what Vitrine reaches of what the machine can do, and of what others do, within one run.

Ratios are what to read: these machines are noisy, and absolute figures do not travel.
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import models
from benchmarks.latency import latency
from benchmarks.run import Run
from benchmarks.stack import ceiling, lone, overhead, start
from benchmarks.throughput import mixed, throughput

PACKAGES = ("torch", "transformers", "fastapi", "litserve", "pillow")

SECTIONS: dict[str, tuple[str, Callable[[Run], None]]] = {
    "throughput": ("Images a second", throughput),
    "mixed": ("Mixed resolutions", mixed),
    "ceiling": ("The stack's own ceiling", ceiling),
    "overhead": ("What serving costs the processor", overhead),
    "lone": ("A lone request", lone),
    "latency": ("Latency under Poisson load", latency),
    "start": ("Start", start),
}


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=main.__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)} [default: all]")
    parser.add_argument("--quick", action="store_true", help="a few seconds each, one round: to see that it works")
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement [default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="in turns [default: %(default)s]")
    parser.add_argument("--models", default="S,B", help="of S and B, separated by commas [default: both]")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of Vitrine's")
    asked = parser.parse_args()
    if unknown := set(asked.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(unknown)}")
    settings = dict(pair.split("=", 1) for pair in asked.set)
    architectures = [models.ARCHITECTURES[name] for name in asked.models.split(",")]
    seconds, rounds = (2.0, 1) if asked.quick else (asked.seconds, asked.rounds)
    _describe(settings)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), seconds, rounds, settings, architectures)
        for name in asked.sections or SECTIONS:
            title, measure = SECTIONS[name]
            print(f"## {title}\n\n{measure.__doc__}\n")
            measure(run)


def _describe(settings: dict[str, str]) -> None:
    """The machine and what runs on it."""
    print(f"- {_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    if torch.cuda.is_available():
        print(f"- {torch.cuda.get_device_name()}")
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"- Python {platform.python_version()}, {packages}; {torch.get_num_threads()} threads of torch")
    print(f"- settings: {', '.join(f'{name}={value}' for name, value in settings.items()) or 'the defaults'}\n")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
