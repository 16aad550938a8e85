"""Ridge regression on one-hot targets, in closed form, with leave-one-out answers from the same factorisation.

The prediction that an example gets from a fit without it needs no other fit: it follows from the prediction with it and
the example's leverage (PRESS; Allen 1974). scikit-learn's RidgeCV does the same.

All classes weigh alike, however many examples they have: otherwise those with more would be preferred. For the same
reason the score of its own class is corrected for an example that is left out: that class then weighs less than others.

Shapes: n examples, D numbers of a vector, K classes, r = min(n, D) directions.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.heads.examples import Examples
from app.heads.methods.linear import Linear

STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(-4, 3))
"""Strengths to try, as multiples of the mean eigenvalue."""

SMALLEST_WIDTH = 1e-6

NEGLIGIBLE = 1e-9
"""Directions with a smaller share of the largest eigenvalue are rounding errors of the factorisation."""


def fit_ridge(examples: Examples) -> Linear:
    """Return the regression of the strength whose leave-one-out error is least."""
    vectors, labels = torch.from_numpy(examples.vectors).double(), torch.from_numpy(examples.labels).long()
    counts = torch.from_numpy(examples.counts).double()[labels]
    weights = len(labels) / (len(examples.classes) * counts)  # (n,), whose mean is 1
    roots = weights.sqrt()[:, None]
    targets = torch.zeros(len(labels), len(examples.classes), dtype=torch.double)
    targets[torch.arange(len(labels)), labels] = 1
    centre, mean = (weights[:, None] * vectors).mean(0), 1 / len(examples.classes)
    centred = roots * (vectors - centre)
    eigenvalues, directions = _factorise(centred)
    projected = directions.T @ (centred.T @ (roots * (targets - mean)))  # (r, K)
    left_out = _LeftOut(centred.float() @ directions.float(), eigenvalues, projected, targets, weights, counts)
    strength = float(eigenvalues.mean()) * left_out.best()
    weight = (directions @ (projected / (eigenvalues + strength)[:, None])).T
    scores = left_out.scores(strength).double()
    return Linear(weight, mean - weight @ centre, scores, counts > 1, "leave-one-out", strength)


class _LeftOut:
    """The scores of each example by the regression without it, for any strength.

    They choose the strength and the temperature, and float32 is enough for that: it takes half of the time.

    Args:
        coordinates: of the weighted examples along the directions, (n, r).
        eigenvalues: of the directions, (r,).
        projected: the targets along the directions, (r, K).
        targets: 1 for the class of an example, else 0, (n, K).
        weights: of the examples, (n,).
        counts: of the examples in the class of each, (n,).
    """

    def __init__(  # noqa: PLR0913, PLR0917 - each is a part of one factorisation
        self,
        coordinates: Tensor,
        eigenvalues: Tensor,
        projected: Tensor,
        targets: Tensor,
        weights: Tensor,
        counts: Tensor,
    ) -> None:
        self._coordinates, self._targets, self._weights = coordinates.float(), targets.float(), weights.float()
        self._squares = self._coordinates**2
        self._eigenvalues, self._projected = eigenvalues, projected
        self._answered = counts > 1
        self._share = (counts / (counts - 1).clamp_min(1)).float()
        self._own = targets.argmax(1, keepdim=True)

    def scores(self, strength: float) -> Tensor:
        """Return the scores, (n, K)."""
        count, classes = self._targets.shape
        shrinking = 1 / (self._eigenvalues + strength)
        leverage = (self._squares @ shrinking.float() + self._weights / count)[:, None]
        predicted = self._coordinates @ (self._projected * shrinking[:, None]).float()
        predicted = predicted / self._weights.sqrt()[:, None] + 1 / classes
        left_out = (predicted - leverage * self._targets) / (1 - leverage)
        # The class of the example had one fewer.
        return left_out.scatter(1, self._own, left_out.gather(1, self._own) * self._share[:, None])

    def best(self) -> float:
        """Return the strength whose error is least, as a multiple of the mean eigenvalue."""
        if not self._answered.any():
            return 1.0  # with one example of each class nothing can be left out; the middle is as good as any
        unit = float(self._eigenvalues.mean())
        return min(STRENGTHS, key=lambda multiple: self._error(unit * multiple))

    def _error(self, strength: float) -> float:
        squares = (self.scores(strength) - self._targets).square_().sum(1)
        return float((self._weights * squares)[self._answered].mean())


def _factorise(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (r,) and directions (D, r), from the smaller of both Gram matrices."""
    count, dim = centred.shape
    if count <= dim:
        eigenvalues, left = torch.linalg.eigh(centred @ centred.T)
        kept = eigenvalues > NEGLIGIBLE * eigenvalues[-1]
        return eigenvalues[kept], centred.T @ (left[:, kept] / eigenvalues[kept].sqrt())
    eigenvalues, directions = torch.linalg.eigh(centred.T @ centred)
    kept = eigenvalues > NEGLIGIBLE * eigenvalues[-1]
    return eigenvalues[kept], directions[:, kept]


def width_of(left_out: NDArray[np.float64], labels: NDArray[np.int32]) -> float:
    """Return the size of the regression's error: the standard deviation of the scores of wrong classes."""
    wrong = np.ones(left_out.shape, bool)
    wrong[np.arange(len(labels)), labels] = False
    return max(float(left_out[wrong].std()), SMALLEST_WIDTH)
