"""Scores to probabilities: the temperature of a head, and how well its probabilities are calibrated.

Shapes: n examples, K classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Of the expected calibration error; Guo et al. 2017 use as many."""

COLDEST, HOTTEST = 1e-3, 1e2
STEPS, NEAR = 40, 1e-5
"""The most steps towards a temperature, and a relative change that is small enough to end."""

UNFITTED = 0.07
"""The temperature of cosines where nothing can be left out; DINO's k-NN protocol has it (Caron et al. 2021)."""

Array = NDArray[np.floating[Any]]


def fit_temperature(logits: Array, labels: NDArray[np.int32]) -> float:
    """Return the temperature of maximum likelihood, for logits (n, K) of examples that were left out of the fit.

    The log-likelihood is concave in 1 / temperature, so its derivative has one zero: the mean of the logits by the
    probabilities equals their mean by the targets. The targets are smoothed as Platt does (1999, section 2.2), with
    the weight of one more example: without it, examples that are all answered rightly would ask for a temperature of 0.
    """
    rows = np.arange(len(labels))
    logits = (logits - logits.max(1, keepdims=True)).astype(np.float32)
    smooth = 1 / (len(labels) + 2)
    target = np.mean((1 - smooth) * logits[rows, labels] + smooth * logits.mean(1), dtype=np.float64)
    low, high = 1 / HOTTEST, 1 / COLDEST
    inverse = 1.0
    for _ in range(STEPS):  # Newton's, kept within what is known to be too low and too high
        mean, variance = _moments(logits, inverse)
        low, high = (low, inverse) if mean > target else (inverse, high)
        found = inverse + (target - mean) / variance if variance > 0 else low
        if not low < found < high:
            found = float(np.sqrt(low * high))
        if abs(found - inverse) < NEAR * inverse:
            return float(1 / found)
        inverse = found
    return float(1 / inverse)


def _moments(logits: NDArray[np.float32], inverse: float) -> tuple[float, float]:
    """Return the means over the examples of the mean and of the variance of their logits by the probabilities."""
    powers = np.exp(np.float32(inverse) * logits)
    total = powers.sum(1)
    powers *= logits
    first = powers.sum(1) / total
    second = np.einsum("nk,nk->n", powers, logits) / total
    return float(np.mean(first, dtype=np.float64)), float(np.mean(second - first**2, dtype=np.float64))


def calibration_error(probabilities: NDArray[np.float32], labels: NDArray[np.int32]) -> float:
    """Return the expected calibration error: the mean distance of confidence and accuracy in bins of confidence."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    error = 0.0
    for number in range(BINS):
        inside = bins == number
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return float(error)
