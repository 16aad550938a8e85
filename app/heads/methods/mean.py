"""The nearest class mean by cosine: the simplest head, which needs one example of each class.

Source: the nearest-class-mean classifier of Mensink et al. 2013, on vectors of length 1.
Shapes: n examples, D numbers of a vector, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from app.heads.examples import Examples
from app.heads.methods.linear import Linear


def fit_mean(examples: Examples) -> Linear:
    """Return the classifier whose weights are the directions of the class means."""
    centres, left_out, answered = leave_one_out(examples)
    return Linear(centres, torch.zeros(len(centres)), left_out, answered, "leave-one-out")


def leave_one_out(examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
    """Return the directions of the class means, and the cosines of each example with the means without it.

    Returns:
        (K, D) of length 1; (n, K), where the mean of an example's own class is that of the others in it; and (n,),
        whether there are others.
    """
    vectors, labels = torch.from_numpy(examples.vectors).double(), torch.from_numpy(examples.labels).long()
    sums = torch.zeros(len(examples.classes), vectors.shape[1], dtype=torch.double).index_add_(0, labels, vectors)
    centres = F.normalize(sums)
    cosines = vectors @ centres.T
    others = F.normalize(sums[labels] - vectors)
    cosines[torch.arange(len(labels)), labels] = (others * vectors).sum(1)
    return centres, cosines, torch.from_numpy(examples.counts)[labels] > 1
