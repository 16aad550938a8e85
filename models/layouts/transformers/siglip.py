"""transformers' SigLIP and SigLIP 2: the vision tower alone, with a classifier, or with the text tower.

SigLIP 2 at a fixed size is `siglip`; `siglip2` is NaFlex: its patches are projected by a linear layer, whose inputs are
in the order (row, column, channel).
Source: huggingface/transformers, `modeling_siglip.py` and `modeling_siglip2.py`.
Shapes: D embedding dimension, ph x pw pixels of a patch.
"""

import re

from torch import Tensor

from models.errors import CheckpointBroken
from models.layouts.naming import PARTS, Naming, join
from models.layouts.source import Reading, Source
from models.layouts.transformers import config as transformers_config
from models.layouts.transformers.common import CLIP_BLOCKS, OUTER, QKV, make_reading
from models.network.pooling import Pool

KEYS = {
    rf"embeddings\.patch_embedding\.{PARTS}": r"patch_embed.proj.\1",
    r"embeddings\.position_embedding\.weight": "pos_embed",
    **CLIP_BLOCKS,
    rf"post_layernorm\.{PARTS}": r"norm.\1",
    r"head\.probe": "attn_pool.latent",
    rf"head\.attention\.in_proj_{PARTS}": r"attn_pool.qkv.\1",
    rf"head\.attention\.out_proj\.{PARTS}": r"attn_pool.proj.\1",
    rf"head\.layernorm\.{PARTS}": r"attn_pool.norm.\1",
    rf"head\.mlp\.(fc[12])\.{PARTS}": r"attn_pool.\1.\2",
    rf"classifier\.{PARTS}": r"head.\1",
}
IGNORED = {
    r"embeddings\.position_ids": "indices of positions",
    r"text_model\..*|logit_scale|logit_bias": "text tower",
}
NAMING = Naming(
    KEYS,
    ("patch_embed.proj.bias", "pos_embed", "blocks.0.norm1.weight", "blocks.0.attn.query.weight"),
    IGNORED,
    ("vision_model.", *OUTER),
)


def recognises(source: Source) -> bool:
    """Return whether the names are those of transformers' SigLIP."""
    return NAMING.recognises(source.tensors)


def read(source: Source) -> Reading:
    """Read the vision tower, its config and the image processor."""
    config = source.config
    fields = transformers_config.network(config)
    tensors, left_out = NAMING.translate(source.tensors)
    join(tensors, QKV, "attn.qkv")
    _split_pooling(tensors)
    patch = tensors["patch_embed.proj.weight"]
    naflex = str(config["model_type"]).startswith("siglip2")
    if naflex and patch.dim() == 2:
        tensors["patch_embed.proj.weight"] = _as_kernel(patch, transformers_config.pair(fields["patch_size"]))
    reasons = {"left out": left_out}
    if naflex:
        reasons["profile"] = "config.json names transformers' siglip2, which resamples positions for each picture"
    if "head.weight" in tensors:  # the mean of the patches, whether or not the file has the pooling as well
        if "attn_pool.latent" in tensors:
            reasons["pooling"] = "the attention pooling is left out: the classifier reads the mean of the patches"
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("attn_pool.")}
    elif fields["vision_use_head"] and "attn_pool.latent" not in tensors:
        raise CheckpointBroken("tensor 'head.probe' is missing, which config.json says the network has")
    pool: Pool = "attention" if "attn_pool.latent" in tensors else "avg"
    return make_reading(source, tensors, reasons, pool, "siglip2" if naflex else "transformers")


def _split_pooling(tensors: dict[str, Tensor]) -> None:
    """Split the projections of the pooling, which `torch.nn.MultiheadAttention` joins, in place."""
    for key in [key for key in tensors if re.fullmatch(r"attn_pool\.qkv\.(weight|bias)", key)]:
        joined, leaf = tensors.pop(key), key.rpartition(".")[2]
        third = len(joined) // 3
        tensors[f"attn_pool.q.{leaf}"], tensors[f"attn_pool.kv.{leaf}"] = joined[:third], joined[third:]


def _as_kernel(weight: Tensor, patch: tuple[int, int]) -> Tensor:
    """Return the weights of a linear layer on flat patches as a convolution's: (D, ph * pw * 3) -> (D, 3, ph, pw)."""
    if weight.shape[1] != patch[0] * patch[1] * 3:
        raise CheckpointBroken(
            f"tensor 'patch_embedding.weight' has shape {tuple(weight.shape)}, which is not of {patch[0]} x {patch[1]} "
            "RGB pixels, the patch_size of config.json"
        )
    return weight.unflatten(1, (*patch, 3)).permute(0, 3, 1, 2)
