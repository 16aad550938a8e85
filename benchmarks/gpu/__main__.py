"""`python -m benchmarks.gpu`: print the page. Its sections come in the order of what must not be missed."""

import argparse
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from app.inference.device.backend import choose_device, choose_dtype
from app.threads.cores import usable_cores
from benchmarks.gpu import checks, speed
from benchmarks.gpu.networks import SHAPES, Shape
from benchmarks.gpu.page import header, row, section
from benchmarks.gpu.speed import Bench

KERNELS = 15
"""Rows of the profile."""

PROFILED = 64
"""Images of the batch that is profiled."""


def main() -> int:
    """Measure a device, and print a page of Markdown. The exit status is 1 if a section failed."""
    args = _arguments()
    device = choose_device(args.device)
    shapes = [SHAPES[name] for name in args.models.split(",")]
    started = time.monotonic()
    print("# What a device does with this code\n\nMade by `make gpu`.\n")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, choose_dtype(args.dtype, device), args.seconds, args.side, Path(folder))
        _describe(bench)
        batches = speed.BATCHES[:2] if args.quick else speed.BATCHES
        sections = {
            "CUDA tests": checks.tests,
            "Forward": lambda: _forwards(bench, shapes, batches, compiled=not args.quick),
            "Two batches at once": lambda: _at_once(bench, shapes, batches),
            "HTTP": lambda: _http(bench, shapes, args.quick),
            "Copies to the device": lambda: speed.copies(bench, shapes[0], batches),
            "Profile of one batch": lambda: _profile(bench, shapes[-1]),
            "Parity": lambda: checks.parity(device, args.parity_s),
        }
        succeeded = [section(title, write) for title, write in sections.items()]
    print(f"\nAll of it took {time.monotonic() - started:.0f} s.")
    return 0 if all(succeeded) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=main.__doc__)
    parser.add_argument("--device", default="auto", help="cpu runs all of it slowly, as a test [default: %(default)s]")
    parser.add_argument("--dtype", default="auto", help="that the networks compute in [default: %(default)s]")
    parser.add_argument("--models", default="S,B,L", help=f"of {', '.join(SHAPES)} [default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement [default: %(default)s]")
    parser.add_argument("--parity-s", type=float, default=120.0, help="most seconds for parity [default: %(default)s]")
    parser.add_argument("--side", type=int, default=8192, help="of the square matrices [default: %(default)s]")
    parser.add_argument("--quick", action="store_true", help="small batches and few clients, nothing compiled")
    return parser.parse_args()


def _describe(bench: Bench) -> None:
    if bench.device.type == "cuda":
        card = torch.cuda.get_device_properties(bench.device)
        print(f"- {card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
    print(f"- {usable_cores()} cores of {platform.machine()}; Python {platform.python_version()}")
    print(f"- torch {torch.__version__}, pillow {version('pillow')}; networks in {bench.dtype}")
    print(f"- products of {bench.side} x {bench.side} matrices: {2 * bench.rate / 1e12:.1f} TFLOP/s")


def _forwards(bench: Bench, shapes: list[Shape], batches: tuple[int, ...], *, compiled: bool) -> None:
    print("The network alone, batch after batch; and the engine, which takes pixels and returns classes, one by one.")
    print("Rows named `graphs` replay the blocks as CUDA graphs, where the engine would; HTTP uses them then, too.")
    print("On a processor `one call` is what TorchScript has recorded.")
    speed.forward_header()
    for shape in shapes:
        speed.forwards(bench, shape, batches)
        if compiled:
            speed.forwards(bench, shape, batches[-1:], compiled=True)


def _at_once(bench: Bench, shapes: list[Shape], batches: tuple[int, ...]) -> None:
    print("Pixels to [CLS] vectors, on one thread and on two. The service chooses between both as it starts.")
    speed.at_once_header()
    for shape in shapes:
        speed.at_once(bench, shape, batches)


def _http(bench: Bench, shapes: list[Shape], quick: bool) -> None:
    print("JPEGs of 500 x 375 pixels in closed loops; the clients share the processor with the server.")
    speed.http_header()
    for shape in shapes:
        speed.http(bench, shape, speed.FEW_CLIENTS if quick else speed.CLIENTS)


def _profile(bench: Bench, shape: Shape) -> None:
    engine = bench.engine(shape)
    jobs = [engine.probe()] * PROFILED
    on_card = bench.device.type == "cuda"
    engine.run(jobs)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]) as profiled:
        engine.run(jobs)
        bench.wait()
    time_of = "self_device_time_total" if on_card else "self_cpu_time_total"
    events = sorted(profiled.key_averages(), key=lambda event: -getattr(event, time_of))
    total = sum(getattr(event, time_of) for event in events)
    print(f"{shape.name}, {len(jobs)} images: {total / 1000:.1f} ms.")
    header("kernel", "calls", "ms", "share")
    for event in events[:KERNELS]:
        taken = getattr(event, time_of)
        row(f"`{event.key[:90]}`", event.count, taken / 1000, f"{taken / total:.1%}")


if __name__ == "__main__":
    sys.exit(main())
