"""Fit a head: choose the weights, make probabilities of their scores, and say how good they are.

Shapes: n examples, D numbers of a vector, K classes.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.heads.calibration import UNFITTED, fit_temperature
from app.heads.examples import Examples
from app.heads.head import Head, Method, Quality, Space, logits_of, softmax
from app.heads.methods.linear import Linear
from app.heads.methods.logistic import fit_logistic
from app.heads.methods.mean import fit_mean, leave_one_out
from app.heads.methods.moments import Moments
from app.heads.methods.ridge import fit_ridge, kept_strength, width_of
from app.heads.quality import quality_of

FITS: dict[Method, Callable[[Examples, Moments, int | None, float | None], Linear]] = {
    "ridge": fit_ridge,
    "mean": fit_mean,
    "logistic": fit_logistic,
}

UNFITTED_POWER = 1 / 3
"""The temperature of a regression where nothing can be left out; it is near this one with more examples."""

SAME = 1e-6
"""Vectors that differ by less are the same."""


class CannotFit(Exception):
    """There are too few examples, or they do not differ; the message says what is needed."""


def fit(  # noqa: PLR0913, PLR0917 - the last three are for the service alone
    examples: Examples,
    space: Space,
    method: Method = "ridge",
    moments: Moments | None = None,
    most_left_out: int | None = None,
    before: Head | None = None,
) -> tuple[Head, NDArray[np.float32]]:
    """Return the head, and the probabilities (m, K) that m examples have from fits without them. Raises CannotFit.

    Args:
        examples: to fit.
        space: of their vectors.
        method: how to fit.
        moments: kept from fits before, and brought up to date: they spare work where most examples are the same.
        most_left_out: how many examples tell how good the head is, at most, but with `logistic`; None is all of them.
        before: the head that has grown to these examples, whose strength is kept while few are new.
    """
    check(examples, method)
    moments = moments or Moments()
    strength = kept_strength(before.strength, before.examples, examples) if before else None
    linear = FITS[method](examples, moments, most_left_out, strength)
    width, temperature, quality, likely = _judged(linear, examples, method)
    centres, reference = _reference(examples, moments, _places(linear, examples))
    head = Head(
        space=space,
        method=method,
        examples=examples,
        weight=linear.weight.float().numpy(),
        bias=linear.bias.float().numpy(),
        temperature=temperature,
        width=width,
        strength=linear.strength,
        calibrated=bool(linear.answered.any()),
        centres=centres,
        reference=reference,
        quality=quality,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return head, likely


def _judged(
    linear: Linear, examples: Examples, method: Method
) -> tuple[float | None, float, Quality, NDArray[np.float32]]:
    """Return the width of a regression's scores, the temperature, the quality, and the probabilities (m, K).

    All are by the m examples that were left out.
    """
    left_out, answered = linear.left_out.numpy(), linear.answered.numpy()
    places = _places(linear, examples).numpy()
    labels = examples.labels[places]
    width = width_of(left_out, labels) if method == "ridge" else None
    logits = logits_of(left_out, width)
    temperature = _temperature(logits, labels, answered, width)
    likely = softmax(logits, temperature)
    by = linear.by if len(places) == len(examples) else f"{linear.by} of {len(places)} examples"
    quality = quality_of(likely, labels, answered, by)
    suspects = tuple((int(places[row]), answer, likelihood) for row, answer, likelihood in quality.suspects)
    return width, temperature, replace(quality, suspects=suspects), likely


def check(examples: Examples, method: Method) -> None:
    """Raise CannotFit for examples that no head of this method can be fitted from."""
    needed = 2 if method == "logistic" else 1
    if len(examples.classes) < 2:
        given = f"there is only the class {examples.classes[0]!r}" if examples.classes else "there are no examples"
        raise CannotFit(f"a head needs two classes or more, and {given}")
    least = int(examples.counts.argmin())
    if (count := int(examples.counts[least])) < needed:
        wanted = "two images of each class or more" if needed == 2 else "an image of each class"
        raise CannotFit(f"the method {method!r} needs {wanted}, and {examples.classes[least]!r} has {count}")
    first, last = examples.vectors[0], examples.vectors[-1]
    if np.abs(last - first).max() < SAME and np.abs(examples.vectors - first).max() < SAME:
        raise CannotFit("all images have the same vector, so nothing tells the classes apart")


def measure(head: Head, vectors: NDArray[np.float32], classes: list[str]) -> tuple[Quality, NDArray[np.float32]]:
    """Return the quality of a head by other labelled vectors (n, D) of length 1, and their probabilities (n, K)."""
    index = {name: place for place, name in enumerate(head.classes)}
    labels = np.array([index.get(name, -1) for name in classes], np.int32)
    likely = head.probabilities(vectors)
    return quality_of(likely, labels, np.ones(len(labels), bool), "validation"), likely


def _temperature(
    logits: NDArray[np.floating[Any]], labels: NDArray[np.int32], answered: NDArray[np.bool_], width: float | None
) -> float:
    if not answered.any():
        return UNFITTED if width is None else UNFITTED_POWER
    return fit_temperature(logits[answered], labels[answered])


def _places(linear: Linear, examples: Examples) -> Tensor:
    """Return which examples were left out, (m,)."""
    return torch.arange(len(examples)) if linear.places is None else linear.places


def _reference(examples: Examples, moments: Moments, places: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the directions of the class means (K, D), and how far examples lie from the nearest without themselves.

    An example that is alone in its class has no such distance: the others say nothing of how far its class reaches.
    """
    moments.update(examples)
    centres, cosines, answered = leave_one_out(examples, moments.sums, places)
    distances = np.sort(1 - cosines.max(1).values[answered].numpy())
    return centres.float().numpy(), distances
