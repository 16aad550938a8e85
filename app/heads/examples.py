"""The examples of a head: what is kept of each labelled image is its vector, its file's name and a digest of its bytes.

Shapes: n examples, D numbers of a vector, K classes.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 16


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled vectors.

    vectors: (n, D) float32, each of length 1.
    labels: (n,) int32, indices into `classes`.
    classes: the names of the K classes, in the order in which they came.
    names: the name of each example's file, without its folder; empty if the client gave none.
    digests: of the bytes of each example's file, in hexadecimal; empty for vectors that came without their files.
    """

    vectors: NDArray[np.float32]
    labels: NDArray[np.int32]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    digests: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counts(self) -> NDArray[np.int64]:
        """The number of examples of each class, (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def with_more(self, other: "Examples") -> "Examples":
        """Return these examples and the other's; a class of the other that is new here comes after those of here."""
        classes = tuple(dict.fromkeys((*self.classes, *other.classes)))
        places = np.array([classes.index(name) for name in other.classes], np.int32)
        return Examples(
            np.concatenate([self.vectors, other.vectors]),
            np.concatenate([self.labels, places[other.labels]]),
            classes,
            (*self.names, *other.names),
            (*self.digests, *other.digests),
        )

    def first_places(self) -> list[int]:
        """Return the places of all examples but those whose file is in the same class before.

        A second copy would answer for the first one when that is left out, and leave-one-out would flatter the head.
        """
        known = [digest for digest in self.digests if digest]
        if len(set(known)) == len(known):
            return list(range(len(self)))
        seen: set[tuple[int, str]] = set()
        kept = []
        for place, (label, digest) in enumerate(zip(self.labels.tolist(), self.digests, strict=True)):
            if not digest or (label, digest) not in seen:
                kept.append(place)
            seen.add((label, digest))
        return kept

    def at(self, places: list[int]) -> "Examples":
        """Return the examples at these places; the classes stay."""
        if places == list(range(len(self))):
            return self
        return replace(
            self,
            vectors=self.vectors[places],
            labels=self.labels[places],
            names=tuple(self.names[place] for place in places),
            digests=tuple(self.digests[place] for place in places),
        )


def labelled(
    vectors: NDArray[np.float32], classes: list[str], names: list[str], digests: list[str], order: tuple[str, ...] = ()
) -> Examples:
    """Return examples from the class of each vector.

    Args:
        vectors: (n, D), of any length but 0; they are scaled to length 1.
        classes: the class of each.
        names: the name of each one's file.
        digests: of the bytes of each one's file.
        order: classes that come first; the others follow in the order in which they appear.
    """
    known = tuple(dict.fromkeys((*order, *classes)))
    index = {name: place for place, name in enumerate(known)}
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    scaled = (vectors / lengths).astype(np.float32)
    labels = np.array([index[name] for name in classes], np.int32)
    return Examples(scaled, labels, known, tuple(names), tuple(digests))


def digest(file: bytes) -> str:
    """Return the digest by which an example's file is recognised."""
    return hashlib.blake2b(file, digest_size=DIGEST_BYTES).hexdigest()
