"""Take a network's weights out of the tensors of a checkpoint, by the network's config.

A bias that a family lacks becomes zeros; any other tensor that is missing is an error that names it.
"""

import torch
from torch import Tensor

from models.checkpoints.relative import take_relative
from models.layouts.tensors import Tensors
from models.network.config import ViTConfig

POOL_LAYERS, POOL_FEED_FORWARD = ("kv", "proj"), ("q", "fc1", "fc2")


def take_weights(tensors: Tensors, config: ViTConfig) -> dict[str, Tensor]:
    """Return all weights under the network's names."""
    layers, norms = _layers(config), _norms(config)
    weights = {f"{layer}.weight": tensors.take(f"{layer}.weight") for layer in layers + norms}
    without_bias = _layers_without_bias(tensors, config)
    for layer in layers + (norms if config.norm_type == "layer" else []):
        # A bias that the family lacks becomes zeros. A bias that only some blocks lack is reported as missing.
        rows = weights[f"{layer}.weight"].shape[0]
        weights[f"{layer}.bias"] = torch.zeros(rows) if layer in without_bias else tensors.take(f"{layer}.bias")
    if config.layer_scale:
        weights |= _scales(tensors, config)
    if config.pool == "attention":
        weights["attn_pool.latent"] = tensors.take("attn_pool.latent").flatten()
    if config.rotary is not None and config.rotary.learned:
        weights["rotary.frequencies"] = tensors.take("rotary.frequencies")
    if config.relative is not None:
        weights |= take_relative(tensors, config.relative, config.depth)
    return weights


def _scales(tensors: Tensors, config: ViTConfig) -> dict[str, Tensor]:
    """Return the layer scales; those of the feed-forward are ones if no block has them (Sapiens 2)."""
    attention, feed_forward = ([f"blocks.{i}.{scale}.gamma" for i in range(config.depth)] for scale in ("ls1", "ls2"))
    scales = {name: tensors.take(name) for name in attention}
    if any(name in tensors for name in feed_forward):
        return scales | {name: tensors.take(name) for name in feed_forward}
    return scales | {name: torch.ones(config.embed_dim) for name in feed_forward}


def _layers(config: ViTConfig) -> list[str]:
    """Return the names of all linear layers and of the patch projection."""
    inner = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    layers = ["patch_embed.proj", *(f"blocks.{i}.{layer}" for i in range(config.depth) for layer in inner)]
    layers += ["projection"] if config.projection_dim else []
    layers += ["head"] if config.num_classes else []
    layers += ["head_dist"] if config.head_dist else []
    pooling = (POOL_LAYERS if config.pool == "attention" else ()) + (
        POOL_FEED_FORWARD if config.pool_hidden_dim else ()
    )
    return layers + [f"attn_pool.{layer}" for layer in pooling]


def _norms(config: ViTConfig) -> list[str]:
    """Return the names of all norms."""
    norms = [norm for norm in ("embed_norm", "norm_pre", "norm", "fc_norm") if getattr(config, norm)]
    inner = ["norm1", "norm2"]
    inner += ["attn.q_norm", "attn.k_norm"] if config.qk_norm else []
    inner += [name for name, present in (("attn.norm", config.attn_norm), ("mlp.norm", config.mlp_norm)) if present]
    norms += [f"blocks.{i}.{norm}" for i in range(config.depth) for norm in inner]
    return norms + (["attn_pool.norm"] if config.pool_hidden_dim else [])


def _layers_without_bias(tensors: Tensors, config: ViTConfig) -> set[str]:
    """Return the layers without a bias in this family: CLIP's, AIMv2's, and those of the blocks if no block has one."""
    optional = {
        "patch_embed.proj": config.norm_pre,
        "projection": not config.projection_tanh,
        "attn_pool.kv": not config.pool_hidden_dim,
    }
    without_bias = {name for name, lacks in optional.items() if lacks and f"{name}.bias" not in tensors}
    for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        in_blocks = {f"blocks.{i}.{layer}" for i in range(config.depth)}
        if not any(f"{name}.bias" in tensors for name in in_blocks):
            without_bias |= in_blocks
    return without_bias
