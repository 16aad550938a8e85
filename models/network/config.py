"""The architecture of a Vision Transformer: everything that differs between the supported networks.

Filled from a checkpoint, read by the network. Knows nothing of either.
"""

from dataclasses import dataclass
from typing import Literal

from models.network.pooling import Pool, pooled_width
from models.network.positions.learned import Grid, Resampling
from models.network.positions.relative import Relative
from models.network.positions.rotary import Rotary
from models.network.positions.sincos import SinCos

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu"]
Norm = Literal["layer", "rms"]
"""layer: LayerNorm (Ba et al. 2016, arXiv 1607.06450). rms: RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467)."""


@dataclass(frozen=True)
class ViTConfig:
    """The architecture of one network.

    Two differences need no option, because reading a checkpoint removes them: a bias that a family lacks becomes zeros,
    and the position embeddings of prefix tokens are added to those tokens.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_hidden_dim: int
    patch_size: tuple[int, int]  # height, width in pixels
    grid_size: Grid  # that the network was trained on, and the size of the learned position embeddings: rows, columns
    position: Resampling | SinCos | None  # of the learned position embeddings, or computed ones; None: there are none
    rotary: Rotary | None = None  # rotation of queries and keys
    relative: Relative | None = None  # bias of the attention logits
    class_token: bool = True
    num_extra_tokens: int = 0  # prefix tokens after [CLS]: distillation token, registers
    act: Activation = "gelu"
    swiglu: bool = False  # gated feed-forward: fc1 outputs [gate; value], fc2 reads silu(gate) * value
    norm_type: Norm = "layer"  # of every norm
    norm_eps: float = 1e-6
    embed_norm: bool = False  # norm on the patches after their projection (AIMv2)
    norm_pre: bool = False  # norm before the blocks (CLIP)
    norm_post: bool = False  # the norms of a block follow attention and feed-forward, inside the residual branch
    qk_norm: bool = False  # norm on the queries and keys of each head
    attn_norm: bool = False  # norm before the output projection of attention
    mlp_norm: bool = False  # norm before the last layer of the feed-forward
    layer_scale: bool = False  # a learned factor per channel after attention and feed-forward
    norm: bool = True  # final norm, on all tokens after the blocks
    pool: Pool = "cls"  # what the head reads
    pool_layers: int = 1  # how many of the last blocks it reads [CLS] from
    pool_norm: bool = True  # whether pooling reads tokens after the final norm
    pool_prefix: bool = True  # whether attention pooling reads prefix tokens as well
    pool_heads: int = 0  # attention heads of the pooling, if `pool` is attention
    pool_hidden_dim: int = 0  # width of the feed-forward of that pooling; 0: none, and the query is not projected
    pool_act: Activation = "gelu"  # its activation
    fc_norm: bool = False  # norm on the pooled vector
    projection_dim: int = 0  # width of a linear layer after pooling (CLIP's projection, pre-logits); 0: none
    projection_tanh: bool = False  # tanh after that layer
    num_classes: int = 0  # 0: no head
    head_dist: bool = False  # second head on the distillation token; logits are the mean of both (DeiT)

    @property
    def num_prefix_tokens(self) -> int:
        """P: the number of tokens before the patch tokens."""
        return int(self.class_token) + self.num_extra_tokens

    @property
    def head_dim(self) -> int:
        """d: the width of an attention head."""
        return self.embed_dim // self.num_heads

    @property
    def pooled_dim(self) -> int:
        """The width of the vector that pooling returns."""
        return self.embed_dim * pooled_width(self.pool, self.pool_layers)

    @property
    def native_dim(self) -> int:
        """F: the width of the vector that the head reads."""
        return self.projection_dim or self.pooled_dim

    @property
    def blocks_share_places(self) -> bool:
        """Whether all blocks get the same positions, without a bias, and only the output of the last one is read."""
        learned = self.rotary is not None and self.rotary.learned
        return self.relative is None and not learned and self.pool_layers == 1 and self.depth > 1

    def grid(self, height: int, width: int) -> Grid:
        """Return the grid of patches (h, w) of an image; pixels beyond the last whole patch are ignored."""
        return height // self.patch_size[0], width // self.patch_size[1]

    def num_tokens(self, height: int, width: int) -> int:
        """Return N, the number of tokens of an image, prefix tokens included."""
        h, w = self.grid(height, width)
        return self.num_prefix_tokens + h * w
