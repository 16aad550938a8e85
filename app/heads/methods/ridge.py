"""Ridge regression on one-hot targets, in closed form, with leave-one-out answers from the same factorisation.

The prediction that an example gets from a fit without it needs no other fit: it follows from the prediction with it and
the example's leverage (PRESS; Allen 1974). scikit-learn's RidgeCV does the same.

All classes weigh alike, however many examples they have: otherwise those with more would be preferred. For the same
reason the score of its own class is corrected for an example that is left out: that class then weighs less than others.

Shapes: n examples, D numbers of a vector, K classes, r = min(n, D) directions.
"""

from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.heads.examples import Examples
from app.heads.methods.linear import Linear
from app.heads.methods.moments import Moments

STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(-4, 3))
"""Strengths to try, as multiples of the mean eigenvalue."""

MOST_JUDGES = 2500
"""Examples whose error chooses the strength: more would choose another one only where both are as good."""

SMALLEST_WIDTH = 1e-6

NEGLIGIBLE = 1e-9
"""Directions with a smaller share of the largest eigenvalue are rounding errors of the factorisation."""


def fit_ridge(examples: Examples, moments: Moments | None = None) -> Linear:
    """Return the regression of the strength whose leave-one-out error is least.

    Args:
        examples: to fit.
        moments: kept from a fit of some of the same examples, which spares most of a pass over them.
    """
    count, classes = len(examples), len(examples.classes)
    moments = moments or Moments()
    moments.update(examples)
    means = moments.sums / torch.from_numpy(examples.counts)[:, None]
    centre, mean = means.mean(0), 1 / classes
    eigenvalues, directions = _factorise(examples, moments, centre)
    projected = directions.T @ (means - centre).T * (count / classes)  # (r, K)
    left_out = _LeftOut(examples, centre, eigenvalues, directions, projected)
    strength = float(eigenvalues.mean()) * left_out.best()
    weight = (directions @ (projected / (eigenvalues + strength)[:, None])).T
    answered = torch.from_numpy(examples.counts[examples.labels] > 1)
    bias = mean - weight @ centre
    return Linear(weight, bias, left_out.scores(strength), answered, "leave-one-out", strength)


def weights_of(examples: Examples) -> Tensor:
    """Return the weight of each example (n,): all classes weigh alike, and the mean is 1."""
    per_class = len(examples) / (len(examples.classes) * examples.counts)
    return torch.from_numpy(per_class[examples.labels])


class _LeftOut:
    """The scores of each example by the regression without it, for any strength.

    They choose the strength and the temperature, and float32 is enough for that: it takes half of the time.

    Args:
        examples: n examples.
        centre: their mean, (D,).
        eigenvalues: of the directions, (r,).
        directions: of the factorisation, (D, r).
        projected: the targets along the directions, (r, K).
    """

    def __init__(
        self, examples: Examples, centre: Tensor, eigenvalues: Tensor, directions: Tensor, projected: Tensor
    ) -> None:
        self._coordinates = torch.from_numpy(examples.vectors) @ directions.float()
        self._coordinates -= (centre @ directions).float()
        self._squares = self._coordinates**2
        self._eigenvalues, self._projected = eigenvalues, projected
        self._weights = weights_of(examples).float()
        self._labels = torch.from_numpy(examples.labels).long()
        self._counts, self._count = torch.from_numpy(examples.counts), len(examples)

    def at(self, places: Tensor) -> "_LeftOut":
        """Return the same for the examples at these places alone."""
        some = copy(self)
        some._coordinates, some._squares = self._coordinates[places], self._squares[places]
        some._weights, some._labels = self._weights[places], self._labels[places]
        return some

    def scores(self, strength: float) -> Tensor:
        """Return the scores, (n, K)."""
        shrinking = 1 / (self._eigenvalues + strength)
        leverage = (self._squares @ shrinking.float()).add_(1 / self._count).mul_(self._weights)[:, None]
        predicted = self._coordinates @ (self._projected * shrinking[:, None]).float()
        predicted += 1 / predicted.shape[1]
        left_out = predicted.div_(1 - leverage)
        # An example's target is 1 for its class, which had one fewer.
        own, counts = self._labels[:, None], self._counts[self._labels, None]
        without = (left_out.gather(1, own) - leverage / (1 - leverage)) * (counts / (counts - 1).clamp_min(1))
        return left_out.scatter_(1, own, without.float())

    def best(self) -> float:
        """Return the strength whose error is least, as a multiple of the mean eigenvalue."""
        places = self._judges()
        if not len(places):
            return 1.0  # with one example of each class nothing can be left out; the middle is as good as any
        judges, unit = self.at(places), float(self._eigenvalues.mean())
        return min(STRENGTHS, key=lambda multiple: judges.error(unit * multiple))

    def error(self, strength: float) -> float:
        """Return the mean squared error of the scores."""
        own, scores = self._labels[:, None], self.scores(strength)
        squares = scores.scatter_add_(1, own, torch.full_like(scores[:, :1], -1)).square_().sum(1)
        return float((self._weights * squares).mean())

    def _judges(self) -> Tensor:
        """Return the places of those that choose the strength: of many examples every second, third, ... of a class."""
        order = torch.argsort(self._labels, stable=True)
        order = order[self._counts[self._labels[order]] > 1]
        return order[:: -(-len(order) // MOST_JUDGES)] if len(order) else order


def _factorise(examples: Examples, moments: Moments, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (r,) and directions (D, r) of the weighted examples, from the smaller Gram matrix."""
    count, dim = examples.vectors.shape
    if count <= dim:
        centred = weights_of(examples).sqrt()[:, None] * (torch.from_numpy(examples.vectors).double() - centre)
        eigenvalues, left = torch.linalg.eigh(centred @ centred.T)
        kept = eigenvalues > NEGLIGIBLE * eigenvalues[-1]
        return eigenvalues[kept], centred.T @ (left[:, kept] / eigenvalues[kept].sqrt())
    classes = len(examples.classes)
    eigenvalues, directions = torch.linalg.eigh(count / classes * moments.second - count * torch.outer(centre, centre))
    kept = eigenvalues > NEGLIGIBLE * eigenvalues[-1]
    return eigenvalues[kept], directions[:, kept]


def width_of(left_out: NDArray[np.floating[Any]], labels: NDArray[np.int32]) -> float:
    """Return the size of the regression's error: the standard deviation of the scores of wrong classes."""
    wrong = np.ones(left_out.shape, bool)
    wrong[np.arange(len(labels)), labels] = False
    return max(float(left_out[wrong].std()), SMALLEST_WIDTH)
