"""What each method of fitting returns: a linear classifier, and its answers to examples that it was fitted without."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Linear:
    """A linear classifier of K classes, fitted from n examples of D numbers.

    weight, bias: (K, D), (K,): the scores of a vector are W x + b.
    left_out: (n, K), the scores of each example by a fit without it.
    answered: (n,), whether these say something: an example that is alone in its class has no such answer.
    by: how examples were left out, as in `Quality`.
    strength: of the regularisation that was chosen; None for a method without one.
    """

    weight: Tensor
    bias: Tensor
    left_out: Tensor
    answered: Tensor
    by: str
    strength: float | None = None
