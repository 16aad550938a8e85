"""The original JAX files (`.npz`) of google-research's vision_transformer and of big_vision.

Sources: google-research/vision_transformer `vit_jax/models_vit.py` and google-research/big_vision `models/vit.py`.
Kernels are [in, out], convolutions [height, width, in, out]; the kernel of a query names the heads: [D, H, D / H].
Shapes: D embedding dimension, H heads.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.geometry import sincos_table
from models.layouts.naming import PARTS, Naming, join
from models.layouts.source import Reading, Source
from models.layouts.timm import config as timm_config

BLOCK = r"Transformer/encoderblock_(\d+)/"
ATTENTION = rf"{BLOCK}MultiHeadDotProductAttention_[01]/"
LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias"}
LAST = re.compile(r"/(kernel|scale|bias)$")

# The names with the leaves already called weight and bias. The two generations number their layers differently: the
# second norm of the older is LayerNorm_2, that of big_vision LayerNorm_1, which the older does not have.
KEYS = {
    rf"embedding/{PARTS}": r"patch_embed.proj.\1",
    r"cls": "cls_token",
    r"(?:Transformer/posembed_input/|Transformer/)?pos_embedding": "pos_embed",
    rf"{BLOCK}LayerNorm_0/{PARTS}": r"blocks.\1.norm1.\2",
    rf"{BLOCK}LayerNorm_[12]/{PARTS}": r"blocks.\1.norm2.\2",
    rf"{ATTENTION}(query|key|value)/{PARTS}": r"blocks.\1.attn.\2.\3",
    rf"{ATTENTION}out/{PARTS}": r"blocks.\1.attn.proj.\2",
    rf"{BLOCK}MlpBlock_[03]/Dense_0/{PARTS}": r"blocks.\1.mlp.fc1.\2",
    rf"{BLOCK}MlpBlock_[03]/Dense_1/{PARTS}": r"blocks.\1.mlp.fc2.\2",
    rf"Transformer/encoder_norm/{PARTS}": r"norm.\1",
    rf"pre_logits/{PARTS}": r"projection.\1",
    rf"head/{PARTS}": r"head.\1",
}
NAMING = Naming(
    KEYS, ("patch_embed.proj.weight", "blocks.0.attn.query.weight"), {}, ("opt/target/", "params/img/", "params/")
)
QKV = ("attn.query", "attn.key", "attn.value")


def recognises(source: Source) -> bool:
    """Whether the names are those of a JAX archive."""
    return NAMING.recognises(_unstacked(source.tensors))


def read(source: Source) -> Reading:
    """Read the arrays, turned round to [out, in]; a timm-style config.json beside the file may say more."""
    arrays, _ = NAMING.translate(_unstacked(source.tensors))
    heads = arrays["blocks.0.attn.query.weight"].shape[1]
    tensors = {name: _turned(name, array) for name, array in arrays.items()}
    join(tensors, QKV, "attn.qkv")
    config = source.config
    image_size = timm_config.image_size(config)
    if "pos_embed" not in tensors:
        tensors["pos_embed"] = _sincos(tensors["patch_embed.proj.weight"], image_size)
    beside = timm_config.describes_pixels(config)
    return Reading(
        layout="jax",
        profile="jax",
        tensors=tensors,
        image_size=image_size,
        num_heads=heads,
        pool="cls" if "cls_token" in tensors else "avg",
        preprocess=timm_config.preprocess(config) if beside else None,
        names=timm_config.names(config),
        imagenet=True,
        reasons={
            "layout": "the arrays have the names of a JAX archive ('embedding/kernel')",
            "profile": "a JAX archive: tanh GELU, and the resampling of its own fine-tuning",
            "num_heads": "the query kernel has an axis for them",
            "preprocess": "config.json beside the file"
            if beside
            else "assumed: scaled to the square, as JAX's evaluation "
            "does, with Pillow's antialiased filter where the original has none; a config.json beside it overrides",
        },
    )


def _unstacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each block's arrays by themselves, where a file keeps those of all blocks in one, and the leaves renamed."""
    result: dict[str, Tensor] = {}
    for key, array in tensors.items():
        name = LAST.sub(lambda match: f"/{LEAF[match[1]]}", key)
        if "/encoderblock/" in name:
            for i, of_block in enumerate(array):
                result[name.replace("/encoderblock/", f"/encoderblock_{i}/")] = of_block
        else:
            result[name] = array
    return result


def _turned(name: str, array: Tensor) -> Tensor:
    """An array in the order of torch."""
    if name == "patch_embed.proj.weight":
        return array.permute(3, 2, 0, 1)  # (ph, pw, C, D) -> (D, C, ph, pw)
    if name.endswith((".query.weight", ".key.weight", ".value.weight")):
        return array.flatten(1).T  # (D, H, d) -> (H * d, D)
    if name.endswith(".attn.proj.weight"):
        return array.flatten(0, 1).T  # (H, d, D) -> (D, H * d)
    if name.endswith((".fc1.weight", ".fc2.weight", "projection.weight", "head.weight")):
        return array.T
    if name.endswith((".query.bias", ".key.bias", ".value.bias")):
        return array.flatten()  # (H, d)
    return array


def _sincos(patch: Tensor, image_size: tuple[int, int] | None) -> Tensor:
    if image_size is None:
        raise CheckpointUnsupported(
            "the archive has no position table: it was trained with fixed sine and cosine positions, for an input that "
            "no array names; a config.json beside it must give input_size"
        )
    dim, _, ph, pw = patch.shape
    if dim % 4:
        raise CheckpointBroken(f"{dim} dimensions cannot have sine and cosine positions")
    return sincos_table((image_size[0] // ph, image_size[1] // pw), dim).to(torch.float32)
