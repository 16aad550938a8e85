"""What was read off the network for a batch -> the answer to each job, as arrays on the CPU.

Shapes: n jobs, F features, K classes, h x w patches, D embedding dimension.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from app.inference.jobs import Answer, Job, OutputInvalid, Ranking
from models.network.vit import Features, Readout


def answers(jobs: Sequence[Job], features: Features, multi_label: bool) -> list[Answer | Exception]:
    """Return an answer for each job, or OutputInvalid for an output that is not finite.

    Args:
        jobs: the batch.
        features: what was read off the network for it, in the same order.
        multi_label: whether an image can have several classes: sigmoid instead of softmax.
    """
    found: list[Answer | Exception] = [OutputInvalid()] * len(jobs)
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
        rows = (values if len(places) == len(jobs) else values[places]).float()
        read = _classes(rows, their_jobs, multi_label) if readout is Readout.LOGITS else _vectors(rows, their_jobs)
        for place, answer in zip(places, read, strict=True):
            found[place] = answer
    for place, job in enumerate(jobs):
        if job.readout is Readout.ATTENTION:
            found[place] = _array(features.attention[place])
        elif job.readout is Readout.TOKENS:
            found[place] = _array(features.tokens[place].float())
        elif job.readout is Readout.PATCHES and features.patches is not None:
            tokens = features.patches[place].float()
            found[place] = _array(F.normalize(tokens, dim=-1) if job.normalize else tokens)
    return found


def _vectors(rows: Tensor, jobs: Sequence[Job]) -> list[Answer | Exception]:
    """(n, F) -> a vector for each job."""
    if any(job.normalize for job in jobs):
        chosen = torch.tensor([job.normalize for job in jobs], device=rows.device)[:, None]
        rows = torch.where(chosen, F.normalize(rows), rows)
    finite = rows.isfinite().all(1).tolist()
    vectors = rows.cpu().numpy()
    return [vector if good else OutputInvalid() for vector, good in zip(vectors, finite, strict=True)]


def _classes(logits: Tensor, jobs: Sequence[Job], multi_label: bool) -> list[Answer | Exception]:
    """(n, K) -> for each job its best classes, or the probabilities of all."""
    probabilities = logits.sigmoid() if multi_label else logits.softmax(1)
    finite = probabilities.isfinite().all(1).tolist()
    most = max((job.top_k for job in jobs if job.top_k is not None), default=0)
    top = probabilities.topk(min(most, probabilities.shape[1]))
    scores, indices = top.values.cpu().numpy(), top.indices.cpu().numpy()
    everything = probabilities.cpu().numpy() if any(job.top_k is None for job in jobs) else scores
    found: list[Answer | Exception] = []
    for row, (job, good) in enumerate(zip(jobs, finite, strict=True)):
        if not good:
            found.append(OutputInvalid())
        elif job.top_k is None:
            found.append(everything[row])
        else:
            found.append(Ranking(indices[row, : job.top_k], scores[row, : job.top_k]))
    return found


def _array(values: Tensor) -> Answer | Exception:
    """Return one image's answer of any shape, if it is finite."""
    return values.cpu().contiguous().numpy() if values.isfinite().all() else OutputInvalid()
