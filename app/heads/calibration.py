"""Scores to probabilities: the temperature of a head, and how well its probabilities are calibrated.

Shapes: n examples, K classes.
"""

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Of the expected calibration error; Guo et al. 2017 use as many."""

COLDEST, HOTTEST = 1e-3, 1e2
STEPS = 20
"""Halvings of the range of temperatures, five decades: to a hundred-thousandth."""

UNFITTED = 0.07
"""The temperature of cosines where nothing can be left out; DINO's k-NN protocol has it (Caron et al. 2021)."""

Array = NDArray[np.float64]


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
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)
    for _ in range(STEPS):
        middle = (low + high) / 2
        powers = np.exp(np.float32(np.exp(middle)) * logits)
        expected = np.mean(np.einsum("nk,nk->n", powers, logits) / powers.sum(1), dtype=np.float64)
        low, high = (low, middle) if expected > target else (middle, high)
    return float(np.exp(-(low + high) / 2))


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
