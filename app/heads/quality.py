"""How good a head is, from answers to labelled vectors that it was fitted without.

Shapes: n examples, K classes.
"""

import numpy as np
from numpy.typing import NDArray

from app.heads.calibration import calibration_error
from app.heads.head import Quality

MOST_CONFUSIONS, MOST_SUSPECTS = 20, 20
"""How many are kept."""

SUSPICIOUS = 0.5
"""A label looks wrong if another class is the answer, with this probability or a higher one."""


def quality_of(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int32],
    answered: NDArray[np.bool_],
    by: str,
) -> Quality:
    """Return the quality by the probabilities (n, K) that examples have from fits without them.

    Args:
        probabilities: of each class.
        labels: (n,), the right classes; -1 for a class that the head does not have, which no answer can be right for.
        answered: (n,), whether an example has such an answer at all.
        by: where the answers come from.
    """
    classes = probabilities.shape[1]
    found = probabilities.argmax(1)
    right = found == labels
    recall = tuple(
        float(right[inside].mean()) if (inside := answered & (labels == number)).any() else None
        for number in range(classes)
    )
    known = answered.any()
    return Quality(
        by,
        int(answered.sum()),
        float(right[answered].mean()) if known else None,
        calibration_error(probabilities[answered], labels[answered]) if known else None,
        recall,
        _confusions(labels[answered & ~right], found[answered & ~right]),
        _suspects(probabilities, labels, answered & ~right & (labels >= 0)),
    )


def confusion_counts(labels: NDArray[np.int32], found: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Return (class, answer, number) of each pair that occurs, in the order of the classes."""
    pairs, counts = np.unique(np.stack([labels, found], 1), axis=0, return_counts=True)
    return [(int(label), int(answer), int(count)) for (label, answer), count in zip(pairs, counts, strict=True)]


def _confusions(labels: NDArray[np.int32], found: NDArray[np.int64]) -> tuple[tuple[int, int, int], ...]:
    if not len(labels):
        return ()
    return tuple(sorted(confusion_counts(labels, found), key=lambda one: -one[2])[:MOST_CONFUSIONS])


def _suspects(
    probabilities: NDArray[np.float32], labels: NDArray[np.int32], wrong: NDArray[np.bool_]
) -> tuple[tuple[int, int, float], ...]:
    places = np.flatnonzero(wrong & (probabilities.max(1) >= SUSPICIOUS))
    likelihood = probabilities[places, labels[places]]
    order = np.argsort(likelihood, kind="stable")[:MOST_SUSPECTS]
    return tuple((int(places[one]), int(probabilities[places[one]].argmax()), float(likelihood[one])) for one in order)
