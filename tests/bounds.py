"""How equal is equal: in float32 by the docs of the HTTP contract, in bfloat16 by benchmarks/README.md."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def assert_equal_in_float32(ours: ArrayLike, reference: ArrayLike) -> None:
    """max|d| <= 1e-5 x max(1, max|reference|)."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape
    difference, bound = np.abs(ours - reference).max(), 1e-5 * max(1.0, np.abs(reference).max())
    assert difference <= bound, f"differs by {difference:.2e}, the bound is {bound:.2e}"


LEAST_COSINE = 0.9996
"""Of a vector in bfloat16 and the same in float32: below the least of those that benchmarks/README.md shows."""

LEAST_COSINE_TOGETHER = 0.9999
"""Of a vector in bfloat16 in a batch and alone, where sums are merely taken in another order."""

LENGTHS_APART = SCORES_APART = 0.01
"""Relative lengths of vectors, and probabilities, in bfloat16 and in float32."""


def assert_near(ours: ArrayLike, reference: ArrayLike, least: float = LEAST_COSINE) -> None:
    """Each row points the same way as the reference up to this cosine, and its length is the same up to a hundredth."""
    ours, reference = np.atleast_2d(np.asarray(ours, np.float64)), np.atleast_2d(np.asarray(reference, np.float64))
    assert ours.shape == reference.shape
    lengths, others = np.linalg.norm(ours, axis=-1), np.linalg.norm(reference, axis=-1)
    cosines = (ours * reference).sum(-1) / (lengths * others)
    assert cosines.min() >= least, f"the least cosine is {cosines.min():.6f}, the bound is {least}"
    apart = np.abs(lengths / others - 1).max()
    assert apart <= LENGTHS_APART, f"lengths differ by {apart:.1%}"


def differ(ours: ArrayLike, reference: ArrayLike) -> bool:
    """Whether two arrays differ by far more than rounding explains."""
    a: Any = np.asarray(ours, np.float64) - np.asarray(reference, np.float64)
    return bool(np.abs(a).max() > 1e-3)
