"""How equal is equal: docs of the HTTP contract, float32."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def assert_equal_in_float32(ours: ArrayLike, reference: ArrayLike) -> None:
    """max|d| <= 1e-5 x max(1, max|reference|)."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape
    difference, bound = np.abs(ours - reference).max(), 1e-5 * max(1.0, np.abs(reference).max())
    assert difference <= bound, f"differs by {difference:.2e}, the bound is {bound:.2e}"


def differ(ours: ArrayLike, reference: ArrayLike) -> bool:
    """Whether two arrays differ by far more than rounding explains."""
    a: Any = np.asarray(ours, np.float64) - np.asarray(reference, np.float64)
    return bool(np.abs(a).max() > 1e-3)
