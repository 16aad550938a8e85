"""Refuse what is not known to be supported, before its tensors are read.

An architecture that a config names must be in a table, because its tensors can fit and its answers still be wrong. A
file without a config names nothing; what is not a plain Vision Transformer is recognised by a tensor name that a plain
one does not have.
"""

import re

from models.errors import CheckpointUnsupported
from models.layouts.source import Source
from models.layouts.timm import config as timm_config
from models.layouts.transformers import config as transformers_config

ARCHITECTURES = {
    r"head\.probe|attn_pool\.(?:latent|q|probe).*|MAPHead_0/.*|probe": "an attention-pooling head (SigLIP, CoCa)",
    r"cls_norm\..*": "a norm of its own on [CLS] and registers (DINOv3 with untied norms)",
    r"blocks\.\d+\.attn\.w[qkv]\..*": "Sapiens 2's own names; timm has the same network",
    r".*relative_position_(?:bias|index).*": "relative positions (BEiT)",
    r"blocks\.\d+\.attn\.(?:q_bias|v_bias)": "split biases (BEiT, EVA)",
    r"blocks\.\d+\.attn\.(?:q_proj|k_proj|v_proj)\..*": "separate query, key and value projections (EVA)",
    r"blocks\.\d+\.(?:in_norm|in_proj|attn_out_proj|mlp_out_proj)\..*": "parallel blocks",
    r"blocks\.\d+\.(?:attns|ffns)\.\d+\..*": "parallel blocks",
    r"blocks\.\d+\.(?:attn\.)?lambda_\w+": "differential attention",
    r"blocks\.\d+\.attn\.gate\..*": "gated attention",
    r"blocks\.\d+\.(?:attn|mlp)\.norm\..*": "norms inside attention and feed-forward (BEiT-3, EVA)",
    r"blocks\.\d+\.mlp\.fc1_[gx]\..*": "a SwiGLU of three matrices (EVA, AIMv2)",
    r"patch_embed\.norm\..*": "a norm in the patch embedding (AIMv2)",
    r"patch_embed\.backbone\..*|patch_embed\.proj\.\d+\..*|conv_proj\.conv_bn_relu.*": "a convolutional stem (hybrid)",
    r"(?:conv_root|gn_root|block1)/.*": "a ResNet before the transformer (hybrid)",
    r"embeds\..*": "patches of any size (NaFlex)",
    r"radio_model\..*": "several teachers' heads (RADIO)",
    r"layers\.0\.ffn\.layers\.0\.0\.weight": "MMPretrain's names; convert it with its own tools first",
    r"layers\.0\.blocks\.0\..*": "windows and stages (Swin)",
}
WRAPPERS = re.compile(
    r"^(?:_orig_mod\.|module\.|backbone\.|model\.|teacher\.|student\.|encoder\.|visual\.trunk\.|visual\.|vision_model\."
    r"|vit\.|beit\.|dinov3_vit\.|params/img/|params/|opt/target/)+"
)


def refuse(source: Source) -> None:
    """Raise CheckpointUnsupported for an architecture that is not known, by its name or else by its tensors."""
    if "architecture" in source.config:
        timm_config.family(source.config)
    elif "model_type" in source.config:
        transformers_config.network(source.config)
    else:
        _refuse_by_tensors(source)


def _refuse_by_tensors(source: Source) -> None:
    for key in source.tensors:
        name = WRAPPERS.sub("", key)
        for pattern, feature in ARCHITECTURES.items():
            if re.fullmatch(pattern, name):
                raise CheckpointUnsupported(f"the network has {feature}, which is not supported (tensor {key!r})")
