"""The nearest class mean by cosine: the simplest head, which needs one example of each class.

Source: the nearest-class-mean classifier of Mensink et al. 2013, on vectors of length 1.
Shapes: n examples, D numbers of a vector, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from app.heads.examples import Examples
from app.heads.methods.linear import Linear, every_few
from app.heads.methods.moments import Moments

TINY = 1e-12


def fit_mean(
    examples: Examples, moments: Moments | None = None, most: int | None = None, _strength: float | None = None
) -> Linear:
    """Return the classifier whose weights are the directions of the class means.

    `moments` are those of a fit of some of the same examples. At most `most` examples are left out, or all.
    """
    moments = moments or Moments()
    moments.update(examples)
    places = every_few(examples, most)
    centres, left_out, answered = leave_one_out(examples, moments.sums, places)
    return Linear(centres, torch.zeros(len(centres)), left_out, answered, "leave-one-out", places=places)


def leave_one_out(examples: Examples, sums: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the directions of the class means, and the cosines of some examples with the means without them.

    `sums` are those of the vectors of each class, (K, D); `places` says which examples, (m,).

    Returns:
        (K, D) float64 of length 1; (m, K) float32, where the mean of an example's own class is that of the others in
        it; and (m,), whether there are others.
    """
    labels = torch.from_numpy(examples.labels).long()[places]
    products = torch.from_numpy(examples.vectors)[places] @ sums.float().T
    lengths = sums.norm(dim=1)
    # Of the others s - x: their product with x, and their length, follow from s x; x has the length 1.
    along = products.gather(1, labels[:, None])[:, 0].double()
    others = (lengths[labels] ** 2 - 2 * along + 1).clamp_min(TINY).sqrt()
    cosines = products.div_(lengths.clamp_min(TINY).float())
    cosines.scatter_(1, labels[:, None], ((along - 1) / others).float()[:, None])
    return F.normalize(sums), cosines, torch.from_numpy(examples.counts)[labels] > 1
