"""Attention pooling: a learned query attends to the tokens of an image, followed by a feed-forward layer.

In: the packed tokens. Out: one vector per image, in packed order.
Knows nothing of the head.

Sources: the MAP head of google-research/big_vision `models/vit.py` (Zhai et al. 2021, arXiv 2106.04560), SigLIP (arXiv
2303.15343), Perception Encoder (arXiv 2504.13181); parameter names follow timm's `AttentionPoolLatent`. AIMv2 (arXiv
2411.14402) has the attention alone: its query is not projected, and no feed-forward layer follows.
Shapes: B images, T tokens of all images together, D embedding dimension, H heads of the pooling, d = D / H.
"""

import torch
from torch import Tensor, nn

from models.network.block import ACTIVATIONS
from models.network.config import ViTConfig
from models.network.kernels.attention import AttentionFunction, grouped_attention
from models.network.norm import make_norm
from models.network.packing import Packing


class AttentionPool(nn.Module):
    """Attention pooling: (T, D) -> (B, D).

    Without `pool_hidden_dim` the query is not projected, and the feed-forward is left out.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.num_heads = config.pool_heads
        self.skipped = 0 if config.pool_prefix else config.num_prefix_tokens
        self.attend: AttentionFunction = grouped_attention
        self.latent = nn.Parameter(torch.empty(dim))
        self.feeds_forward = bool(config.pool_hidden_dim)
        self.q: nn.Module = nn.Linear(dim, dim) if self.feeds_forward else nn.Identity()
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if self.feeds_forward:
            self.norm = make_norm(config, dim)
            self.fc1 = nn.Linear(dim, config.pool_hidden_dim)
            self.act = ACTIVATIONS[config.pool_act]
            self.fc2 = nn.Linear(config.pool_hidden_dim, dim)

    def fold(self) -> None:
        """Project the query once: it is the same for every image."""
        if isinstance(self.q, nn.Linear):
            # In float64, because a product with one vector depends in its last bit on where the weights lie in memory.
            weight, bias, latent = (each.double() for each in (self.q.weight, self.q.bias, self.latent))
            self.latent = nn.Parameter((weight @ latent + bias).to(self.latent.dtype), requires_grad=False)
            self.q = nn.Identity()

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """Pool the tokens of each image; the result is in packed order."""
        if self.skipped:
            x, packing = packing.trailing_tokens(x, self.skipped), packing.without_leading(self.skipped)
        images = len(packing.order)
        q = self.q(self.latent).unflatten(0, (self.num_heads, -1)).expand(images, -1, -1)  # (B, H, d)
        k, v = self.kv(x).unflatten(1, (2, self.num_heads, -1)).unbind(1)  # (T, H, d) each
        pooled = self.proj(self.attend(q, k, v, packing, packing.leading(1)))  # (B, D)
        return pooled + self.fc2(self.act(self.fc1(self.norm(pooled)))) if self.feeds_forward else pooled
