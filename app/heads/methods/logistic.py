"""Multinomial logistic regression by L-BFGS; its strength and its held-out answers come from parts of the examples.

The objective is scikit-learn's: the sum of the cross entropies, plus half of the squared weights over the strength C;
the bias is free.
Shapes: n examples, D numbers of a vector, K classes, r = min(n, D) directions.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from app.heads.examples import Examples
from app.heads.methods.linear import Linear
from app.heads.methods.moments import Moments

STRENGTHS = (10.0, 100.0, 1000.0)
"""Values of C to try; vectors of length 1 need larger ones than the usual 1."""

MAX_PARTS = 5
ITERATIONS = 100


def fit_logistic(
    examples: Examples, _moments: Moments | None = None, _most: int | None = None, _strength: float | None = None
) -> Linear:
    """Return the regression of the strength whose held-out likelihood is best. Each class has two examples or more."""
    vectors, labels = torch.from_numpy(examples.vectors).double(), torch.from_numpy(examples.labels).long()
    classes = len(examples.classes)
    parts = min(MAX_PARTS, int(examples.counts.min()))
    part = _parts(labels, classes, parts)
    # The weights lie in the span of the examples: a rotation into it leaves less to compute, and changes no answer.
    rotation = torch.linalg.qr(vectors.T).Q if len(vectors) < vectors.shape[1] else torch.eye(vectors.shape[1]).double()
    rotated = vectors @ rotation
    best: tuple[float, float, Tensor, float] | None = None
    starts: list[Tensor | None] = [None] * parts
    for strength in STRENGTHS:
        left_out = torch.zeros(len(labels), classes, dtype=torch.double)
        for number in range(parts):
            inside = part != number
            starts[number] = parameters = _minimise(rotated[inside], labels[inside], classes, strength, starts[number])
            left_out[~inside] = rotated[~inside] @ parameters[:, :-1].T + parameters[:, -1]
        loss = float(F.cross_entropy(left_out, labels))
        if best is None or loss < best[0]:
            best = loss, strength, left_out, _length(starts)
    assert best is not None  # noqa: S101 - there are strengths
    _, strength, left_out, length = best
    parameters = _minimise(rotated, labels, classes, strength, None)
    # More examples allow larger weights: the scores that choose the temperature have to be as large as those it is for.
    left_out *= _length([parameters]) / length
    answered = torch.ones(len(labels), dtype=torch.bool)
    by = f"held out in {parts} parts"
    return Linear(parameters[:, :-1] @ rotation.T, parameters[:, -1], left_out, answered, by, strength)


def _length(fits: Sequence[Tensor | None]) -> float:
    """Return the mean length of the weights (K, r + 1) of some fits, without the bias."""
    lengths = [float(parameters[:, :-1].norm()) for parameters in fits if parameters is not None]
    return sum(lengths) / len(lengths)


def _parts(labels: Tensor, classes: int, parts: int) -> Tensor:
    """Return the part of each example: those of a class in turn, so that each part has each class alike."""
    part = torch.zeros_like(labels)
    for number in range(classes):
        places = torch.nonzero(labels == number)[:, 0]
        part[places] = torch.arange(len(places)) % parts
    return part


def _minimise(vectors: Tensor, labels: Tensor, classes: int, strength: float, start: Tensor | None) -> Tensor:
    """Return the weights and, in the last column, the bias: (K, r + 1)."""
    shape = classes, vectors.shape[1] + 1
    parameters = (torch.zeros(shape, dtype=torch.double) if start is None else start.clone()).requires_grad_()
    optimiser = torch.optim.LBFGS([parameters], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        scores = vectors @ parameters[:, :-1].T + parameters[:, -1]
        value = F.cross_entropy(scores, labels) + (parameters[:, :-1] ** 2).sum() / (2 * strength * len(labels))
        value.backward()
        return value

    optimiser.step(loss)
    return parameters.detach()
