"""A reimplementation of Perception Encoder, for any grid of patches.

Sources: facebookresearch/perception_models, `core/vision_encoder/pe.py`, `rope.py` and `config.py`. It shares no code
with the network under test.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.checkpoints.reference import DEPTH, DIM, PATCH, Scale
from tests.checkpoints.rotary_reference import HEAD_DIM, attend

EPS = 1e-5
POOL_HEADS = 8


class Attention(nn.Module):
    """Attention with rotary positions and the parameters of torch's `MultiheadAttention`."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight, self.in_proj_bias = (
            nn.Parameter(torch.zeros(3 * DIM, DIM)),
            nn.Parameter(torch.zeros(3 * DIM)),
        )
        self.out_proj = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        return self.out_proj(attend(q, k, v, angles, interleaved=True))


def feed_forward(hidden: int) -> nn.Sequential:
    layers = nn.Sequential()
    layers.add_module("c_fc", nn.Linear(DIM, hidden))
    layers.add_module("gelu", nn.GELU())
    layers.add_module("c_proj", nn.Linear(hidden, DIM))
    return layers


class Block(nn.Module):
    def __init__(self, hidden: int, scaled: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(DIM, EPS), nn.LayerNorm(DIM, EPS)
        self.attn, self.mlp = Attention(), feed_forward(hidden)
        self.ls_1: nn.Module = Scale() if scaled else nn.Identity()
        self.ls_2: nn.Module = Scale() if scaled else nn.Identity()

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.ls_1(self.attn(self.ln_1(x), angles))
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class AttentionPooling(nn.Module):
    """A learned query that attends to all tokens, with heads of its own, and a feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, DIM))
        self.attn = nn.MultiheadAttention(DIM, POOL_HEADS, batch_first=True)
        self.layernorm, self.mlp = nn.LayerNorm(DIM, EPS), feed_forward(4 * DIM)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.attn(self.probe.expand(len(x), -1, -1), x, x, need_weights=False)[0]
        return (pooled + self.mlp(self.layernorm(pooled)))[:, 0]


class PerceptionEncoder(nn.Module):
    """The vision tower: core, or lang and spatial, which return all tokens without a final norm.

    Args:
        side: of the grid of the position embeddings, in patches.
        core: whether the tokens are pooled by attention and projected.
        cls: whether there is a [CLS] token; the largest networks have none.
        scaled: whether the blocks have layer scales.
        hidden: the width of the feed-forward.
    """

    def __init__(self, side: int, core: bool, cls: bool = True, scaled: bool = False, hidden: int = 4 * DIM) -> None:
        super().__init__()
        self.side, self.core, self.has_class = side, core, cls
        self.conv1 = nn.Conv2d(3, DIM, PATCH, PATCH, bias=False)
        if cls:
            self.class_embedding = nn.Parameter(torch.zeros(DIM))
        self.positional_embedding = nn.Parameter(torch.zeros(int(cls) + side**2, DIM))
        self.ln_pre = nn.LayerNorm(DIM, EPS)
        self.transformer = nn.Module()
        self.blocks = [Block(hidden, scaled) for _ in range(DEPTH)]
        self.transformer.resblocks = nn.ModuleList(self.blocks)
        if core:
            self.ln_post, self.attn_pool = nn.LayerNorm(DIM, EPS), AttentionPooling()
            self.proj = nn.Parameter(torch.zeros(DIM, 512))

    def positions(self, h: int, w: int) -> Tensor:
        """The position embeddings, resampled bilinearly without antialiasing: (P + h * w, D)."""
        if h == w == self.side:
            return self.positional_embedding
        prefix, table = self.positional_embedding.tensor_split([int(self.has_class)])
        table = table.unflatten(0, (self.side, self.side)).permute(2, 0, 1)[None]
        table = F.interpolate(table, size=(h, w), mode="bilinear", align_corners=False)
        return torch.cat([prefix, table[0].flatten(1).mT])

    def angles(self, h: int, w: int) -> Tensor:
        """The angles of each patch, columns before rows: (h * w, d / 2).

        They are not scaled to the size. [CLS] is at (0, 0), so that the first patch is at (1, 1) if there is one.
        """
        frequencies = 10_000.0 ** -(torch.arange(0, HEAD_DIM // 2, 2).double() / (HEAD_DIM // 2))
        first = int(self.has_class)
        places = [[column + first, row + first] for row in range(h) for column in range(w)]
        return (torch.tensor(places).double()[:, :, None] * frequencies).flatten(1)

    def read(self, pictures: Tensor) -> dict[str, Tensor]:
        x = self.conv1(pictures)
        h, w = x.shape[2:]
        x = x.flatten(2).mT
        if self.has_class:
            x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1)
        x, angles = self.ln_pre(x + self.positions(h, w)), self.angles(h, w)
        for block in self.blocks:
            x = block(x, angles)
        x = self.ln_post(x) if self.core else x
        read = {"cls": x[:, 0]} if self.has_class else {}
        if self.core:
            return read | {"native": self.attn_pool(x) @ self.proj}
        return read | {"mean": x[:, int(self.has_class) :].mean(1)}
