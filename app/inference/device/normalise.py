"""Pixels to the network's input, on the device."""

import torch
from torch import Tensor

from models.preprocess import Preprocess


class Normaliser:
    """Computes (x / 255 - mean) / std as one product and one sum, in float32 whatever the network's dtype is.

    Args:
        preprocess: with the mean and the standard deviation of each channel.
        device: of the pixels.
        dtype: that the network reads pixels in.
    """

    def __init__(self, preprocess: Preprocess, device: torch.device, dtype: torch.dtype) -> None:
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preprocess.mean, preprocess.std))
        self._dtype = dtype
        self._scale = (1 / (255 * std)).float().to(device)[:, None, None]
        self._shift = (-mean / std).float().to(device)[:, None, None]

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the network's input: (n, 3, height, width), uint8; float32 is normalised already."""
        if batch.dtype == torch.float32:
            return batch.to(self._dtype)
        return torch.addcmul(self._shift, batch.float(), self._scale).to(self._dtype)
