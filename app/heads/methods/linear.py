"""What each method of fitting returns: a linear classifier, and its answers to examples that it was fitted without."""

from dataclasses import dataclass

import torch
from torch import Tensor

from app.heads.examples import Examples


@dataclass(frozen=True)
class Linear:
    """A linear classifier of K classes, fitted from n examples of D numbers.

    weight, bias: (K, D), (K,): the scores of a vector are W x + b.
    left_out: (m, K), the scores of each of m examples by a fit without it.
    answered: (m,), whether these say something: an example that is alone in its class has no such answer.
    by: how examples were left out, as in `Quality`.
    strength: of the regularisation that was chosen; None for a method without one.
    places: which examples the m are, (m,); None: all of them.
    """

    weight: Tensor
    bias: Tensor
    left_out: Tensor
    answered: Tensor
    by: str
    strength: float | None = None
    places: Tensor | None = None


def every_few(examples: Examples, most: int | None) -> Tensor:
    """Return the places of all examples or, of more than `most`, the first and then every few of each class."""
    count = len(examples)
    if most is None or count <= most:
        return torch.arange(count)
    order = torch.argsort(torch.from_numpy(examples.labels), stable=True)
    sizes = torch.from_numpy(examples.counts)
    rank = torch.arange(count) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)  # of each within its class
    kept = (rank == 0) | ((rank + 1) * most // count > rank * most // count)
    return order[kept].sort().values
