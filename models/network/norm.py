"""The two normalisations of transformers, by a network's config."""

from torch import nn

from models.network.config import ViTConfig


def make_norm(config: ViTConfig, dim: int, present: bool = True) -> nn.Module:
    """Return the network's norm of vectors of width `dim`: (..., dim) -> (..., dim); if not present, the identity."""
    if not present:
        return nn.Identity()
    if config.norm_type == "rms":
        return nn.RMSNorm(dim, config.norm_eps)
    return nn.LayerNorm(dim, config.norm_eps)
