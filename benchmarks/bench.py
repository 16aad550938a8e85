"""`make bench`: the default model, from the matrix products alone to HTTP, each as a ratio to the limit.

One run, one table. The limit is what the network's own matrix products take, at their shapes, with nothing around them.
"""

import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import httpx
import numpy as np
import torch

from app.engine import DTYPES, Engine, Job
from app.settings import SHIPPED_MODEL
from models.checkpoint import open_checkpoint
from models.vit import Readout
from tests.server import ROOT, environment, serving

SECONDS = 6.0
BATCH = 16
PHOTO = (ROOT / "examples" / "espresso.jpg").read_bytes()


def rate(step: Callable[[], object], images: int) -> float:
    """Images a second, after one round to warm up."""
    step()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        step()
        count += images
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count / (time.perf_counter() - started)


def limit(engine: Engine, tokens: int) -> float:
    """Images a second of the matrix products alone."""
    config = engine.config
    dim, hidden = config.embed_dim, config.mlp_hidden_dim
    like = {"device": engine.device, "dtype": DTYPES[engine.dtype]}
    shapes = [(dim, 3 * dim), (dim, dim), (dim, hidden), (hidden, dim)]
    layers = [(torch.randn(BATCH * tokens, k, **like), torch.randn(n, k, **like)) for k, n in shapes]  # type: ignore[call-overload]

    def products() -> None:
        for _ in range(config.depth):
            for x, weight in layers:
                torch.nn.functional.linear(x, weight)

    with torch.inference_mode():
        return rate(products, BATCH)


async def over_http(url: str, clients: int) -> float:
    """Images a second of so many clients, each with one request at a time."""
    done = 0
    end = time.perf_counter() + SECONDS

    async def client(session: httpx.AsyncClient) -> None:
        nonlocal done
        while time.perf_counter() < end:
            response = await session.post(f"{url}/classify", files={"image": ("photo.jpg", PHOTO)})
            response.raise_for_status()
            done += 1

    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=clients)) as session:
        await session.post(f"{url}/classify", files={"image": ("photo.jpg", PHOTO)})
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return done / (time.perf_counter() - started)


@contextmanager
def plain_service(port: int) -> Iterator[str]:
    """The service that one would write first, in a process of its own."""
    command = [sys.executable, "-m", "uvicorn", "benchmarks.plain:app", "--port", str(port), "--log-level", "error"]
    process = Popen(command, cwd=ROOT, env=environment())
    try:
        for _ in range(600):
            try:
                httpx.get(f"http://127.0.0.1:{port}/readyz")
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def rows() -> Iterator[tuple[str, float]]:
    """What is measured, and its images a second."""
    engine = Engine(open_checkpoint(SHIPPED_MODEL))
    size = engine.checkpoint.content.preprocess.input_size
    yield "matrix products alone (the limit)", limit(engine, engine.config.num_tokens(*size))
    batch = [torch.randn(3, *size, device=engine.device, dtype=DTYPES[engine.dtype]) for _ in range(BATCH)]
    with torch.inference_mode():
        yield f"bare forward, batches of {BATCH}", rate(lambda: engine.network(batch, Readout.LOGITS), BATCH)
    jobs = [Job(np.zeros((3, *size), np.uint8), Readout.LOGITS, top_k=5)] * BATCH
    yield f"engine, batches of {BATCH}", rate(lambda: engine.run(jobs), BATCH)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "log") as server:
        for clients in (1, 8, 32):
            yield f"HTTP, {clients} clients", asyncio.run(over_http(server.url, clients))
    with plain_service(8765) as url:
        for clients in (1, 8, 32):
            yield f"FastAPI + timm, {clients} clients", asyncio.run(over_http(url, clients))


def main() -> None:
    """Print the table."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {len(PHOTO) // 1000} kB JPEG\n")
    print("| what | images/s | of the limit |\n|---|---|---|")
    most = 0.0
    for what, images in rows():
        most = most or images
        print(f"| {what} | {images:.1f} | {images / most:.2f} |", flush=True)


if __name__ == "__main__":
    main()
