"""Reimplementations of originals that cannot be installed: plain attention, one image size at a time.

Sources: facebookresearch/dino `vision_transformer.py`, facebookresearch/dinov2 `dinov2/models/vision_transformer.py`,
facebookresearch/mae `models_vit.py`, openai/CLIP `clip/model.py`, google-research/vision_transformer
`vit_jax/models_vit.py`. They share no code with the network under test.
"""

import math
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIM, DEPTH, HEADS, PATCH, SIDE = 48, 4, 4, 8, 64


class Attention(nn.Module):
    """Softmax attention with fused projections, as in DINO."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, HEADS, dim // HEADS).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) * (dim // HEADS) ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, count, dim))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """The feed-forward of DINOv2 giant: two thirds of the width, rounded up to a multiple of 8."""

    def __init__(self) -> None:
        super().__init__()
        width = (int(4 * DIM * 2 / 3) + 7) // 8 * 8
        self.w12, self.w3 = nn.Linear(DIM, 2 * width), nn.Linear(width, DIM)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(gate) * value)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(DIM))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, scaled: bool, gated: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM, 1e-6), nn.LayerNorm(DIM, 1e-6)
        self.attn, self.mlp = Attention(), SwiGLU() if gated else Mlp()
        self.ls1: nn.Module = Scale() if scaled else nn.Identity()
        self.ls2: nn.Module = Scale() if scaled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, DIM, PATCH, PATCH)


class Facebook(nn.Module):
    """DINO; DINOv2 with `v2`, `registers` and `gated` (giant); the encoder of MAE and DeiT with the rule `plain`."""

    def __init__(self, rule: str, v2: bool = False, registers: int = 0, gated: bool = False) -> None:
        super().__init__()
        self.rule = rule
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (SIDE // PATCH) ** 2, DIM))
        if v2:
            self.mask_token = nn.Parameter(torch.zeros(1, DIM))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, DIM)) if registers else None
        self.patch_embed = PatchEmbed()
        self.blocks = nn.ModuleList(Block(scaled=v2, gated=gated) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(DIM, 1e-6)

    def layers(self, x: Tensor) -> list[Tensor]:
        """The tokens after each block and the final norm, without registers."""
        height, width = x.shape[2:]
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.positions(height, width)
        registers = 0
        if self.register_tokens is not None:
            registers = self.register_tokens.shape[1]
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)
        outputs = []
        for block in self.blocks:
            x = block(x)
            normed = self.norm(x)
            outputs.append(torch.cat([normed[:, :1], normed[:, 1 + registers :]], 1))
        return outputs

    def positions(self, height: int, width: int) -> Tensor:
        count, side = self.pos_embed.shape[1] - 1, SIDE // PATCH
        h, w = height // PATCH, width // PATCH
        if count == h * w and height == width:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].reshape(1, side, side, DIM).permute(0, 3, 1, 2)
        if self.rule == "offset":
            scale = ((h + 0.1) / side, (w + 0.1) / side)
            grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        else:
            grid = F.interpolate(grid, size=(h, w), mode="bicubic", antialias=self.rule == "antialias")
        return torch.cat([self.pos_embed[:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, DIM)], 1)

    def read(self, pictures: Tensor) -> dict[str, Tensor]:
        tokens = self.layers(pictures)[-1]
        return {"cls": tokens[:, 0], "mean": tokens[:, 1:].mean(1)}


class ClipTower(nn.Module):
    """The vision tower of OpenAI's CLIP, at its native size only."""

    def __init__(self, embed: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, DIM, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(DIM))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + (SIDE // PATCH) ** 2, DIM))
        self.ln_pre, self.ln_post = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(ClipBlock() for _ in range(DEPTH))})
        self.proj = nn.Parameter(torch.zeros(DIM, embed))

    def read(self, x: Tensor) -> dict[str, Tensor]:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in cast(nn.ModuleList, self.transformer["resblocks"]):
            x = block(x)
        cls = self.ln_post(x[:, 0])
        return {"cls": cls, "native": cls @ self.proj}


class ClipBlock(nn.Module):
    quick = True

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(DIM, 4 * DIM), "c_proj": nn.Linear(4 * DIM, DIM)})

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        hidden = self.mlp["c_fc"](self.ln_2(x))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick else F.gelu(hidden)
        return x + self.mlp["c_proj"](hidden)


class Jax:
    """The original in numpy: arrays as in the archive, [in, out], with an axis of heads."""

    def __init__(self, arrays: dict[str, Any], second: bool) -> None:
        self.arrays = {key: np.asarray(value, np.float64) for key, value in arrays.items()}
        self.names = ("0", "1", "0") if second else ("1", "2", "3")  # numbers of attention, second norm, feed-forward

    def __call__(self, pictures: Tensor) -> dict[str, Tensor]:
        x = pictures.double().numpy().transpose(0, 2, 3, 1)  # (B, H, W, C)
        batch, height, width, _ = x.shape
        h, w = height // PATCH, width // PATCH
        patches = (
            x.reshape(batch, h, PATCH, w, PATCH, 3).transpose(0, 1, 3, 2, 4, 5).reshape(batch, h * w, PATCH, PATCH, 3)
        )
        x = np.einsum("bnhwc,hwcd->bnd", patches, self.arrays["embedding/kernel"]) + self.arrays["embedding/bias"]
        x = self._with_positions(x, h, w)
        for i in range(DEPTH):
            x = self._block(x, f"Transformer/encoderblock_{i}/")
        x = self._norm(x, "Transformer/encoder_norm")
        pooled = x[:, 0] if "cls" in self.arrays else x.mean(1)
        read = {"cls": x[:, 0]} if "cls" in self.arrays else {"mean": pooled}
        if "MAPHead_0/probe" in self.arrays:
            probe = np.broadcast_to(self.arrays["MAPHead_0/probe"], (batch, 1, DIM))
            pooled = self._attend(probe, x, "MAPHead_0/MultiHeadDotProductAttention_0/")
            normed = self._norm(pooled, "MAPHead_0/LayerNorm_0")
            pooled = (pooled + self._feed_forward(normed, "MAPHead_0/MlpBlock_0/Dense_"))[:, 0]
        if "pre_logits/kernel" in self.arrays:
            pooled = np.tanh(pooled @ self.arrays["pre_logits/kernel"] + self.arrays["pre_logits/bias"])
        read["native"] = pooled
        if "head/kernel" in self.arrays:
            read["logits"] = pooled @ self.arrays["head/kernel"] + self.arrays["head/bias"]
        return {name: torch.from_numpy(value).float() for name, value in read.items()}

    def _with_positions(self, x: Any, h: int, w: int) -> Any:
        name = next(key for key in self.arrays if key.endswith("pos_embedding"))
        table = self.arrays[name][0]
        leading = table[: len(table) % 2]  # the row of [CLS], if there is one
        grid = table[len(leading) :].reshape(SIDE // PATCH, SIDE // PATCH, DIM)
        grid = _linear(_linear(grid, h, 0), w, 1).reshape(h * w, DIM)
        if "cls" not in self.arrays:
            return x + grid
        cls = np.broadcast_to(self.arrays["cls"][0], (len(x), 1, DIM))
        if len(leading):
            return np.concatenate([cls + leading, x + grid], 1)
        return np.concatenate([cls, x + grid], 1)

    def _block(self, x: Any, block: str) -> Any:
        attention, norm, mlp = self.names
        normed = self._norm(x, f"{block}LayerNorm_0")
        x = x + self._attend(normed, normed, f"{block}MultiHeadDotProductAttention_{attention}/")
        return x + self._feed_forward(self._norm(x, f"{block}LayerNorm_{norm}"), f"{block}MlpBlock_{mlp}/Dense_")

    def _attend(self, queries: Any, x: Any, name: str) -> Any:
        q, k, v = (
            np.einsum("bnd,dhe->bhne", tokens, self.arrays[f"{name}{part}/kernel"])
            + self.arrays[f"{name}{part}/bias"][None, :, None]
            for part, tokens in (("query", queries), ("key", x), ("value", x))
        )
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(DIM // HEADS)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return (
            np.einsum("bhne,hed->bnd", weights @ v, self.arrays[f"{name}out/kernel"]) + self.arrays[f"{name}out/bias"]
        )

    def _feed_forward(self, x: Any, dense: str) -> Any:
        hidden = x @ self.arrays[f"{dense}0/kernel"] + self.arrays[f"{dense}0/bias"]
        hidden = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        return hidden @ self.arrays[f"{dense}1/kernel"] + self.arrays[f"{dense}1/bias"]

    def _norm(self, x: Any, name: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * self.arrays[f"{name}/scale"] + self.arrays[f"{name}/bias"]


def _linear(grid: Any, count: int, axis: int) -> Any:
    """`scipy.ndimage.zoom` of order 1: linear, with aligned corners."""
    old = grid.shape[axis]
    places = np.linspace(0, old - 1, count)
    low = np.clip(np.floor(places).astype(int), 0, old - 2)
    part = (places - low).reshape([-1 if i == axis else 1 for i in range(grid.ndim)])
    return grid.take(low, axis) * (1 - part) + grid.take(low + 1, axis) * part


def jax_arrays(
    second: bool = False, cls: bool = True, representation: bool = False, classes: int = 7, pooling: bool = False
) -> dict[str, Any]:
    """A random archive of vision_transformer, or of big_vision with `second`."""
    draw = np.random.default_rng(0)
    attention, norm, mlp = ("0", "1", "0") if second else ("1", "2", "3")
    rows = (SIDE // PATCH) ** 2 + int(cls and not second)
    arrays = {
        "embedding/kernel": draw.normal(size=(PATCH, PATCH, 3, DIM)) / (3 * PATCH * PATCH) ** 0.5,
        "embedding/bias": 0.5 * draw.normal(size=DIM),
        "pos_embedding" if second else "Transformer/posembed_input/pos_embedding": 0.5
        * draw.normal(size=(1, rows, DIM)),
    }
    if classes:
        arrays |= _dense(draw, "head", (DIM,), (classes,))
    if cls:
        arrays["cls"] = 0.5 * draw.normal(size=(1, 1, DIM))
    if representation:
        arrays |= _dense(draw, "pre_logits", (DIM,), (DIM,))
    norms = ["Transformer/encoder_norm"]
    for i in range(DEPTH):
        block = f"Transformer/encoderblock_{i}/"
        norms += [f"{block}LayerNorm_0", f"{block}LayerNorm_{norm}"]
        arrays |= _attention(draw, f"{block}MultiHeadDotProductAttention_{attention}/")
        arrays |= _feed_forward(draw, f"{block}MlpBlock_{mlp}/")
    if pooling:
        norms.append("MAPHead_0/LayerNorm_0")
        arrays["MAPHead_0/probe"] = 0.5 * draw.normal(size=(1, 1, DIM))
        arrays |= _attention(draw, "MAPHead_0/MultiHeadDotProductAttention_0/")
        arrays |= _feed_forward(draw, "MAPHead_0/MlpBlock_0/")
    for name in norms:
        arrays |= {f"{name}/scale": 1 + 0.2 * draw.normal(size=DIM), f"{name}/bias": 0.5 * draw.normal(size=DIM)}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _attention(draw: np.random.Generator, name: str) -> dict[str, Any]:
    heads = (HEADS, DIM // HEADS)
    arrays: dict[str, Any] = {}
    for part in ("query", "key", "value"):
        arrays |= _dense(draw, f"{name}{part}", (DIM,), heads)
    return arrays | _dense(draw, f"{name}out", heads, (DIM,))


def _feed_forward(draw: np.random.Generator, name: str) -> dict[str, Any]:
    return _dense(draw, f"{name}Dense_0", (DIM,), (96,)) | _dense(draw, f"{name}Dense_1", (96,), (DIM,))


def _dense(draw: np.random.Generator, name: str, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> dict[str, Any]:
    kernel = draw.normal(size=(*inputs, *outputs)) / math.prod(inputs) ** 0.5
    return {f"{name}/kernel": kernel, f"{name}/bias": 0.5 * draw.normal(size=outputs)}
