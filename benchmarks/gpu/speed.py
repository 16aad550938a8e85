"""How fast the device is: matrix products, forward passes, the engine, and HTTP, as shares of the matrix rate."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from app.inference import overlap
from app.inference.device.backend import DTYPES, Dtype
from app.inference.device.copies import Copies, OverlappedCopies
from app.inference.engine import Engine
from app.inference.jobs import Job
from app.inference.runtime import load_engine
from app.settings import load_settings
from benchmarks import load, photos
from benchmarks.gpu.networks import Shape, write
from benchmarks.gpu.page import header, row
from models.network.vit import Readout
from tests.server import Server, serving

BATCHES = (1, 8, 64, 160)
PICTURES = 16
"""Pictures of a request that brings several."""

CLIENTS, FEW_CLIENTS = (64, 16), (2, 1)
"""Clients that send one picture a request, and that send several."""

STEPS = ("decode", "queue", "forward")


@dataclass(frozen=True)
class Bench:
    """What is measured, and how.

    Args:
        device: the device.
        dtype: that the networks compute in.
        seconds: of each measurement.
        side: rows and columns of the matrices whose product tells the device's rate.
        folder: for checkpoints and logs.
    """

    device: torch.device
    dtype: Dtype
    seconds: float
    side: int
    folder: Path
    _written: dict[str, Path] = field(default_factory=dict)

    @cached_property
    def rate(self) -> float:
        """Multiplications per second of a large matrix product of random numbers: no network exceeds it."""
        a, b = (torch.randn(self.side, self.side, device=self.device).to(DTYPES[self.dtype]) for _ in range(2))
        return self.side**3 / self.mean(lambda: a @ b)

    def share(self, shape: Shape, images_s: float) -> str:
        """Return the share of the matrix rate that so many images per second are."""
        return f"{images_s * shape.multiplications / self.rate:.1%}"

    def checkpoint(self, shape: Shape) -> Path:
        """Return the directory of a checkpoint of this shape."""
        if shape.name not in self._written:
            self._written[shape.name] = write(shape, self.folder)
        return self._written[shape.name]

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return the settings of the service: this device and dtype, a queue for any load, otherwise its own choice."""
        patient = {"max_queue_tokens": 2**22, "request_timeout_s": 600}
        threads = {"torch_threads": None, "decode_threads": None}
        return {"device": str(self.device), "dtype": self.dtype, **threads, **patient, **more}

    def engine(self, shape: Shape, **more: Any) -> Engine:
        """Load a checkpoint as the service does."""
        return load_engine(load_settings({}, model=str(self.checkpoint(shape)), **self.settings(**more))[0])

    @contextmanager
    def server(self, shape: Shape) -> Iterator[Server]:
        """Serve a checkpoint."""
        with serving(self.folder / "server.log", model=self.checkpoint(shape), **self.settings()) as server:
            yield server

    def least(self, step: Callable[[], object]) -> float:
        """Return the least time of a step with all that it starts on the device, in seconds."""
        step()
        least, end = float("inf"), time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            self.wait()
            started = time.perf_counter()
            step()
            self.wait()
            least = min(least, time.perf_counter() - started)
        return least

    def mean(self, step: Callable[[], object]) -> float:
        """Return the mean time of steps that follow each other without waiting, in seconds."""
        step()
        self.wait()
        started, count = time.perf_counter(), 0
        while time.perf_counter() < started + self.seconds:
            for _ in range(STEPS_AT_ONCE):
                step()
            count += STEPS_AT_ONCE
            self.wait()
        return (time.perf_counter() - started) / count

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


STEPS_AT_ONCE = 8
"""Steps that are started before the device is waited for."""


def forwards(bench: Bench, shape: Shape, batches: Sequence[int], *, compiled: bool = False) -> None:
    """Print rows: the network, and the engine with its copies, for batches of images of the network's own size.

    Where the engine runs its blocks in one call, there are rows with it and without.
    """
    engine = bench.engine(shape, compile=compiled)
    recorded, engine.network.recorded = engine.network.recorded, None
    for batch in batches:
        _forward(bench, shape, engine, "compiled" if compiled else "as they are", batch)
    if recorded:
        engine.network.recorded = recorded
        for batch in batches:
            _forward(bench, shape, engine, "graphs" if bench.device.type == "cuda" else "one call", batch)


def _forward(bench: Bench, shape: Shape, engine: Engine, blocks: str, batch: int) -> None:
    images = [torch.zeros(3, shape.side, shape.side, device=bench.device, dtype=DTYPES[bench.dtype])] * batch
    with torch.inference_mode():
        network_s = bench.mean(lambda: engine.network(images, Readout.LOGITS))
    jobs = [Job(np.zeros((3, shape.side, shape.side), np.uint8), Readout.LOGITS, top_k=5)] * batch
    engine_s = bench.least(lambda: engine.run(jobs))
    rates = [batch / network_s, batch / engine_s]
    network, whole = (bench.share(shape, rate) for rate in rates)
    row(shape.name, blocks, batch, 1000 * network_s, rates[0], network, 1000 * engine_s, whole)


def forward_header() -> None:
    """Print the head of the table of `forwards`."""
    names = ("network, ms", "network, images/s", "share of the matrix rate", "engine, ms", "engine, share")
    header("model", "blocks", "images", *names)


def at_once(bench: Bench, shape: Shape, batches: Sequence[int]) -> None:
    """Print rows: batches of the engine one after the other, and by two threads, one of which prepares the next.

    On a GPU the threads copy beside what it computes, as the service does where that pays.
    """
    engine = bench.engine(shape)
    engine.backend.copies = Copies(bench.device)
    other = OverlappedCopies(bench.device) if bench.device.type == "cuda" else engine.backend.copies
    for batch in batches:
        jobs = [Job(np.zeros((3, shape.side, shape.side), np.uint8), Readout.CLS)] * batch
        several = [jobs] * STEPS_AT_ONCE
        with ThreadPoolExecutor(overlap.STREAMS) as threads:
            turns_s = bench.least(partial(overlap.one_after_the_other, engine, several))
            both_s = bench.least(partial(overlap.two_at_once, engine, several, other, threads))
        rates = [batch * len(several) / seconds for seconds in (turns_s, both_s)]
        row(shape.name, batch, *rates, rates[1] / rates[0], bench.share(shape, rates[1]))


def at_once_header() -> None:
    """Print the head of the table of `at_once`."""
    header("model", "images", "one after the other, images/s", "two at once, images/s", "ratio", "share, two at once")


def http(bench: Bench, shape: Shape, clients_of: tuple[int, int]) -> None:
    """Print rows: JPEGs of 500 x 375 pixels over HTTP, one and several a request, and the time in each step."""
    jpeg = photos.photo()
    one, several = clients_of
    cases = (
        ("/classify", 1, one, load.request("/classify", jpeg)),
        ("/classify", PICTURES, several, form("/classify", [jpeg] * PICTURES)),
        ("/embed, .npy", PICTURES, several, form("/embed", [jpeg] * PICTURES, accept="application/x-npy")),
    )
    with bench.server(shape) as server:
        for name, pictures, clients, request in cases:
            load.closed(server.port, clients, [request], bench.seconds / 2)
            before = _batches(server)
            done = load.closed(server.port, clients, [request], bench.seconds)
            batches, images = (after - earlier for after, earlier in zip(_batches(server), before, strict=True))
            images_s = pictures * done.rate
            latencies = f"{done.percentile(50):.0f}, {done.percentile(99):.0f}"
            steps = [statistics.median(one.get(step, 0.0) for one in done.timings) for step in STEPS]
            share = bench.share(shape, images_s)
            row(shape.name, name, pictures, clients, images_s, share, latencies, *steps, images / batches)


def http_header() -> None:
    """Print the head of the table of `http`."""
    times = ("p50, p99 ms", *(f"{step}, ms" for step in STEPS))
    header("model", "request", "pictures", "clients", "images/s", "share of the matrix rate", *times, "images a batch")


def form(path: str, pictures: Sequence[bytes], accept: str = "application/json") -> bytes:
    """Return the bytes of a request with a form of several pictures."""
    boundary = load.BOUNDARY.encode()
    head = b'\r\nContent-Disposition: form-data; name="image"; filename="picture"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = b"".join(b"--" + boundary + head + picture + b"\r\n" for picture in pictures) + b"--" + boundary + b"--\r\n"
    kind = f"multipart/form-data; boundary={load.BOUNDARY}"
    headers = f"Host: localhost\r\nAccept: {accept}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
    return f"POST {path} HTTP/1.1\r\n{headers}\r\n\r\n".encode() + body


def copies(bench: Bench, shape: Shape, batches: Sequence[int]) -> None:
    """Print a table: how long the pixels of a batch take to the device, stacked and copied in the usual way."""
    usual = Copies(bench.device)
    header("images", "MB", "ms", "GB/s")
    for batch in batches:
        pixels = [np.zeros((3, shape.side, shape.side), np.uint8)] * batch
        seconds = bench.least(lambda: usual.upload(pixels))  # noqa: B023 - called at once
        size = batch * pixels[0].nbytes
        row(batch, size / 1e6, 1000 * seconds, size / seconds / 1e9)


def _batches(server: Server) -> tuple[float, float]:
    """Return how many batches have run, and the images in them."""
    lines = [line.split() for line in httpx.get(f"{server.url}/metrics").text.splitlines()]
    values = {line[0]: float(line[-1]) for line in lines if line[0].startswith("vitrine_batch_images_")}
    return values["vitrine_batch_images_count"], values["vitrine_batch_images_sum"]
