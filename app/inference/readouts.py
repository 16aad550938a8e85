"""What was read off the network for a batch -> the answer to each job, as arrays on the CPU.

In two steps, so that all values of a batch reach the CPU together: `read` starts what is left to compute on the device
and waits for nothing, and `answers` takes the same values as arrays.

Shapes: n jobs, F features, K classes, h x w patches, D embedding dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from app.inference.jobs import Answer, Job, OutputInvalid, Ranking
from models.network.packing import on_device
from models.network.vit import Features, Readout

Array = np.ndarray
Finish = Callable[[Sequence[Array]], list[Answer | Exception]]


@dataclass(frozen=True)
class Reading:
    """What is read off for some images of a batch.

    places: of their jobs in the batch.
    values: on the device.
    finish: the same values as arrays -> the answer to each of the jobs.
    """

    places: Sequence[int]
    values: Sequence[Tensor]
    finish: Finish


def read(jobs: Sequence[Job], features: Features, multi_label: bool) -> list[Reading]:
    """Return what is read off for the images of a batch; what the network has not read off is in none.

    Args:
        jobs: the batch.
        features: what was read off the network for it, in the same order.
        multi_label: whether an image can have several classes: sigmoid instead of softmax.
    """
    readings: list[Reading] = []
    for readout, values in (
        (Readout.CLS, features.cls),
        (Readout.MEAN, features.mean),
        (Readout.NATIVE, features.native),
        (Readout.LOGITS, features.logits),
    ):
        places = [place for place, job in enumerate(jobs) if job.readout is readout]
        if not places or values is None:
            continue
        their_jobs = [jobs[place] for place in places]
        chosen = values if len(places) == len(jobs) else values[on_device(places, torch.int64, values.device)]
        rows = chosen.float()
        given, finish = (
            _classes(rows, their_jobs, multi_label) if readout is Readout.LOGITS else _vectors(rows, their_jobs)
        )
        readings.append(Reading(places, given, finish))
    for place, job in enumerate(jobs):
        if job.readout is Readout.ATTENTION:
            readings.append(Reading([place], [features.attention[place]], _array))
        elif job.readout is Readout.TOKENS:
            readings.append(Reading([place], [features.tokens[place].float()], _array))
        elif job.readout is Readout.PATCHES and features.patches is not None:
            tokens = features.patches[place].float()
            readings.append(Reading([place], [F.normalize(tokens, dim=-1) if job.normalize else tokens], _array))
    return readings


def answers(count: int, readings: Sequence[Reading], arrays: Sequence[Array]) -> list[Answer | Exception]:
    """Return the answer to each of so many jobs, or OutputInvalid for an output that is not finite.

    Args:
        count: of the jobs.
        readings: of the batch.
        arrays: the values of all readings, one after the other.
    """
    found: list[Answer | Exception] = [OutputInvalid()] * count
    given = iter(arrays)
    for reading in readings:
        finished = reading.finish([next(given) for _ in reading.values])
        for place, answer in zip(reading.places, finished, strict=True):
            found[place] = answer
    return found


def _vectors(rows: Tensor, jobs: Sequence[Job]) -> tuple[Sequence[Tensor], Finish]:
    """(n, F) -> a vector for each job."""
    if any(job.normalize for job in jobs):
        chosen = on_device([job.normalize for job in jobs], torch.bool, rows.device)[:, None]
        rows = torch.where(chosen, F.normalize(rows), rows)
    return [rows], _each_vector


def _each_vector(arrays: Sequence[Array]) -> list[Answer | Exception]:
    (rows,) = arrays
    return [_own(row) if good else OutputInvalid() for row, good in zip(rows, np.isfinite(rows).all(1), strict=True)]


def _classes(logits: Tensor, jobs: Sequence[Job], multi_label: bool) -> tuple[Sequence[Tensor], Finish]:
    """(n, K) -> for each job its best classes, or the probabilities of all."""
    probabilities = logits.sigmoid() if multi_label else logits.softmax(1)
    most = max((job.top_k for job in jobs if job.top_k is not None), default=0)
    top = probabilities.topk(min(most, probabilities.shape[1]))
    everything = [probabilities] if any(job.top_k is None for job in jobs) else []

    def finish(arrays: Sequence[Array]) -> list[Answer | Exception]:
        scores, indices, finite = arrays[:3]
        found: list[Answer | Exception] = []
        for row, job in enumerate(jobs):
            if not finite[row]:
                found.append(OutputInvalid())
            elif job.top_k is None:
                found.append(_own(arrays[3][row]))
            else:
                found.append(Ranking(_own(indices[row, : job.top_k]), _own(scores[row, : job.top_k])))
        return found

    return [top.values, top.indices, probabilities.isfinite().all(1), *everything], finish


def _own(row: Array) -> Array:
    """Return a copy of a row: the row itself would keep those of the whole batch, for as long as it is cached."""
    return row.copy()


def _array(arrays: Sequence[Array]) -> list[Answer | Exception]:
    """Return one image's answer of any shape, if it is finite."""
    (array,) = arrays
    return [array if np.isfinite(array).all() else OutputInvalid()]
