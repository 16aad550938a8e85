"""Cosine similarity of patches.

Shapes: h x w patches of an image, D embedding dimension.
"""

from typing import cast

import numpy as np
from numpy.typing import NDArray

from app.errors import Problem


def unit(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each token to length 1: (..., D) -> (..., D)."""
    lengths = np.linalg.norm(tokens, axis=-1, keepdims=True)
    return np.asarray(tokens / np.maximum(lengths, 1e-12), np.float32)


def of_patch(tokens: NDArray[np.float32], place: tuple[int, int]) -> NDArray[np.float32]:
    """Return the cosine of each patch (h, w, D) to the one in this row and column: (h, w). Raises Problem."""
    return similarity(tokens, chosen(tokens, place))


def chosen(tokens: NDArray[np.float32], place: tuple[int, int]) -> NDArray[np.float32]:
    """Return the patch (D,) in a row and column, counted from 0. Raises Problem if there is none."""
    h, w, _ = tokens.shape
    row, column = place
    if row >= h or column >= w:
        detail = f"the image has the rows 0 to {h - 1} and the columns 0 to {w - 1} of patches"
        raise Problem("invalid_parameter", f"patch={row},{column}: {detail}")
    return cast(NDArray[np.float32], tokens[row, column])


def similarity(tokens: NDArray[np.float32], patch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of each patch (h, w, D) to one patch (D,): (h, w), from -1 to 1."""
    return np.asarray((unit(tokens) @ unit(patch)).clip(-1, 1), np.float32)
