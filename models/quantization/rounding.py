"""Round weights to 8 bits, so that the outputs of a layer change as little as possible.

Source: GPTQ (Frantar et al. 2023, arXiv 2210.17323): the columns are rounded one after the other, those with large
inputs first, and the error of each is taken up by those that are not rounded yet.
Shapes: F outputs, D inputs.
"""

import torch
from torch import Tensor

from models.network.kernels.quantized import LARGEST_WEIGHT

DAMPING = 0.01
"""Share of the mean square of the inputs that is added to each, so that their matrix has an inverse."""

COLUMNS = 64
"""How many columns are rounded before the error goes to all others."""


def weight_scales(weight: Tensor) -> Tensor:
    """Return the scale of each output: (F, D) -> (F,)."""
    return weight.abs().amax(1).clamp(min=1e-12) / LARGEST_WEIGHT


def nearest(weight: Tensor, scales: Tensor) -> Tensor:
    """Return the nearest whole numbers: (F, ...), (F,) -> float (F, ...)."""
    scales = scales.reshape(-1, *[1] * (weight.dim() - 1))
    return (weight / scales).round().clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT)


@torch.inference_mode()
def round_weights(weight: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rounded weights, int8 (F, D), and the scale of each output, (F,).

    Args:
        weight: (F, D).
        products: (D, D), the sum of x x^T over the inputs.
    """
    scales = weight_scales(weight)
    square = products.double()
    square += torch.eye(len(square)) * (DAMPING * square.diagonal().mean() + 1e-12)
    order = square.diagonal().argsort(descending=True)
    upper = torch.linalg.cholesky(
        torch.cholesky_inverse(torch.linalg.cholesky(square[order][:, order])), upper=True
    ).float()
    left = weight[:, order].clone()
    whole = torch.empty_like(left)
    for start in range(0, left.shape[1], COLUMNS):
        chosen = slice(start, start + COLUMNS)
        few, errors = left[:, chosen], []
        for column in range(few.shape[1]):
            inverse = upper[start + column, chosen]
            whole[:, start + column] = number = nearest(few[:, column], scales)
            error = (few[:, column] - number * scales) / inverse[column]
            few[:, column + 1 :] -= error[:, None] * inverse[column + 1 :]
            errors.append(error)
        left[:, start + COLUMNS :] -= torch.stack(errors, 1) @ upper[chosen, start + COLUMNS :]
    rounded = torch.empty_like(whole)
    rounded[:, order] = whole
    return rounded.to(torch.int8), scales
