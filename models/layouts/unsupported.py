"""Networks that look like a Vision Transformer's checkpoint and are another: refused by name.

Some share so many names with a plain one that they would load and answer wrongly. A key that matches a pattern
settles it.
"""

import re
from collections.abc import Iterable

from models.errors import CheckpointUnsupported

OTHERS = {
    r"head\.probe|attn_pool\.(?:latent|q|probe).*|MAPHead_0/.*|probe": "an attention-pooling head (SigLIP, CoCa)",
    r"rope_embed\.periods|storage_tokens": "rotary positions (DINOv3)",
    r"embeddings\.patch_embeddings\.weight": "rotary positions (DINOv3)",
    r".*relative_position_(?:bias|index).*": "relative positions (BEiT)",
    r"blocks\.\d+\.attn\.(?:q_bias|v_bias)": "split biases (BEiT, EVA)",
    r"blocks\.\d+\.attn\.(?:q_proj|k_proj|v_proj)\..*": "separate q, k, v projections (EVA)",
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


def refuse(keys: Iterable[str]) -> None:
    """Raise CheckpointUnsupported where a key gives away another network."""
    for key in keys:
        bare = WRAPPERS.sub("", key)
        for pattern, what in OTHERS.items():
            if re.fullmatch(pattern, bare):
                raise CheckpointUnsupported(f"the network has {what}, which is not supported (tensor {key!r})")
