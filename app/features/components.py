"""Principal components of patch tokens, as coordinates and as colours; several images share one basis.

Source: the notebook and figure 1 of DINOv2 (Oquab et al. 2023, arXiv 2304.07193): the first three components are red,
green and blue, and the sign of the first component separates the foreground from the background.

Shapes: h x w patches of an image, n patches of all images together, D embedding dimension, C components.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.errors import Problem

Tokens = NDArray[np.float32]
"""Patch tokens of an image: (h, w, D)."""

Array = NDArray[np.float64]
Side = Literal["positive", "negative"]

DEFAULT_COMPONENTS = 3

DARKEST, BRIGHTEST = 1, 99
"""Percentiles of a component that become 0 and 255, so that a single patch does not decide all colours."""

ROWS = 512
"""Patches whose products are added in float32; the sums of these are added in float64."""

EXTRA, ITERATIONS, PRECISION = 8, 60, 1e-9
"""Of the subspace: dimensions beyond the components, the most steps, and the residual relative to the first value."""


class Coordinates(NamedTuple):
    """An image in a basis.

    values: (h, w, C).
    foreground: which patches are not left out, (h, w).
    """

    values: NDArray[np.float32]
    foreground: NDArray[np.bool_]


@dataclass(frozen=True)
class Axes:
    """Principal axes: the mean of the patches (D,), unit vectors (C, D), and the share of the variance of each (C,)."""

    mean: Array
    vectors: Array
    explained: Array

    def project(self, tokens: Tokens) -> NDArray[np.float32]:
        """(..., D) -> (..., C)."""
        return (tokens - self.mean.astype(np.float32)) @ self.vectors.T.astype(np.float32)


@dataclass(frozen=True)
class Basis:
    """Axes that several images share, and how their coordinates become colours.

    axes: the components.
    low, high: the coordinates that are darkest and brightest, (C,) each.
    mask: the axis whose sign separates foreground and background, and the sign of the foreground; None: no mask.
    """

    axes: Axes
    low: Array
    high: Array
    mask: tuple[Axes, Side] | None = None

    def coordinates(self, tokens: Tokens) -> Coordinates:
        """Return an image in this basis."""
        values = self.axes.project(tokens)
        return Coordinates(values, _foreground(tokens, self.mask))

    def colours(self, coordinates: Coordinates) -> NDArray[np.uint8]:
        """Return the first three components as RGB (h, w, 3); of fewer than three, the first as grey."""
        span = np.maximum(self.high - self.low, 1e-12)
        relative = ((coordinates.values - self.low) / span).clip(0, 1)
        shown = relative[..., :3] if relative.shape[-1] >= 3 else relative[..., [0, 0, 0]]
        return np.asarray((255 * shown).round(), np.uint8)


def fit(images: Sequence[Tokens], components: int | None = None, side: Side | None = None) -> Basis:
    """Fit one basis to the patches of all images.

    Args:
        images: patch tokens of each image, (h, w, D), of any grids.
        components: C; None is 3.
        side: the sign of the first component that marks the foreground, to which the components are then fitted; None:
            fit them to all patches.

    Raises Problem if there are too few patches for so many components.
    """
    rows = [image.reshape(-1, image.shape[-1]) for image in images]
    components = components or DEFAULT_COMPONENTS
    mask = None
    if side is not None:
        mask = _fit(rows, 1, "mask"), side
        rows = [image[_foreground(image, mask)] for image in rows]
    axes = _fit(rows, components, f"components={components}" if mask is None else f"mask={side}")
    values = np.concatenate([axes.project(image) for image in rows])
    low, high = np.percentile(values, (DARKEST, BRIGHTEST), axis=0)
    return Basis(axes, low, high, mask)


def _foreground(tokens: Tokens, mask: tuple[Axes, Side] | None) -> NDArray[np.bool_]:
    """(..., D) -> (...)."""
    if mask is None:
        return np.ones(tokens.shape[:-1], np.bool_)
    axis, side = mask
    first = axis.project(tokens)[..., 0]
    return first > 0 if side == "positive" else first < 0


def _fit(rows: Sequence[Tokens], components: int, why: str) -> Axes:
    """Fit axes to the patches (n_i, D) of all images.

    The sign of a principal axis is arbitrary. Here its largest number is positive: equal tokens have equal axes.
    """
    count, dim = sum(len(image) for image in rows), rows[0].shape[1]
    if min(count - 1, dim) < components:
        detail = f"{count} patches of {dim} numbers have at most {max(0, min(count - 1, dim))} components"
        raise Problem("invalid_parameter", f"{why}: {detail}; a larger size has more patches")
    mean = sum((image.sum(0, dtype=np.float64) for image in rows), np.zeros(dim)) / count
    centred = [image - mean.astype(np.float32) for image in rows]
    if count < dim:
        both = np.concatenate(centred).astype(np.float64)
        variances, vectors = _leading(both @ both.T, components)  # (n, n) is the smaller matrix
        found, total = _unit(vectors @ both), np.square(both).sum()
    else:
        scatter = np.zeros((dim, dim))
        for part in (image[start : start + ROWS] for image in centred for start in range(0, len(image), ROWS)):
            scatter += part.T @ part
        variances, found = _leading(scatter, components)
        total = scatter.trace()
    largest = np.take_along_axis(found, np.abs(found).argmax(1, keepdims=True), 1)
    return Axes(mean, found * np.where(largest < 0, -1.0, 1.0), variances.clip(0) / max(float(total), 1e-300))


def _leading(matrix: Array, count: int) -> tuple[Array, Array]:
    """Return the largest eigenvalues (C,) and their eigenvectors (C, n) of a symmetric matrix (n, n), largest first.

    By subspace iteration with Rayleigh-Ritz steps from a fixed start (Saad 2011, chapter 5): a few products instead
    of the whole decomposition, so that the components cost little beside the forward pass. Where eigenvalues are too
    close for that to converge, the whole decomposition follows.
    """
    n = len(matrix)
    block = np.cos(np.outer(np.arange(1, n + 1), np.arange(1, min(n, count + EXTRA) + 1)))
    for _ in range(ITERATIONS):
        block, _ = np.linalg.qr(block)
        image = matrix @ block
        values, rotation = np.linalg.eigh(block.T @ image)
        values, rotation = values[::-1][:count], rotation[:, ::-1][:, :count]
        vectors = block @ rotation
        if np.linalg.norm(image @ rotation - vectors * values, axis=0).max() <= PRECISION * abs(values[0]):
            return values, vectors.T
        block = image
    values, vectors = np.linalg.eigh(matrix)
    return values[::-1][:count], vectors.T[::-1][:count]


def _unit(rows: Array) -> Array:
    """Scale each row to length 1; a row of zeros, of patches without variance, stays as it is."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
