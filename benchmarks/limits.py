"""What no service can pass: the network's matrix products alone, then its forward, then the engine around it.

All on uint8-sized pictures of the network's own size, in this process, with the settings' threads and dtype.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from app.engine import DTYPES, Engine, Job
from app.runtime import load_engine
from app.settings import load_settings
from models.vit import Readout

BATCH = 8


def rates(model: Path, settings: dict[str, str], seconds: float) -> Iterator[tuple[str, float]]:
    """What is measured, and its images a second."""
    engine = load_engine(load_settings({}, model=str(model), **settings)[0])
    height, width = engine.checkpoint.content.preprocess.input_size
    with torch.inference_mode():
        yield "matrix products alone", _rate(_products(engine, engine.config.num_tokens(height, width)), seconds)
        pictures = [torch.randn(3, height, width, device=engine.device, dtype=DTYPES[engine.dtype])] * BATCH
        yield "forward", _rate(lambda: engine.network(pictures, Readout.LOGITS), seconds)
    jobs = [Job(np.zeros((3, height, width), np.uint8), Readout.LOGITS, top_k=5)] * BATCH
    yield "engine", _rate(lambda: engine.run(jobs), seconds)


def _products(engine: Engine, tokens: int) -> Callable[[], object]:
    """The linear layers and attention's two products, at their shapes for one batch, with nothing around them."""
    config = engine.config
    dim, hidden, heads = config.embed_dim, config.mlp_hidden_dim, config.num_heads
    place, dtype = engine.device, DTYPES[engine.dtype]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=place, dtype=dtype)

    shapes = [(dim, 3 * dim), (dim, dim), (dim, hidden), (hidden, dim)]
    layers = [(random(BATCH * tokens, inside), random(outside, inside)) for inside, outside in shapes]
    query, key = random(BATCH * heads, tokens, dim // heads), random(BATCH * heads, dim // heads, tokens)
    weights, value = random(BATCH * heads, tokens, tokens), random(BATCH * heads, tokens, dim // heads)

    def products() -> None:
        for _ in range(config.depth):
            for x, weight in layers:
                torch.nn.functional.linear(x, weight)
            torch.bmm(query, key)
            torch.bmm(weights, value)

    return products


def _rate(step: Callable[[], object], seconds: float) -> float:
    """Images a second, by the fastest of the rounds: what disturbs a round only makes it slower."""
    step()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return BATCH / best
