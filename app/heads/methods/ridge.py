"""Ridge regression on one-hot targets, in closed form, with leave-one-out answers from the same factorisation.

The prediction that an example gets from a fit without it needs no other fit: it follows from the prediction with it and
the example's leverage (PRESS; Allen 1974). scikit-learn's RidgeCV does the same.

All classes weigh alike, however many examples they have: otherwise those with more would be preferred. For the same
reason the score of its own class is corrected for an example that is left out: that class then weighs less than others.

Shapes: n examples, D numbers of a vector, K classes, r = min(n, D) directions.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.heads.examples import Examples
from app.heads.methods.linear import Linear, every_few
from app.heads.methods.moments import Moments

STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(-4, 3))
"""Strengths to try, as multiples of the mean eigenvalue."""

MOST_JUDGES = 2500
"""Examples whose error chooses the strength: more would choose another one only where both are as good."""

ROWS, COLUMNS = 1024, 96
"""Of the blocks of a product with a triangular matrix: they fit into the cache of a core."""

FEW, GROWN = 2500, 1.05
"""A head of more examples keeps its strength until their number passes the next power of this factor."""

SMALLEST_WIDTH = 1e-6

NEGLIGIBLE = {torch.float64: 1e-9, torch.float32: 1e-6}
"""Directions with a smaller share of the largest eigenvalue are rounding errors of the factorisation."""


def fit_ridge(
    examples: Examples, moments: Moments | None = None, most: int | None = None, strength: float | None = None
) -> Linear:
    """Return the regression of the strength whose leave-one-out error is least.

    Args:
        examples: to fit.
        moments: kept from a fit of some of the same examples, which spares most of a pass over them.
        most: how many examples are answered by a fit without them, at most; None: all.
        strength: to use; None chooses it.
    """
    count, classes = len(examples), len(examples.classes)
    moments = moments or Moments()
    moments.update(examples)
    means = moments.sums / torch.from_numpy(examples.counts)[:, None]
    centre, mean = means.mean(0), 1 / classes
    targets = (means - centre) * (count / classes)  # (K, D)
    if strength is None or count <= len(centre):
        eigenvalues, directions = _factorise(examples, moments, centre)
        strength = strength or _choose(examples, centre, targets, eigenvalues, directions)
    if count <= len(centre):
        factor = directions / (eigenvalues + strength).sqrt()
    else:
        factor = _inverse_factor(_scatter(examples, moments, centre), strength)
    weight = (factor @ (factor.T @ targets.T)).T
    bias = mean - weight @ centre
    places = every_few(examples, most)
    predicted = (torch.from_numpy(examples.vectors)[places] @ weight.float().T).add_(bias.float())
    labels = _labels(examples)[places]
    left_out = _left_out(examples, labels, predicted, _spread(examples, places, centre, factor))
    answered = torch.from_numpy(examples.counts)[labels] > 1
    return Linear(weight, bias, left_out, answered, "leave-one-out", strength, places)


def kept_strength(strength: float | None, before: Examples, now: Examples) -> float | None:
    """Return the strength for examples of which some have another one; None where it is to be chosen anew.

    It grows with their number. It is chosen anew at certain numbers, so that it does not depend on how they came.
    """
    steps = [int(math.log(len(examples), GROWN)) for examples in (before, now)]
    if strength is None or len(before) <= FEW or steps[0] != steps[1] or before.classes != now.classes:
        return None
    return strength * len(now) / len(before)


def weights_of(examples: Examples) -> Tensor:
    """Return the weight of each example (n,): all classes weigh alike, and the mean is 1."""
    per_class = len(examples) / (len(examples.classes) * examples.counts)
    return torch.from_numpy(per_class[examples.labels])


def _choose(examples: Examples, centre: Tensor, targets: Tensor, eigenvalues: Tensor, directions: Tensor) -> float:
    """Return the strength whose leave-one-out error is least, for targets (K, D) and what `_factorise` returned."""
    judges = _Judges(examples, centre, eigenvalues, directions, directions.T @ targets.to(directions.dtype).T)
    return float(eigenvalues.mean()) * judges.best()


class _Judges:
    """The examples whose leave-one-out error chooses the strength: some of each class.

    They choose the strength alone, and float32 is enough for that: it takes half of the time.

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
        labels = _labels(examples)
        places = every_few(examples, MOST_JUDGES)
        places = places[torch.from_numpy(examples.counts)[labels[places]] > 1]
        self._examples, self._labels = examples, labels[places]
        self._coordinates = torch.from_numpy(examples.vectors)[places] @ directions.float()
        self._coordinates -= (centre @ directions.double()).float()
        self._squares = self._coordinates**2
        self._eigenvalues, self._projected = eigenvalues, projected
        self._weights = weights_of(examples).float()[places]

    def best(self) -> float:
        """Return the strength whose error is least, as a multiple of the mean eigenvalue."""
        if not len(self._labels):
            return 1.0  # with one example of each class nothing can be left out; the middle is as good as any
        unit = float(self._eigenvalues.mean())
        return min(STRENGTHS, key=lambda multiple: self._error(unit * multiple))

    def _error(self, strength: float) -> float:
        """Return the mean squared error of the scores."""
        shrinking = 1 / (self._eigenvalues + strength)
        predicted = self._coordinates @ (self._projected * shrinking[:, None]).float()
        predicted += 1 / predicted.shape[1]
        scores = _left_out(self._examples, self._labels, predicted, self._squares @ shrinking.float())
        squares = scores.scatter_add_(1, self._labels[:, None], torch.full_like(scores[:, :1], -1)).square_().sum(1)
        return float((self._weights * squares).mean())


def _labels(examples: Examples) -> Tensor:
    return torch.from_numpy(examples.labels).long()


def _left_out(examples: Examples, labels: Tensor, predicted: Tensor, spread: Tensor) -> Tensor:
    """Return the scores (m, K) of m of the examples by the regression without each, in the place of `predicted`.

    Args:
        examples: all of them.
        labels: of the m, (m,).
        predicted: their scores by the regression of all, (m, K) float32.
        spread: x^T A^-1 x of each one's distance x from the centre, (m,), where A is what the regression inverts.
    """
    counts = torch.from_numpy(examples.counts)[labels, None]
    weights = len(examples) / (len(examples.classes) * counts[:, 0])
    leverage = ((spread + 1 / len(examples)) * weights.float())[:, None]
    left_out = predicted.div_(1 - leverage)
    # An example's target is 1 for its class, which had one fewer.
    own = labels[:, None]
    without = (left_out.gather(1, own) - leverage / (1 - leverage)) * (counts / (counts - 1).clamp_min(1))
    return left_out.scatter_(1, own, without.float())


def _spread(examples: Examples, places: Tensor, centre: Tensor, factor: Tensor) -> Tensor:
    """Return x^T A^-1 x (m,) of the distance x of some examples from the centre, where A^-1 is F F^T, F (D, r).

    It is the largest product of a fit. Where F is square it is upper triangular, and half of its blocks are zero.
    """
    dim, rank = factor.shape
    middle, factor = (centre @ factor).float(), factor.float()
    vectors, spread = torch.from_numpy(examples.vectors), torch.zeros(len(places))
    for top in range(0, len(places), ROWS):
        rows, found = vectors[places[top : top + ROWS]], spread[top : top + ROWS]
        for left in range(0, rank, COLUMNS):
            right = left + COLUMNS
            last = right if rank == dim else dim
            along = rows[:, :last] @ factor[:last, left:right]
            found += along.sub_(middle[left:right]).square_().sum(1)
    return spread


def _inverse_factor(scatter: Tensor, strength: float) -> Tensor:
    """Return the upper triangular F whose product F F^T is the inverse of scatter + strength, (D, D) float64."""
    identity = torch.eye(len(scatter), dtype=scatter.dtype)
    lower = torch.linalg.cholesky(scatter + strength * identity)
    return torch.linalg.solve_triangular(lower, identity, upper=False).T


def _scatter(examples: Examples, moments: Moments, centre: Tensor) -> Tensor:
    """Return the weighted sum of x x^T over the distances x of the examples from the centre, (D, D)."""
    count, classes = len(examples), len(examples.classes)
    return count / classes * moments.second - count * torch.outer(centre, centre)


def _factorise(examples: Examples, moments: Moments, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (r,) and directions (D, r) of the weighted examples, from the smaller Gram matrix.

    Of more examples than judge them these are float32, in half of the time: they choose the strength alone.
    """
    count, dim = examples.vectors.shape
    if count <= dim:
        centred = weights_of(examples).sqrt()[:, None] * (torch.from_numpy(examples.vectors).double() - centre)
        eigenvalues, left = torch.linalg.eigh(centred @ centred.T)
        kept = eigenvalues > NEGLIGIBLE[eigenvalues.dtype] * eigenvalues[-1]
        return eigenvalues[kept], centred.T @ (left[:, kept] / eigenvalues[kept].sqrt())
    scatter = _scatter(examples, moments, centre)
    eigenvalues, directions = torch.linalg.eigh(scatter.float() if count > MOST_JUDGES else scatter)
    kept = eigenvalues > NEGLIGIBLE[eigenvalues.dtype] * eigenvalues[-1]
    return eigenvalues[kept], directions[:, kept]


def width_of(left_out: NDArray[np.floating[Any]], labels: NDArray[np.int32]) -> float:
    """Return the size of the regression's error: the standard deviation of the scores of wrong classes."""
    wrong = np.ones(left_out.shape, bool)
    wrong[np.arange(len(labels)), labels] = False
    return max(float(left_out[wrong].std()), SMALLEST_WIDTH)
