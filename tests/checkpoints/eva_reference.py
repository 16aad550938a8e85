"""A reimplementation of EVA-02: one network for each image size, as its authors fine-tune it for another one.

Sources: baaivision/EVA, `EVA-02/asuka/modeling_finetune.py`, `rope.py` and `run_class_finetuning.py`, and
`EVA-CLIP/rei/eva_clip/eva_vit_model.py`. It shares no code with the network under test.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.checkpoints.reference import DEPTH, DIM, HEADS, PATCH, SIDE, PatchEmbed, SwiGLU
from tests.checkpoints.rotary_reference import SplitSwiGLU

EPS = 1e-6
HEAD_DIM = DIM // HEADS
HIDDEN = int(DIM * 4 * 2 / 3)
PRETRAINED_SIDE = 16
"""The grid of pre-training, in patches: `pt_hw_seq_len`."""


class Rope(nn.Module):
    """Rotary positions of a square grid, scaled to the grid of pre-training; `VisionRotaryEmbeddingFast`."""

    freqs_cos: Tensor  # (side^2, d)
    freqs_sin: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        frequencies = 10_000.0 ** -(torch.arange(0, HEAD_DIM // 2, 2) / (HEAD_DIM // 2))
        of_axis = (torch.arange(side) / side * PRETRAINED_SIDE)[:, None] * frequencies  # (side, d / 4)
        of_axis = of_axis.repeat_interleave(2, 1)  # (side, d / 2): a pair of channels has one angle
        rows, columns = of_axis[:, None].expand(-1, side, -1), of_axis[None].expand(side, -1, -1)
        angles = torch.cat([rows, columns], -1).flatten(0, 1)  # (side^2, d)
        self.register_buffer("freqs_cos", angles.cos())
        self.register_buffer("freqs_sin", angles.sin())

    def forward(self, x: Tensor) -> Tensor:
        """Rotate patches, and not [CLS]: (B, H, 1 + N, d) -> the same."""
        patches = x[:, :, 1:]
        half = torch.stack([-patches[..., 1::2], patches[..., ::2]], -1).flatten(-2)
        return torch.cat([x[:, :, :1], patches * self.freqs_cos + half * self.freqs_sin], 2)


class Attention(nn.Module):
    """Attention without a bias of keys; one projection, or three (`split`), and a norm after it (`inner`)."""

    def __init__(self, rope: Rope, split: bool, inner: bool) -> None:
        super().__init__()
        if split:
            self.q_proj, self.k_proj, self.v_proj = (nn.Linear(DIM, DIM, bias=False) for _ in range(3))
        else:
            self.qkv = nn.Linear(DIM, 3 * DIM, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(DIM)), nn.Parameter(torch.zeros(DIM))
        self.inner_attn_ln: nn.Module = nn.LayerNorm(DIM, EPS) if inner else nn.Identity()
        self.proj, self.rope, self.split = nn.Linear(DIM, DIM), rope, split

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.q_proj, self.k_proj, self.v_proj) if self.split else ()
        q, k, v = (weight(x) for weight in weights) if self.split else self.qkv(x).chunk(3, -1)
        q, k, v = (each.unflatten(2, (HEADS, -1)).transpose(1, 2) for each in (q + self.q_bias, k, v + self.v_bias))
        q, k = self.rope(q), self.rope(k)
        out = (q * HEAD_DIM**-0.5 @ k.mT).softmax(-1) @ v
        return self.proj(self.inner_attn_ln(out.transpose(1, 2).flatten(2)))


class SubNormSwiGLU(SplitSwiGLU):
    """Three matrices, and a norm before the last one."""

    def __init__(self) -> None:
        super().__init__(HIDDEN)
        self.ffn_ln = nn.LayerNorm(HIDDEN, EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.ffn_ln(F.silu(self.w1(x)) * self.w2(x)))


class Block(nn.Module):
    def __init__(self, rope: Rope, split: bool, inner: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM, EPS), nn.LayerNorm(DIM, EPS)
        self.attn = Attention(rope, split, inner)
        self.mlp: nn.Module = SubNormSwiGLU() if split else SwiGLU()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Eva02(nn.Module):
    """EVA-02 with a classifier on the mean of patches, or the vision tower of EVA-02-CLIP.

    Args:
        split: three projections and a norm in the feed-forward (base and large), not one without (tiny and small).
        clip: a norm after attention, and a projection of [CLS].
        side: of the grid, in patches.
    """

    def __init__(self, split: bool = True, clip: bool = False, side: int = SIDE // PATCH) -> None:
        super().__init__()
        self.shape: dict[str, bool] = {"split": split, "clip": clip}
        self.side, self.clip = side, clip
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, DIM))
        self.rope = Rope(side)
        self.blocks = nn.ModuleList(Block(self.rope, split, inner=clip) for _ in range(DEPTH))
        self.norm: nn.Module = nn.LayerNorm(DIM, EPS) if clip else nn.Identity()
        self.fc_norm: nn.Module = nn.Identity() if clip else nn.LayerNorm(DIM, EPS)
        self.head = nn.Linear(DIM, 512 if clip else 7)

    def read(self, pictures: Tensor) -> dict[str, Tensor]:
        """The answers for square pictures; those of another size than this network's are read by a resized one."""
        side, _ = (length // PATCH for length in pictures.shape[2:])
        assert pictures.shape[2] == pictures.shape[3], "the original has no rule for a grid that is not square"
        if side != self.side:
            return self.resized(side).read(pictures)
        x = self.patch_embed.proj(pictures).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.clip:
            return {"cls": x[:, 0], "native": self.head(x[:, 0])}
        pooled = self.fc_norm(x[:, 1:].mean(1))
        return {"cls": x[:, 0], "native": pooled, "logits": self.head(pooled)}

    def resized(self, side: int) -> "Eva02":
        """Return this network for another size, as fine-tuning loads it: bicubic, not antialiased."""
        other: Any = Eva02(**self.shape, side=side)
        weights = {key: value for key, value in self.state_dict().items() if "rope." not in key}
        table = weights["pos_embed"][:, 1:].unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        table = F.interpolate(table, size=(side, side), mode="bicubic", align_corners=False)
        weights["pos_embed"] = torch.cat([weights["pos_embed"][:, :1], table.flatten(2).mT], 1)
        missing, unexpected = other.load_state_dict(weights, strict=False)
        assert not unexpected
        assert all("rope." in key for key in missing)
        return other.eval()
