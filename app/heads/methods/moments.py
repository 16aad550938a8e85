"""The sums and second moments of classes: what a regression needs of the examples, and cheap to bring up to date.

A head that gets some more examples has the moments of before but for those of the classes that have changed.

Shapes: n examples, D numbers of a vector, K classes.
"""

import numpy as np
import torch

from app.heads.examples import Examples

ROWS, COLUMNS = 1024, 96
"""Of the blocks of a sum of products: they fit into the cache of a core."""


class Moments:
    """The moments of examples, kept for the next ones. One thread uses it.

    sums: (K, D) float64, of the vectors of each class.
    second: (D, D) float64, the sum over the classes of the mean of x xT.
    """

    def __init__(self) -> None:
        self._seen: Examples | None = None
        self.sums = self.second = torch.zeros(0, 0, dtype=torch.double)

    def update(self, examples: Examples) -> None:
        """Become the moments of these examples; those that were there before, in the same order, cost nothing."""
        if examples is self._seen:
            return
        before = self._seen if self._seen is not None and _begins_with(examples, self._seen) else None
        start = 0 if before is None else len(before)
        dim, classes = examples.vectors.shape[1], len(examples.classes)
        sums = torch.zeros(classes, dim, dtype=torch.double)
        if before is None:
            self.sums, self.second = _from_all(examples, sums)
        else:
            sums[: len(self.sums)] = self.sums
            second = self.second.clone()
            for label in np.unique(examples.labels[start:]).tolist():
                places = np.flatnonzero(examples.labels == label)
                own = torch.from_numpy(examples.vectors[places]).double()
                known = own[: int((places < start).sum())]
                second += own.T @ own / len(own)
                if len(known):
                    second -= known.T @ known / len(known)
                sums[label] = own.sum(0)
            self.sums, self.second = sums, second
        self._seen = examples


def _from_all(examples: Examples, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums, added to zeros, and the second moments; of many examples these are computed by halves."""
    vectors, labels = torch.from_numpy(examples.vectors), torch.from_numpy(examples.labels).long()
    scales = torch.from_numpy(examples.counts).double().rsqrt()[labels, None]
    dim = vectors.shape[1]
    if len(vectors) <= dim:
        scaled = vectors.double()
        sums.index_add_(0, labels, scaled)
        scaled *= scales
        return sums, scaled.T @ scaled
    second = torch.zeros(dim, dim, dtype=torch.double)
    for top in range(0, len(vectors), ROWS):
        rows = slice(top, top + ROWS)
        some = vectors[rows].double()
        sums.index_add_(0, labels[rows], some)
        some *= scales[rows]
        for left in range(0, dim, COLUMNS):
            right = left + COLUMNS
            second[:right, left:right].addmm_(some[:, :right].T, some[:, left:right])
    return sums, second.triu() + second.triu(1).T


def _begins_with(examples: Examples, before: Examples) -> bool:
    count, classes = len(before), len(before.classes)
    return (
        count <= len(examples)
        and examples.classes[:classes] == before.classes
        and np.array_equal(examples.labels[:count], before.labels)
        and np.array_equal(examples.vectors[:count], before.vectors)
    )
