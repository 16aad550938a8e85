"""Try two batches at once on one device: the second one is copied and started while the first one computes.

In: an engine that runs one batch at a time, and copies that do not wait for what the device computes. Out: the engine
with them and with two streams, where both batches get the answers that they get one after the other, in less time.

On an NVIDIA H200, two threads with the usual copies took 0.7 to 0.8 of the time of one for as many batches of ViT-S,
and 1.0 for ViT-L (`benchmarks/README.md`). Copies on CUDA streams of their own came after that and have not run on a
card.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from app.inference.device.copies import Copies
from app.inference.engine import Engine
from app.inference.jobs import Answer, Job
from models.network.kernels.selection import relative_time

logger = logging.getLogger("vitrine.device")

STREAMS = 2
"""Batches at once: one computes, and one is prepared. A third one would only wait."""

ENOUGH = 0.95
"""The share of the time that two at once may take, at most; the rest is noise."""

FILLED = 1 / 4
"""The share of the largest batch's cost that a batch of the trial has."""

BATCHES = 4
"""Batches of one timing."""

REPEATS = 4
"""How often answers are compared, each time in another order: what a copy leaves behind is another batch's then."""

DRIFT = 1e-3
"""Largest difference of an image's vector, relative to its length. The same operations should give none. Those of
two pictures here differ by 0.08 to 1.8 (the default model, and networks with random weights)."""

Batch = Sequence[Job]
Vectors = list[np.ndarray]


def try_overlap(engine: Engine, make: Callable[[], Copies]) -> bool:
    """Let two batches run at once, where that answers right and takes less time. Return whether; the log says so, too.

    Two at once are half as large: as many images wait for an answer. So their time is compared with that of whole ones.

    Args:
        engine: it has run, and nothing else runs meanwhile.
        make: returns copies that do not wait for what the device computes.
    """
    backend = engine.backend
    try:
        copies = make()
        whole = examples(engine)
        halves = [half for batch in whole for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :])]
        with ThreadPoolExecutor(STREAMS, "device trial") as threads:
            at_once = partial(two_at_once, engine, copies=copies, threads=threads)
            if not _agree(one_after_the_other(engine, halves), halves, at_once):
                reason = "the answers differ"
            else:
                plain = partial(one_after_the_other, engine, whole)
                time = relative_time(partial(at_once, halves), plain, enough_s=float("inf"))
                reason = f"they take {time:.2f} of the time" if time > ENOUGH else ""
    except Exception as error:  # noqa: BLE001 - this torch, driver, card, or its memory; the service runs without
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if reason:
        logger.info("two batches at once: not used; %s (VITRINE_STREAMS=1 does not try it)", reason)
        backend.release_memory()
        return False
    backend.copies, backend.streams = copies, STREAMS
    logger.info("two batches at once: %.2f of the time", time)
    return True


def examples(engine: Engine) -> list[Batch]:
    """Return batches of random pictures, as many as a timing has: every other one in sizes that differ."""
    height, width = engine.checkpoint.content.preprocess.input_size
    patch_height, patch_width = engine.config.patch_size
    lower, narrower = max(patch_height, height // 2), max(patch_width, width // 2)
    mixed = [(height, width), (lower, width), (height, narrower), (lower, narrower)]
    chance = np.random.default_rng(0)

    def batch(sizes: Sequence[tuple[int, int]]) -> Batch:
        jobs: list[Job] = []
        left = FILLED * engine.max_batch_cost
        while left > 0 or len(jobs) < 2 * len(sizes):
            size = sizes[len(jobs) % len(sizes)]
            left -= engine.cost(*size)
            jobs.append(Job(picture(size, chance), engine.default_readout))
        return jobs

    return [batch(mixed if number % 2 else mixed[:1]) for number in range(BATCHES)]


def picture(size: tuple[int, int], chance: np.random.Generator) -> np.ndarray:
    """Return a picture of this size with a colour and a contrast of its own, (3, height, width)."""
    darkest, brightest = np.sort(chance.integers(0, 256, (2, 3, 1, 1)), axis=0)
    return (darkest + (brightest - darkest) * chance.random((3, *size), np.float32)).astype(np.uint8)


def one_after_the_other(engine: Engine, batches: Sequence[Batch]) -> Vectors:
    """Return the vectors of each batch, (n, F)."""
    return [_vectors(engine, batch) for batch in batches]


def two_at_once(engine: Engine, batches: Sequence[Batch], copies: Copies, threads: ThreadPoolExecutor) -> Vectors:
    """Return the same, from batches that two threads run beside each other, with other copies."""
    usual, engine.backend.copies = engine.backend.copies, copies
    try:
        return list(threads.map(partial(_vectors, engine), batches))
    finally:
        engine.backend.copies = usual


def drift(found: Vectors, expected: Vectors) -> float:
    """Return the largest relative difference of a vector; infinite where one is not a number."""
    differences = [
        np.linalg.norm(one - other, axis=1) / np.linalg.norm(other, axis=1)
        for one, other in zip(found, expected, strict=True)
    ]
    return float(np.nan_to_num(np.concatenate(differences), nan=np.inf).max())


def _agree(expected: Vectors, batches: Sequence[Batch], run: Callable[[Sequence[Batch]], Vectors]) -> bool:
    """Return whether batches get the expected vectors in any order."""
    chance = np.random.default_rng(0)
    orders = [chance.permutation(len(batches)) for _ in range(REPEATS)]
    return all(
        drift(run([batches[place] for place in order]), [expected[place] for place in order]) <= DRIFT
        for order in orders
    )


def _vectors(engine: Engine, batch: Batch) -> np.ndarray:
    """Return the vectors of a batch, (n, F); rows of a picture without an answer are not numbers."""
    answers: list[Answer | Exception] = engine.forward(batch)
    width = engine.default_dim
    return np.stack([each if isinstance(each, np.ndarray) else np.full(width, np.nan) for each in answers])
