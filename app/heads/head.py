"""A fitted head: vectors to probabilities, how far a vector lies from everything seen, and the nearest examples.

Shapes: n vectors, D numbers of a vector, K classes, m examples.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from app.heads.examples import Examples

Method = Literal["ridge", "mean", "logistic"]
METHODS: tuple[Method, ...] = ("ridge", "mean", "logistic")

Vectors = NDArray[np.float32]

FAR = 20.0
"""log(1 + exp(-x)) differs from exp(-x) by less than float32 tells, from here on."""


@dataclass(frozen=True)
class Space:
    """The vectors that a head reads. A head is right for no others.

    model: the name of the network.
    fingerprint: of the vectors, as the header Vitrine-Fingerprint of /embed gives it: weights, preprocessing, pool,
        size, dtype.
    dtype: that the network computed in; it is part of the fingerprint, and here for people.
    pool: cls, mean or native.
    size, resize, max_patches: the resolution that was asked for; None is the checkpoint's own.
    """

    model: str
    fingerprint: str
    dtype: str
    pool: str
    size: tuple[int, int] | None = None
    resize: str | None = None
    max_patches: int | None = None


@dataclass(frozen=True)
class Quality:
    """How good a head is, by answers to examples that it was fitted without.

    by: `leave-one-out`, `leave-one-out of m examples`, `held out in k parts`, or `validation`.
    answered: the number of examples that have such an answer: those of classes with one example have none.
    accuracy: the share of them whose class is the best one; None if there are none.
    calibration_error: the expected calibration error in 15 bins (Guo et al. 2017, arXiv 1706.04599); None likewise.
    recall: for each class the share of its own examples that are answered by it; None for a class without answers.
    confusions: the most frequent wrong answers: (class, answer, number).
    suspects: examples that look mislabelled, least likely first: (place, class that is likelier, probability of the
        label given all other examples).
    """

    by: str
    answered: int
    accuracy: float | None
    calibration_error: float | None
    recall: tuple[float | None, ...]
    confusions: tuple[tuple[int, int, int], ...] = ()
    suspects: tuple[tuple[int, int, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Head:
    """A classifier of vectors.

    weight, bias: (K, D), (K,): the scores of a vector are W x + b.
    temperature: what the scores, or their logarithms, are divided by before the softmax.
    width: of the softplus that makes the scores of a regression positive; None where scores are used as they are.
    strength: of the regularisation, chosen among several; None where there is none.
    centres: (K, D), the direction of the mean of each class, of length 1.
    reference: sorted, how far the examples or some of them lie from the nearest class without themselves; may be empty.
    created: when it was fitted, in ISO 8601.
    """

    space: Space
    method: Method
    examples: Examples
    weight: Vectors
    bias: Vectors
    temperature: float
    width: float | None
    strength: float | None
    calibrated: bool
    centres: Vectors
    reference: Vectors
    quality: Quality
    created: str
    number: int = field(default=0)
    """How many times a head of this name was written, this time included; 0 for one that has no name."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the scores."""
        return self.examples.classes

    @cached_property
    def version(self) -> str:
        """The number and a digest of all that decides an answer, such as `3-5f0c66c1a2b9`."""
        parts = (self.space, self.classes, self.temperature, self.width, self.examples.digests)
        digest = hashlib.blake2b(repr(parts).encode(), digest_size=6)
        arrays = (self.weight, self.bias, self.centres, self.reference, self.examples.vectors, self.examples.labels)
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data)
        return f"{self.number}-{digest.hexdigest()}"

    @property
    def held_bytes(self) -> int:
        """The memory that it takes, near enough."""
        arrays = (self.weight, self.centres, self.examples.vectors, self.reference)
        return sum(array.nbytes for array in arrays) + 128 * len(self.examples)

    def probabilities(self, vectors: Vectors) -> Vectors:
        """Return the probability of each class, (n, K), for vectors (n, D) of length 1."""
        return probabilities(vectors @ self.weight.T + self.bias, self.temperature, self.width)

    def distances(self, vectors: Vectors) -> list[float | None]:
        """Return for each vector the share of the head's own examples that lie farther from their nearest class.

        Near 0, the vector is unlike everything that the head has seen; this is the p-value of a conformal test
        (Vovk et al. 2005). None if no example has a distance of its own, because each is alone in its class.
        """
        if not len(self.reference):
            return [None] * len(vectors)
        found = 1 - (vectors @ self.centres.T).max(1)
        farther = len(self.reference) - np.searchsorted(self.reference, found, side="right")
        return [float(count) / len(self.reference) for count in farther]

    def nearest(self, vector: Vectors, label: int, count: int) -> list[dict[str, Any]]:
        """Return the nearest examples of a class: the name and digest of the file, and the cosine."""
        places = np.flatnonzero(self.examples.labels == label)
        cosines = self.examples.vectors[places] @ vector
        best = np.argsort(-cosines, kind="stable")[:count]
        return [
            {
                "name": self.examples.names[places[one]],
                "digest": self.examples.digests[places[one]],
                "cosine": float(cosines[one]),
            }
            for one in best
        ]


def probabilities(scores: NDArray[Any], temperature: float, width: float | None) -> Vectors:
    """Return the softmax of the logits of scores (n, K) over the temperature."""
    return softmax(logits_of(scores, width), temperature)


def logits_of(scores: NDArray[Any], width: float | None) -> NDArray[Any]:
    """Return the scores (n, K) as they are or, with a width, the logarithms of those of a regression.

    A ridge regression on one-hot targets estimates the probability of each class, with an error that makes some
    estimates negative. A softplus whose width is the size of that error makes them positive.
    """
    return scores if width is None else log_softplus(scores / scores.dtype.type(width))


def softmax(logits: NDArray[Any], temperature: float) -> Vectors:
    """Return the softmax of logits (n, K) over the temperature."""
    scaled = logits / logits.dtype.type(temperature)
    scaled -= scaled.max(1, keepdims=True)
    powers = np.exp(scaled, out=scaled)
    powers /= powers.sum(1, keepdims=True)
    return powers.astype(np.float32, copy=False)


def log_softplus(values: NDArray[Any]) -> NDArray[Any]:
    """Return log(log(1 + exp(x))), which is x itself far below 0."""
    given = torch.from_numpy(values)
    return torch.where(given < -FAR, given, F.softplus(given.clamp_min(-FAR)).log_()).numpy()
