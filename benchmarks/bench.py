"""`make bench`: compare Vitrine with the limit of the machine and with other services, in one run.

Read the ratios: machines are noisy, and absolute figures do not carry over to other machines.
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
from benchmarks.neighbours import neighbours
from benchmarks.rotary import rotary
from benchmarks.run import Run
from benchmarks.stack import ceiling, lone, overhead, start
from benchmarks.strongest import strongest
from benchmarks.throughput import mixed, throughput

PACKAGES = ("torch", "transformers", "fastapi", "litserve", "openvino", "nncf", "pillow")

SECTIONS: dict[str, tuple[str, Callable[[Run], None]]] = {
    "throughput": ("Images per second", throughput),
    "strongest": ("Compared with OpenVINO", strongest),
    "mixed": ("Mixed resolutions", mixed),
    "ceiling": ("Maximum rate of the stack", ceiling),
    "overhead": ("Processor time of serving", overhead),
    "lone": ("A single client", lone),
    "latency": ("Latency with Poisson arrivals", latency),
    "neighbours": ("Beside busy neighbours", neighbours),
    "rotary": ("Rotary positions", rotary),
    "start": ("Startup time", start),
}


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=main.__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)} [default: all]")
    parser.add_argument("--quick", action="store_true", help="two seconds each, one round: a smoke test")
    parser.add_argument("--seconds", type=float, default=8, help="duration of each measurement [default: %(default)s]")
    parser.add_argument(
        "--rounds", type=int, default=3, help="repetitions, with the services in turn [default: %(default)s]"
    )
    parser.add_argument("--models", default="S,B", help="S, B or both, separated by a comma [default: %(default)s]")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of Vitrine")
    args = parser.parse_args()
    if unknown := set(args.sections) - set(SECTIONS):
        parser.error(f"unknown section: {', '.join(unknown)}")
    settings = dict(pair.split("=", 1) for pair in args.set)
    architectures = [models.ARCHITECTURES[name] for name in args.models.split(",")]
    seconds, rounds = (2.0, 1) if args.quick else (args.seconds, args.rounds)
    _describe(settings)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), seconds, rounds, settings, architectures)
        for name in args.sections or SECTIONS:
            title, measure = SECTIONS[name]
            print(f"## {title}\n\n{measure.__doc__}\n")
            measure(run)


def _describe(settings: dict[str, str]) -> None:
    """Print the machine, the versions of packages and the settings."""
    print(f"- {_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    if torch.cuda.is_available():
        print(f"- {torch.cuda.get_device_name()}")
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"- Python {platform.python_version()}, {packages}; {torch.get_num_threads()} torch threads")
    print(f"- settings: {', '.join(f'{name}={value}' for name, value in settings.items()) or 'defaults'}\n")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
