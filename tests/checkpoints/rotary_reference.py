"""Reimplementations of originals with rotary positions: complex multiplication, one image size at a time.

Sources: facebookresearch/dinov3 `dinov3/models/vision_transformer.py` and `dinov3/layers/rope_position_encoding.py`.
They share no code with the network under test.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.checkpoints.reference import DEPTH, DIM, HEADS, PatchEmbed, Scale

HEAD_DIM = DIM // HEADS
REGISTERS = 4


def turned(x: Tensor, angles: Tensor, interleaved: bool) -> Tensor:
    """Rotate all but the prefix tokens: (B, H, N, d), (N - P, d / 2) -> (B, H, N, d), in float64."""
    pairs = x.unflatten(-1, (-1, 2)) if interleaved else x.unflatten(-1, (2, -1)).transpose(-1, -2)
    numbers = torch.view_as_complex(pairs.double().contiguous())  # (B, H, N, d / 2)
    prefix = x.shape[2] - len(angles)
    factors = torch.polar(torch.ones_like(angles), angles).to(numbers.dtype)
    product = torch.view_as_real(torch.cat([numbers[:, :, :prefix], numbers[:, :, prefix:] * factors], 2))
    return (product if interleaved else product.transpose(-1, -2)).flatten(-2).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, angles: Tensor, interleaved: bool, heads: int = HEADS) -> Tensor:
    """Softmax attention with rotated queries and keys: (B, N, D) each -> (B, N, D)."""
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
    q, k = (turned(each, angles, interleaved) for each in (q, k))
    weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class MaskedLinear(nn.Linear):
    """The projection to queries, keys and values; the biases of the keys are masked."""

    def __init__(self, bias: bool) -> None:
        super().__init__(DIM, 3 * DIM, bias=bias)
        self.masked = bias
        if bias:
            self.register_buffer("bias_mask", torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(DIM))

    def forward(self, x: Tensor) -> Tensor:
        mask: Any = self.bias_mask if self.masked else None
        return F.linear(x, self.weight, self.bias * mask if self.masked else None)


class Dinov3Attention(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.qkv, self.proj = MaskedLinear(bias), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(attend(q, k, v, angles, interleaved=False))


class SplitSwiGLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(DIM, width), nn.Linear(DIM, width), nn.Linear(width, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class Dinov3Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(DIM, width), nn.Linear(width, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Dinov3Block(nn.Module):
    def __init__(self, gated: bool, bias: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM, 1e-5), nn.LayerNorm(DIM, 1e-5)
        self.attn = Dinov3Attention(bias)
        self.mlp = SplitSwiGLU(80) if gated else Dinov3Mlp(4 * DIM)
        self.ls1, self.ls2 = Scale(), Scale()

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), angles))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Periods(nn.Module):
    """The periods of the rotary positions, which the published files store in bfloat16."""

    def __init__(self, rounded: bool) -> None:
        super().__init__()
        quarter = HEAD_DIM // 4
        periods = torch.tensor([100.0 ** (i / quarter) for i in range(quarter)])
        self.register_buffer("periods", periods.bfloat16() if rounded else periods)


class Dinov3(nn.Module):
    """DINOv3 of facebookresearch; the 7B has `gated`, no `bias` and `untied` norms of small crops."""

    def __init__(self, gated: bool = False, bias: bool = True, untied: bool = False, rounded: bool = True) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.storage_tokens = nn.Parameter(torch.zeros(1, REGISTERS, DIM))
        self.mask_token = nn.Parameter(torch.zeros(1, DIM))
        self.rope_embed = Periods(rounded)
        self.patch_embed = PatchEmbed()
        self.blocks = nn.ModuleList(Dinov3Block(gated, bias) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(DIM, 1e-5)
        if untied:
            self.local_cls_norm = nn.LayerNorm(DIM, 1e-5)

    def angles(self, h: int, w: int) -> Tensor:
        """The angles of each patch, rows before columns: (h * w, d / 2)."""
        periods: Any = self.rope_embed.periods
        coordinates = [[2 * (i + 0.5) / h - 1, 2 * (j + 0.5) / w - 1] for i in range(h) for j in range(w)]
        of_axes = 2 * math.pi * torch.tensor(coordinates).double()[:, :, None] / periods.double()
        return of_axes.flatten(1)

    def layers(self, pictures: Tensor) -> list[Tensor]:
        """The tokens after each block and the final norm, without registers."""
        x = self.patch_embed.proj(pictures)
        angles = self.angles(*x.shape[2:])
        prefix = torch.cat([self.cls_token, self.storage_tokens], 1).expand(len(x), -1, -1)
        x = torch.cat([prefix, x.flatten(2).transpose(1, 2)], 1)
        outputs = []
        for block in self.blocks:
            x = block(x, angles)
            normed = self.norm(x)
            outputs.append(torch.cat([normed[:, :1], normed[:, 1 + REGISTERS :]], 1))
        return outputs

    def read(self, pictures: Tensor) -> dict[str, Tensor]:
        tokens = self.layers(pictures)[-1]
        return {"cls": tokens[:, 0], "native": tokens[:, 0], "mean": tokens[:, 1:].mean(1)}
