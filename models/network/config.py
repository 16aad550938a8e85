"""All that makes one Vision Transformer another, as a checkpoint says it."""

from dataclasses import dataclass
from typing import Literal

from models.network.pooling import Pool, pooled_width
from models.network.position import Grid, Resampling

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu"]


@dataclass(frozen=True)
class ViTConfig:
    """All that makes one Vision Transformer another.

    Biases that a family does not have are zeros in the weights, and position rows of prefix tokens are added to the
    tokens when a checkpoint is read, so neither needs an option here.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_hidden_dim: int
    patch_size: tuple[int, int]  # height, width in pixels
    grid_size: Grid  # of the position table
    position: Resampling
    class_token: bool = True
    num_extra_tokens: int = 0  # after [CLS]: distillation token, registers
    act: Activation = "gelu"
    swiglu: bool = False  # fc1 holds [gate; value] and its activation is silu(gate) * value
    norm_eps: float = 1e-6
    norm_pre: bool = False  # LayerNorm before the blocks (CLIP)
    qk_norm: bool = False
    layer_scale: bool = False
    norm: bool = True  # LayerNorm over all tokens after the blocks
    pool: Pool = "cls"  # what the head reads
    pool_layers: int = 1  # of how many last blocks it reads [CLS]
    pool_norm: bool = True  # whether it reads tokens after the final norm
    fc_norm: bool = False  # LayerNorm over the pooled vector
    projection_dim: int = 0  # a linear layer after that: CLIP's projection, a representation layer; 0: none
    projection_tanh: bool = False
    num_classes: int = 0  # 0: no head
    head_dist: bool = False  # a second head on the distillation token; the answer is the mean of both (DeiT)

    @property
    def num_prefix_tokens(self) -> int:
        """P: tokens that stand before the patch tokens."""
        return int(self.class_token) + self.num_extra_tokens

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return self.embed_dim // self.num_heads

    @property
    def pooled_dim(self) -> int:
        """The width of the pooled vector."""
        return self.embed_dim * pooled_width(self.pool, self.pool_layers)

    @property
    def native_dim(self) -> int:
        """F: the width of what the head reads."""
        return self.projection_dim or self.pooled_dim

    def grid(self, height: int, width: int) -> Grid:
        """The grid of patches of an image; pixels beyond the last whole patch are not seen."""
        return height // self.patch_size[0], width // self.patch_size[1]

    def num_tokens(self, height: int, width: int) -> int:
        """N: the tokens of an image, prefix tokens included."""
        h, w = self.grid(height, width)
        return self.num_prefix_tokens + h * w
