"""JAX files (`.npz`) of google-research's vision_transformer and big_vision.

Sources: google-research/vision_transformer `vit_jax/models_vit.py` and google-research/big_vision `models/vit.py`.
Kernels are [in, out], convolutions [height, width, in, out]; the kernels of attention have an axis of heads: [D, H, d].
Shapes: D embedding dimension, H heads, d = D / H, C channels.
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
from models.network.pooling import Pool

BLOCK = r"Transformer/encoderblock_(\d+)/"
ATTENTION = rf"{BLOCK}MultiHeadDotProductAttention_[01]/"
POOLING = r"(?:MAPHead_0/)?MultiHeadDotProductAttention_0/"
LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias"}
LAST = re.compile(r"/(kernel|scale|bias)$")

# With the leaves already renamed to weight and bias. The two code bases number layers differently: the second norm is
# LayerNorm_2 in vision_transformer and LayerNorm_1 in big_vision.
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
    # The pooling by attention, which the first files have without a name of its own.
    r"(?:MAPHead_0/)?probe": "attn_pool.latent",
    rf"(?:MAPHead_0/)?LayerNorm_0/{PARTS}": r"attn_pool.norm.\1",
    rf"{POOLING}(query|key|value)/{PARTS}": r"attn_pool.\1.\2",
    rf"{POOLING}out/{PARTS}": r"attn_pool.proj.\1",
    rf"(?:MAPHead_0/)?MlpBlock_0/Dense_0/{PARTS}": r"attn_pool.fc1.\1",
    rf"(?:MAPHead_0/)?MlpBlock_0/Dense_1/{PARTS}": r"attn_pool.fc2.\1",
    rf"pre_logits/{PARTS}": r"projection.\1",
    rf"head/{PARTS}": r"head.\1",
}
IGNORED = {r"params/txt/.*|params/[tb]": "text tower"}
NAMING = Naming(
    KEYS, ("patch_embed.proj.weight", "blocks.0.attn.query.weight"), IGNORED, ("opt/target/", "params/img/", "params/")
)
QKV = ("attn.query", "attn.key", "attn.value")


def recognises(source: Source) -> bool:
    """Return whether the names are those of a JAX archive."""
    return NAMING.recognises(_unstack(source.tensors))


def read(source: Source) -> Reading:
    """Read the arrays, transposed to [out, in], and a config.json in timm's format if there is one."""
    arrays, left_out = NAMING.translate(_unstack(source.tensors))
    heads = arrays["blocks.0.attn.query.weight"].shape[1]
    tensors = {name: _to_torch(name, array) for name, array in arrays.items()}
    join(tensors, QKV, "attn.qkv")
    join(tensors, ("attn_pool.query",), "attn_pool.q")
    join(tensors, ("attn_pool.key", "attn_pool.value"), "attn_pool.kv")
    config = source.config
    image_size = timm_config.image_size(config)
    if "pos_embed" not in tensors:
        tensors["pos_embed"] = _sincos(tensors["patch_embed.proj.weight"], image_size)
    has_preprocess = timm_config.has_preprocess(config)
    return Reading(
        layout="jax",
        profile="jax",
        tensors=tensors,
        image_size=image_size,
        num_heads=heads,
        pool=_pool(tensors),
        preprocess=timm_config.preprocess(config) if has_preprocess else None,
        names=timm_config.names(config),
        imagenet=True,
        reasons={
            "layout": "the arrays have the names of a JAX archive ('embedding/kernel')",
            "profile": "a JAX archive: tanh GELU, and positions resampled as in its own fine-tuning",
            "num_heads": "the query kernel has an axis of heads",
            "left out": left_out,
            "preprocess": "config.json"
            if has_preprocess
            else "assumed: resized to a square, as JAX's evaluation does, but with Pillow's antialiasing, which the "
            "original lacks; a config.json in the same folder overrides it",
        },
    )


def _pool(tensors: Mapping[str, Tensor]) -> Pool:
    if "attn_pool.latent" in tensors:
        return "attention"
    return "cls" if "cls_token" in tensors else "avg"


def _unstack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split arrays that are stacked over all blocks into one array per block, and rename the leaves."""
    result: dict[str, Tensor] = {}
    for key, array in tensors.items():
        name = LAST.sub(lambda match: f"/{LEAF[match[1]]}", key)
        if "/encoderblock/" in name:
            for i, block_array in enumerate(array):
                result[name.replace("/encoderblock/", f"/encoderblock_{i}/")] = block_array
        else:
            result[name] = array
    return result


def _to_torch(name: str, array: Tensor) -> Tensor:
    """Permute an array to torch's order of axes."""
    if name == "patch_embed.proj.weight":
        if array.dim() == 2:
            raise CheckpointUnsupported(
                "an archive of a NaFlex network is not supported; transformers has it as siglip2"
            )
        return array.permute(3, 2, 0, 1)  # (ph, pw, C, D) -> (D, C, ph, pw)
    if name.endswith((".query.weight", ".key.weight", ".value.weight")):
        return array.flatten(1).T  # (D, H, d) -> (H * d, D)
    if name.endswith((".attn.proj.weight", "attn_pool.proj.weight")):
        return array.flatten(0, 1).T  # (H, d, D) -> (D, H * d)
    if name.endswith((".fc1.weight", ".fc2.weight", "projection.weight", "head.weight")):
        return array.T
    if name.endswith((".query.bias", ".key.bias", ".value.bias")):
        return array.flatten()  # (H, d)
    return array


def _sincos(patch: Tensor, image_size: tuple[int, int] | None) -> Tensor:
    if image_size is None:
        raise CheckpointUnsupported(
            "the archive has no position embeddings: it was trained with fixed sine and cosine ones, and no array "
            "shows the input size; add a config.json with input_size in the same folder"
        )
    dim, _, ph, pw = patch.shape
    if dim % 4:
        raise CheckpointBroken(f"sine and cosine position embeddings need a multiple of 4 dimensions, not {dim}")
    return sincos_table((image_size[0] // ph, image_size[1] // pw), dim).to(torch.float32)
