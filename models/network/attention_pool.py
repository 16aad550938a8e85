"""Attention pooling: a learned query attends to all tokens of an image, followed by a feed-forward layer.

In: the packed tokens. Out: one vector per image, in packed order.
Knows nothing of the head.

Sources: the MAP head of google-research/big_vision `models/vit.py` (Zhai et al. 2021, arXiv 2106.04560), SigLIP (arXiv
2303.15343), Perception Encoder (arXiv 2504.13181); parameter names follow timm's `AttentionPoolLatent`.
Shapes: B images, T tokens of all images together, D embedding dimension, H heads of the pooling, d = D / H.
"""

import torch
from torch import Tensor, nn

from models.network.block import ACTIVATIONS
from models.network.config import ViTConfig
from models.network.kernels import AttentionFunction, grouped_attention
from models.network.norm import make_norm
from models.network.packing import Packing


class AttentionPool(nn.Module):
    """Attention pooling: (T, D) -> (B, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.num_heads = config.pool_heads
        self.attend: AttentionFunction = grouped_attention
        self.latent = nn.Parameter(torch.empty(dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = make_norm(config, dim)
        self.fc1 = nn.Linear(dim, config.pool_hidden_dim)
        self.act = ACTIVATIONS[config.pool_act]
        self.fc2 = nn.Linear(config.pool_hidden_dim, dim)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """Pool the tokens of each image; the result is in packed order."""
        images = len(packing.order)
        # Not as a product of a matrix and a vector: how that is rounded depends on where the weights lie in memory.
        query = (self.q.weight * self.latent).sum(1) + self.q.bias
        q = query.unflatten(0, (self.num_heads, -1)).expand(images, -1, -1)  # (B, H, d)
        k, v = self.kv(x).unflatten(1, (2, self.num_heads, -1)).unbind(1)  # (T, H, d) each
        pooled = self.proj(self.attend(q, k, v, packing, packing.leading(1)))  # (B, D)
        return pooled + self.fc2(self.act(self.fc1(self.norm(pooled))))
