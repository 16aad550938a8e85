"""Refuse a network that no table knows.

A network is served because its config names it and a table has the name, and not because its tensors fit: parts without
weights, such as rotary positions, leave no trace in a file. A file without a config names nothing. Some networks share
so many tensor names with a plain Vision Transformer that such a file would load and give wrong answers; each of them is
recognised by a tensor name that a plain one does not have.
"""

import re
from collections.abc import Iterable, Mapping

from models.errors import CheckpointUnsupported
from models.layouts import open_clip
from models.layouts.source import Source
from models.layouts.timm import architectures
from models.layouts.transformers import classes

SPLIT_BIASES = r"blocks\.\d+\.attn\.(?:q_bias|v_bias)"
BEIT = re.compile(r"blocks\.0\.attn\.relative_position_bias_table|rel_pos_bias\.relative_position_bias_table")
"""Tables that only BEiT has; its split biases are read."""

UNSUPPORTED = {
    r"cls_norm\..*": "a norm of its own on [CLS] and registers (DINOv3 with untied norms)",
    r"blocks\.\d+\.attn\.w[qkv]\..*": "Sapiens 2's own names; timm has the same network",
    r"blocks\.\d+\.(?:in_norm|in_proj|attn_out_proj|mlp_out_proj)\..*": "parallel blocks",
    r"blocks\.\d+\.(?:attns|ffns)\.\d+\..*": "parallel blocks",
    r"blocks\.\d+\.(?:attn\.)?lambda_\w+": "differential attention",
    r"blocks\.\d+\.attn\.gate\..*": "gated attention",
    r"patch_embed\.backbone\..*|patch_embed\.proj\.\d+\..*|conv_proj\.conv_bn_relu.*": "a convolutional stem (hybrid)",
    r"(?:conv_root|gn_root|block1)/.*": "a ResNet before the transformer (hybrid)",
    r"radio_model\..*": "several teachers' heads (RADIO)",
    r"layers\.0\.ffn\.layers\.0\.0\.weight": "MMPretrain's names; convert it with its own tools first",
    r"layers\.0\.blocks\.0\..*": "windows and stages (Swin)",
}
"""Pattern of a tensor's name -> what a network has that is not served."""

UNNAMED = {
    r"head\.probe|attn_pool\.(?:latent|q|probe).*": "an attention-pooling head (SigLIP, CoCa)",
    r".*rel_pos\..*": "relative positions",
    SPLIT_BIASES: "split biases (EVA)",
    r"blocks\.\d+\.attn\.(?:q_proj|k_proj|v_proj)\..*": "separate query, key and value projections (EVA)",
    r"blocks\.\d+\.(?:attn|mlp)\.norm\..*": "norms inside attention and feed-forward (BEiT-3, EVA)",
    r"blocks\.\d+\.mlp\.fc1_[gx]\..*": "a SwiGLU of three matrices (EVA, AIMv2)",
    r"patch_embed\.norm\..*": "a norm in the patch embedding (AIMv2)",
    r"embeds\..*": "patches of any size (NaFlex)",
}
"""Pattern of a tensor's name -> what a network has that is served only if a config names it."""

WRAPPERS = re.compile(
    r"^(?:_orig_mod\.|module\.|backbone\.|model\.|teacher\.|student\.|encoder\.|timm_model\.|visual\.trunk\.|visual\."
    r"|vision_model\.|vit\.|beit\.|dinov3_vit\.|params/img/|params/|opt/target/)+"
)


def refuse(source: Source) -> None:
    """Raise CheckpointUnsupported for a name that is not served, or for tensors of another network without a name."""
    if "architecture" in source.config:
        architectures.find(str(source.config["architecture"]))
    elif "model_type" in source.config:
        classes.check(source.config)
    elif name := open_clip.timm_name(source):
        architectures.find(name)
    else:
        _refuse_tensors(source.tensors)


def _refuse_tensors(keys: Iterable[str]) -> None:
    """Raise CheckpointUnsupported if a key belongs to a network that is not served, or only with a config."""
    names = {key: WRAPPERS.sub("", key) for key in keys}
    beit = any(BEIT.fullmatch(name) for name in names.values())
    for key, name in names.items():
        if feature := _feature(UNSUPPORTED, name):
            raise CheckpointUnsupported(f"the network has {feature}, which is not supported (tensor {key!r})")
        if (feature := _feature(UNNAMED, name)) and not (beit and re.fullmatch(SPLIT_BIASES, name)):
            raise CheckpointUnsupported(
                f"the network has {feature}, and no config says which network it is; add the config.json of its "
                f"library (tensor {key!r})"
            )


def _feature(table: Mapping[str, str], name: str) -> str | None:
    return next((feature for pattern, feature in table.items() if re.fullmatch(pattern, name)), None)
