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
    answered = counts > 1
    weights = len(labels) / (len(examples.classes) * counts)  # (n,), whose mean is 1
    roots = weights.sqrt()[:, None]
    targets = torch.zeros(len(labels), len(examples.classes), dtype=torch.double)
    own = torch.arange(len(labels)), labels
    targets[own] = 1
    centre, mean = (weights[:, None] * vectors).mean(0), 1 / len(examples.classes)
    eigenvalues, directions, coordinates = _factorise(roots * (vectors - centre))
    projected = coordinates.T @ (roots * (targets - mean))  # (r, K)
    best: tuple[float, float, Tensor] | None = None
    # With one example of each class nothing can be left out; the middle of the strengths is as good as any.
    for multiple in STRENGTHS if answered.any() else (1.0,):
        strength = float(eigenvalues.mean()) * multiple
        shrunk = coordinates / (eigenvalues + strength)  # (n, r)
        leverage = (shrunk * coordinates).sum(1, keepdim=True) + weights[:, None] / len(labels)
        left_out = ((shrunk @ projected) / roots + mean - leverage * targets) / (1 - leverage)
        left_out[own] *= counts / (counts - 1).clamp_min(1)  # the class had one example fewer
        error = float((weights * ((left_out - targets) ** 2).sum(1))[answered].mean()) if answered.any() else 0.0
        if best is None or error < best[0]:
            best = error, strength, left_out
    assert best is not None  # noqa: S101 - there are strengths
    _, strength, left_out = best
    weight = (directions @ (projected / (eigenvalues + strength)[:, None])).T
    return Linear(weight, mean - weight @ centre, left_out, answered, "leave-one-out", strength)


def _factorise(centred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return eigenvalues (r,), directions (D, r) and coordinates (n, r), from the smaller of both Gram matrices."""
    count, dim = centred.shape
    if count <= dim:
        eigenvalues, left = torch.linalg.eigh(centred @ centred.T)
        kept = eigenvalues > NEGLIGIBLE * eigenvalues[-1]
        eigenvalues, left = eigenvalues[kept], left[:, kept]
        roots = eigenvalues.sqrt()
        return eigenvalues, centred.T @ (left / roots), left * roots
    eigenvalues, directions = torch.linalg.eigh(centred.T @ centred)
    kept = eigenvalues > NEGLIGIBLE * eigenvalues[-1]
    return eigenvalues[kept], directions[:, kept], centred @ directions[:, kept]


def width_of(left_out: NDArray[np.float64], labels: NDArray[np.int32]) -> float:
    """Return the size of the regression's error: the standard deviation of the scores of wrong classes."""
    wrong = np.ones(left_out.shape, bool)
    wrong[np.arange(len(labels)), labels] = False
    return max(float(left_out[wrong].std()), SMALLEST_WIDTH)
