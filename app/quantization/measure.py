"""Compare a network of 8 bits with the one that it was made from: how near the answers are, and how long they take."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from app.inference.engine import Engine
from models.layouts.quantized import Cost
from models.network.vit import Readout
from models.preprocess import Size

Images = Sequence[Tensor]
"""Normalised images (3, height, width), float32."""

BATCH, ROUNDS = 8, 7
"""Images of a batch that is compared and timed, and how often it is timed; the least time counts."""

MEDIAN, SAME_CLASS = 0.9985, 0.98
"""The bar: the least median cosine, and the least share of pictures with the same best class."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds that an image takes, by dtype: alone, and in a batch of `BATCH`."""

    alone: Mapping[str, float]
    together: Mapping[str, float]


def below_bar(cost: Cost) -> str | None:
    """Return why a cost is too high; None if it is not."""
    if cost.cosine_median < MEDIAN:
        return f"the median cosine is {cost.cosine_median:.5f}, and {MEDIAN} is the bar"
    if cost.same_class is not None and cost.same_class < SAME_CLASS:
        return f"{cost.same_class:.1%} have the same best class, and {SAME_CLASS:.0%} is the bar"
    return None


def compare(quantized: Engine, exact: Engine, images: Images) -> Cost:
    """Return what 8 bits cost on images."""
    ours, theirs = _answers(quantized, images), _answers(exact, images)
    cosines = F.cosine_similarity(ours[0], theirs[0]).double().numpy()
    same = None if ours[1] is None or theirs[1] is None else float((ours[1] == theirs[1]).double().mean())
    least, first, median = (float(np.quantile(cosines, share)) for share in (0, 0.01, 0.5))
    height, width = images[0].shape[1:]
    return Cost((height, width), len(images), least, first, median, same)


@torch.inference_mode()
def _answers(engine: Engine, images: Images) -> tuple[Tensor, Tensor | None]:
    """Return the default vector of each image (B, F), and its best class (B,) where there are classes."""
    wanted = engine.default_readout | (Readout.LOGITS & engine.readouts)
    vectors: list[Tensor] = []
    classes: list[Tensor] = []
    for start in range(0, len(images), BATCH):
        batch = [image.to(engine.device, engine.backend.torch_dtype) for image in images[start : start + BATCH]]
        features = engine.network(batch, wanted)
        vector = features.cls if engine.default_readout is Readout.CLS else features.native
        assert vector is not None  # noqa: S101 - it is asked for
        vectors.append(vector.float().cpu())
        if features.logits is not None:
            classes.append(features.logits.float().argmax(1).cpu())
    return torch.cat(vectors), torch.cat(classes) if classes else None


@torch.inference_mode()
def time_engines(engines: Mapping[str, Engine], images: Images) -> Timing:
    """Return how long each network takes; they take turns."""
    alone, together = ({name: float("inf") for name in engines} for _ in range(2))
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            few = [image.to(engine.device, engine.backend.torch_dtype) for image in images[:BATCH]]
            for times, batch in ((alone, few[:1]), (together, few)):
                run = partial(engine.network, batch, engine.default_readout)
                started = time.perf_counter()
                run()
                times[name] = min(times[name], 1000 * (time.perf_counter() - started) / len(batch))
    return Timing(alone, together)


def larger(size: Size, factor: float) -> Size:
    """Return a size with sides of so many times the length."""
    return round(size[0] * factor), round(size[1] * factor)
