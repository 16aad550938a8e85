"""The components of degenerate patches; those of images are in test_features.py."""

import numpy as np
import pytest

from app.errors import Problem
from app.features.components import Side, fit

SIDES: tuple[Side, ...] = ("positive", "negative")


def patches(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_equal_patches_have_no_variance_and_one_colour() -> None:
    tokens = np.ones((9, 9, 24), np.float32)
    basis = fit([tokens])
    coordinates = basis.coordinates(tokens)
    assert np.abs(coordinates.values).max() == 0
    assert len(np.unique(basis.colours(coordinates))) == 1
    assert basis.axes.explained.tolist() == [0, 0, 0]


def test_components_of_equal_size_fall_back_to_the_whole_decomposition() -> None:
    """Patches without a direction of their own: the eigenvalues are as close as random ones are."""
    tokens = patches((60, 60, 48))
    basis = fit([tokens], 16)
    rows = tokens.reshape(-1, 48).astype(np.float64)
    _, sizes, axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    np.testing.assert_allclose(basis.axes.explained, (sizes**2 / (sizes**2).sum())[:16], rtol=1e-5)
    # Each axis up to its sign.
    np.testing.assert_allclose(np.abs((axes[:16] * basis.axes.vectors).sum(1)), 1, atol=1e-6)
    assert (np.take_along_axis(basis.axes.vectors, np.abs(basis.axes.vectors).argmax(1)[:, None], 1) > 0).all()


def test_equal_tokens_have_equal_components() -> None:
    first, second = (fit([patches((20, 20, 32)), patches((5, 30, 32), 1)]) for _ in range(2))
    assert (first.axes.vectors == second.axes.vectors).all()


def test_a_mask_with_too_few_patches_is_told() -> None:
    tokens = patches((2, 2, 16))
    tokens[0, 0] += 100
    message = "mask=(positive|negative): 1 patches of 16 numbers have at most 0 components"
    with pytest.raises(Problem, match=message) as told:
        _ = [fit([tokens], 2, side) for side in SIDES]
    assert told.value.code == "invalid_parameter"
