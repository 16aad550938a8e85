"""The upper limit for any service: the network's matrix products only, then its forward pass, then the engine.

All run in this process on pictures of the network's own size, with the threads and the dtype of the settings.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from app.inference.device.backend import DTYPES
from app.inference.engine import Engine
from app.inference.jobs import Job
from app.inference.runtime import load_engine
from app.settings import load_settings
from models.network.vit import Readout

BATCH = 8


def rates(model: Path, settings: dict[str, str], seconds: float) -> Iterator[tuple[str, float]]:
    """Yield what is measured and its images per second."""
    engine = load_engine(load_settings({}, model=str(model), **settings)[0])
    height, width = engine.checkpoint.content.preprocess.input_size
    with torch.inference_mode():
        yield "matrix products alone", _rate(_products(engine, engine.config.num_tokens(height, width)), seconds)
        pictures = [torch.randn(3, height, width, device=engine.device, dtype=DTYPES[engine.dtype])] * BATCH
        yield "forward", _rate(lambda: engine.network(pictures, Readout.LOGITS), seconds)
    jobs = [Job(np.zeros((3, height, width), np.uint8), Readout.LOGITS, top_k=5)] * BATCH
    yield "engine", _rate(lambda: engine.run(jobs), seconds)


def _products(engine: Engine, tokens: int) -> Callable[[], object]:
    """Return a function that computes only the matrix products of classifying a batch: patches, layers, attention.

    The last block computes [CLS] only, with all tokens as keys and values.
    """
    config = engine.config
    dim, hidden, heads = config.embed_dim, config.mlp_hidden_dim, config.num_heads
    patch = 3 * config.patch_size[0] * config.patch_size[1]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=engine.device, dtype=DTYPES[engine.dtype])

    def layers(rows: int, *shapes: tuple[int, int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(random(rows, inside), random(outside, inside)) for inside, outside in shapes]

    def attention(queries: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        images = BATCH * heads
        scores = random(images, queries, config.head_dim), random(images, config.head_dim, tokens)
        return [scores, (random(images, queries, tokens), random(images, tokens, config.head_dim))]

    block = layers(BATCH * tokens, (dim, 3 * dim), (dim, dim), (dim, hidden), (hidden, dim)), attention(tokens)
    last = layers(BATCH, (dim, dim), (dim, dim), (dim, hidden), (hidden, dim), (dim, config.num_classes)), attention(1)
    around = layers(BATCH * (tokens - config.num_prefix_tokens), (patch, dim)) + layers(BATCH * tokens, (dim, 2 * dim))

    def products() -> None:
        for dense, inside in [(around, []), *[block] * (config.depth - 1), last]:
            for x, weight in dense:
                torch.nn.functional.linear(x, weight)
            for a, b in inside:
                torch.bmm(a, b)

    return products


def _rate(step: Callable[[], object], seconds: float) -> float:
    """Return images per second of the fastest repetition: other load on the machine only makes one slower."""
    step()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return BATCH / best
