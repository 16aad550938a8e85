"""The architectures of timm that are served: a row of this table says what the family of each one needs.

timm saves nothing of rotary positions and of other parts without weights: only the name of the architecture shows them.
So a name is served because it is in this table, and not because its tensors fit. Each network was compared with timm's:
docs/coverage.md has the result, and `python -m tests.coverage --rows NAMES` prints the rows of further names.

The names of before timm 0.9 (`vit_base_patch16_224_in21k`) are here too, because older checkpoints have them.

Source: huggingface/pytorch-image-models 1.0.31, `vision_transformer.py`, `deit.py`, `eva.py`, `beit.py`,
`vision_transformer_relpos.py` and `naflexvit.py`.
"""

import re

from models.errors import CheckpointUnsupported
from models.layouts.timm.family import Architecture, Family
from models.network.positions.rotary import Rotary

EVA_ROTARY = Rotary(10_000.0, reference=(16, 16))
PE_ROTARY = {side: Rotary(10_000.0, axes="xy", offset=1.0, reference=(side, side)) for side in (14, 24, 32)}
DINOV3_ROTARY = Rotary(100.0, "centred", interleaved=False)

FAMILIES: dict[str, Family] = {
    "plain": Family(
        names={
            (6, 2): "test_vit",
            (8, 2): "test_vit2",
            (12, 3): (
                "deit_tiny_distilled_patch16_224 deit_tiny_patch16_224 vit_tiny_patch16_224 "
                "vit_tiny_patch16_224_in21k vit_tiny_patch16_384"
            ),
            (12, 6): (
                "deit3_small_patch16_224 deit3_small_patch16_224_in21ft1k deit3_small_patch16_384 "
                "deit3_small_patch16_384_in21ft1k deit_small_distilled_patch16_224 deit_small_patch16_224 "
                "vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2 vit_small_patch16_224 "
                "vit_small_patch16_224_dino vit_small_patch16_224_in21k vit_small_patch16_384 "
                "vit_small_patch32_224 vit_small_patch32_224_in21k vit_small_patch32_384 vit_small_patch8_224 "
                "vit_small_patch8_224_dino"
            ),
            (12, 8): (
                "deit3_medium_patch16_224 deit3_medium_patch16_224_in21ft1k vit_medium_patch16_gap_240 "
                "vit_medium_patch16_gap_256 vit_medium_patch16_gap_384 vit_medium_patch16_reg1_gap_256 "
                "vit_medium_patch16_reg4_gap_256"
            ),
            (12, 10): (
                "vit_betwixt_patch16_gap_256 vit_betwixt_patch16_reg1_gap_256 vit_betwixt_patch16_reg4_gap_256 "
                "vit_betwixt_patch16_reg4_gap_384"
            ),
            (12, 12): (
                "deit3_base_patch16_224 deit3_base_patch16_224_in21ft1k deit3_base_patch16_384 "
                "deit3_base_patch16_384_in21ft1k deit_base_distilled_patch16_224 deit_base_distilled_patch16_384 "
                "deit_base_patch16_224 deit_base_patch16_384 vit_base_patch14_dinov2 "
                "vit_base_patch14_reg1_tipsv2 vit_base_patch14_reg4_dinov2 vit_base_patch16_224 "
                "vit_base_patch16_224_dino vit_base_patch16_224_in21k vit_base_patch16_224_miil "
                "vit_base_patch16_224_miil_in21k vit_base_patch16_224_sam vit_base_patch16_384 "
                "vit_base_patch16_reg4_gap_256 vit_base_patch32_224 vit_base_patch32_224_in21k "
                "vit_base_patch32_224_sam vit_base_patch32_384 vit_base_patch8_224 vit_base_patch8_224_dino "
                "vit_base_patch8_224_in21k"
            ),
            (12, 14): "vit_base_patch16_plus_240 vit_base_patch32_plus_256",
            (12, 16): "vit_base_patch16_gap_224",
            (14, 4): "vit_wee_patch16_reg1_gap_256",
            (14, 5): "vit_little_patch16_reg1_gap_256 vit_little_patch16_reg4_gap_256",
            (18, 14): "vit_so150m_patch16_reg4_gap_256 vit_so150m_patch16_reg4_gap_384",
            (20, 8): "vit_mediumd_patch16_reg4_gap_256 vit_mediumd_patch16_reg4_gap_384",
            (21, 13): (
                "vit_so150m2_patch16_reg1_gap_256 vit_so150m2_patch16_reg1_gap_384 vit_so150m2_patch16_reg1_gap_448"
            ),
            (24, 16): (
                "deit3_large_patch16_224 deit3_large_patch16_224_in21ft1k deit3_large_patch16_384 "
                "deit3_large_patch16_384_in21ft1k eva_large_patch14_196 eva_large_patch14_336 "
                "vit_intern300m_patch14_448 vit_large_patch14_224 vit_large_patch14_dinov2 "
                "vit_large_patch14_reg1_tipsv2 vit_large_patch14_reg4_dinov2 vit_large_patch16_224 "
                "vit_large_patch16_224_in21k vit_large_patch16_384 vit_large_patch32_224 "
                "vit_large_patch32_224_in21k vit_large_patch32_384"
            ),
            (27, 16): "vit_so400m_patch14_reg1_tipsv2",
            (32, 16): (
                "deit3_huge_patch14_224 deit3_huge_patch14_224_in21ft1k vit_huge_patch14_224 "
                "vit_huge_patch14_224_in21k vit_huge_patch14_gap_224 vit_huge_patch16_gap_448"
            ),
            (36, 6): "vit_small_patch16_36x1_224",
            (40, 16): "vit_giant_patch14_224 vit_giant_patch16_gap_224",
            (40, 24): "vit_giant_patch14_dinov2 vit_giant_patch14_reg1_tipsv2 vit_giant_patch14_reg4_dinov2",
            (48, 16): "vit_gigantic_patch14_224",
        },
    ),
    "flexivit": Family(
        names={
            (12, 6): "flexivit_small",
            (12, 12): "flexivit_base",
            (24, 16): "flexivit_large",
        },
        profile="flexivit",
    ),
    "clip": Family(
        names={
            (10, 4): "vit_xsmall_patch16_clip_224",
            (12, 8): "vit_medium_patch16_clip_224 vit_medium_patch32_clip_224",
            (12, 10): "vit_betwixt_patch32_clip_224",
            (12, 12): (
                "vit_base_patch16_clip_224 vit_base_patch16_clip_384 vit_base_patch32_224_clip_laion2b "
                "vit_base_patch32_clip_224 vit_base_patch32_clip_256 vit_base_patch32_clip_384 "
                "vit_base_patch32_clip_448"
            ),
            (12, 14): "vit_base_patch16_plus_clip_240",
            (24, 16): "vit_large_patch14_224_clip_laion2b vit_large_patch14_clip_224 vit_large_patch14_clip_336",
            (32, 16): (
                "vit_huge_patch14_224_clip_laion2b vit_huge_patch14_clip_224 vit_huge_patch14_clip_336 "
                "vit_huge_patch14_clip_378"
            ),
            (40, 16): "vit_giant_patch14_224_clip_laion2b vit_giant_patch14_clip_224",
            (48, 16): "vit_gigantic_patch14_clip_224 vit_gigantic_patch14_clip_378",
        },
        norm_eps=1e-5,
        projects=True,
    ),
    "clip_quickgelu": Family(
        names={
            (12, 12): "vit_base_patch16_clip_quickgelu_224 vit_base_patch32_clip_quickgelu_224",
            (24, 16): "vit_large_patch14_clip_quickgelu_224 vit_large_patch14_clip_quickgelu_336",
            (32, 16): "vit_huge_patch14_clip_quickgelu_224 vit_huge_patch14_clip_quickgelu_378",
            (48, 16): "vit_gigantic_patch14_clip_quickgelu_224",
        },
        act="quick_gelu",
        norm_eps=1e-5,
        projects=True,
    ),
    "siglip": Family(
        names={
            (12, 12): (
                "vit_base_patch16_siglip_224 vit_base_patch16_siglip_256 vit_base_patch16_siglip_384 "
                "vit_base_patch16_siglip_512 vit_base_patch16_siglip_gap_224 vit_base_patch16_siglip_gap_256 "
                "vit_base_patch16_siglip_gap_384 vit_base_patch16_siglip_gap_512"
            ),
            (24, 16): (
                "vit_large_patch16_siglip_256 vit_large_patch16_siglip_384 vit_large_patch16_siglip_gap_256 "
                "vit_large_patch16_siglip_gap_384"
            ),
            (27, 16): (
                "vit_so400m_patch14_siglip_224 vit_so400m_patch14_siglip_378 vit_so400m_patch14_siglip_384 "
                "vit_so400m_patch14_siglip_gap_224 vit_so400m_patch14_siglip_gap_378 "
                "vit_so400m_patch14_siglip_gap_384 vit_so400m_patch14_siglip_gap_448 "
                "vit_so400m_patch14_siglip_gap_896"
            ),
        },
    ),
    "siglip_tanh": Family(
        names={
            (12, 12): "vit_base_patch32_siglip_256 vit_base_patch32_siglip_gap_256",
            (24, 16): "vit_large_patch16_siglip_512 vit_large_patch16_siglip_gap_512",
            (27, 16): (
                "vit_so400m_patch16_siglip_256 vit_so400m_patch16_siglip_384 vit_so400m_patch16_siglip_512 "
                "vit_so400m_patch16_siglip_gap_256 vit_so400m_patch16_siglip_gap_384 "
                "vit_so400m_patch16_siglip_gap_512"
            ),
            (40, 16): (
                "vit_giantopt_patch16_siglip_256 vit_giantopt_patch16_siglip_384 "
                "vit_giantopt_patch16_siglip_gap_256 vit_giantopt_patch16_siglip_gap_384"
            ),
        },
        act="gelu_tanh",
    ),
    "siglip_prefix": Family(
        names={
            (9, 3): "test_vit3",
        },
        pool_prefix=True,
    ),
    "eva": Family(
        names={
            (40, 16): "eva_giant_patch14_224 eva_giant_patch14_336 eva_giant_patch14_560",
        },
    ),
    "eva_clip": Family(
        names={
            (40, 16): "eva_giant_patch14_clip_224",
        },
        projects=True,
    ),
    "eva02": Family(
        names={
            (12, 3): "eva02_tiny_patch14_224 eva02_tiny_patch14_336",
            (12, 6): "eva02_small_patch14_224 eva02_small_patch14_336",
            (12, 12): "eva02_base_patch14_224 eva02_base_patch14_448",
            (24, 16): "eva02_large_patch14_224 eva02_large_patch14_448",
        },
        rotary=EVA_ROTARY,
    ),
    "eva02_clip": Family(
        names={
            (12, 12): "eva02_base_patch16_clip_224",
            (24, 16): "eva02_large_patch14_clip_224 eva02_large_patch14_clip_336",
        },
        rotary=EVA_ROTARY,
        projects=True,
    ),
    "eva02_enormous": Family(
        names={
            (64, 16): "eva02_enormous_patch14_clip_224",
        },
        norm_post=True,
        projects=True,
    ),
    "rope_gap": Family(
        names={
            (12, 8): "vit_medium_patch16_rope_reg1_gap_256",
            (12, 10): "vit_betwixt_patch16_rope_reg4_gap_256",
            (12, 12): "vit_base_patch16_rope_reg1_gap_256",
            (20, 8): "vit_mediumd_patch16_rope_reg1_gap_256",
        },
        rotary=EVA_ROTARY,
    ),
    "rope": Family(
        names={
            (12, 6): "vit_small_patch16_rope_224 vit_small_patch16_rope_ape_224",
            (12, 12): "vit_base_patch16_rope_224 vit_base_patch16_rope_ape_224",
            (24, 16): "vit_large_patch16_rope_224 vit_large_patch16_rope_ape_224",
        },
        rotary=Rotary(100.0, axes="xy"),
    ),
    "rope_mixed": Family(
        names={
            (12, 6): "vit_small_patch16_rope_mixed_224 vit_small_patch16_rope_mixed_ape_224",
            (12, 12): "vit_base_patch16_rope_mixed_224 vit_base_patch16_rope_mixed_ape_224",
            (24, 16): "vit_large_patch16_rope_mixed_224 vit_large_patch16_rope_mixed_ape_224",
        },
        rotary=Rotary(10.0, axes="xy", learned=True),
    ),
    "pe_14": Family(
        names={
            (12, 12): "vit_pe_core_base_patch16_224",
        },
        norm_eps=1e-5,
        rotary=PE_ROTARY[14],
        pool_heads=8,
        pool_prefix=True,
        projects=True,
    ),
    "pe_24": Family(
        names={
            (12, 3): "vit_pe_core_tiny_patch16_384",
            (12, 6): "vit_pe_core_small_patch16_384",
            (24, 16): "vit_pe_core_large_patch14_336",
        },
        norm_eps=1e-5,
        rotary=PE_ROTARY[24],
        pool_heads=8,
        pool_prefix=True,
        projects=True,
    ),
    "pe_32": Family(
        names={
            (12, 3): "vit_pe_spatial_tiny_patch16_512",
            (12, 6): "vit_pe_spatial_small_patch16_512",
            (12, 12): "vit_pe_spatial_base_patch16_512",
            (23, 16): "vit_pe_lang_large_patch14_448",
            (24, 16): "vit_pe_spatial_large_patch14_448",
        },
        norm_eps=1e-5,
        rotary=PE_ROTARY[32],
        pool_heads=8,
        pool_prefix=True,
        projects=True,
    ),
    "pe_gigantic": Family(
        names={
            (47, 16): "vit_pe_lang_gigantic_patch14_448",
            (50, 16): "vit_pe_core_gigantic_patch14_448 vit_pe_spatial_gigantic_patch14_448",
        },
        norm_eps=1e-5,
        rotary=Rotary(10_000.0, axes="xy", reference=(32, 32)),
        pool_heads=8,
        pool_prefix=True,
        projects=True,
    ),
    "dinov3": Family(
        names={
            (12, 3): "vit_tiny_patch16_dinov3_qkvb",
            (12, 6): (
                "vit_small_patch16_dinov3 vit_small_patch16_dinov3_qkvb vit_small_patch16_lingbot "
                "vit_small_plus_patch16_dinov3 vit_small_plus_patch16_dinov3_qkvb"
            ),
            (12, 12): "vit_base_patch16_dinov3 vit_base_patch16_dinov3_qkvb vit_base_patch16_lingbot",
            (24, 16): "vit_large_patch16_dinov3 vit_large_patch16_dinov3_qkvb vit_large_patch16_lingbot",
            (32, 20): "vit_huge_plus_patch16_dinov3 vit_huge_plus_patch16_dinov3_qkvb",
            (40, 24): "vit_giant_patch16_lingbot",
            (40, 32): "vit_7b_patch16_dinov3",
        },
        norm_eps=1e-5,
        rotary=DINOV3_ROTARY,
    ),
    "sapiens2": Family(
        names={
            (12, 12): "vit_base_patch16_sapiens2",
            (24, 16): "vit_large_patch16_sapiens2",
            (32, 16): "vit_huge_patch16_sapiens2",
            (40, 24): "vit_giant_patch16_sapiens2",
            (56, 32): "vit_5b_patch16_sapiens2",
        },
        norm_type="rms",
        rotary=DINOV3_ROTARY,
    ),
    "aimv2": Family(
        names={
            (24, 8): "aimv2_large_patch14_224 aimv2_large_patch14_336 aimv2_large_patch14_448",
            (24, 12): "aimv2_huge_patch14_224 aimv2_huge_patch14_336 aimv2_huge_patch14_448",
            (24, 16): "aimv2_1b_patch14_224 aimv2_1b_patch14_336 aimv2_1b_patch14_448",
            (24, 24): "aimv2_3b_patch14_224 aimv2_3b_patch14_336 aimv2_3b_patch14_448",
        },
        norm_type="rms",
        norm_eps=1e-5,
    ),
    "naflex": Family(
        names={
            (12, 12): "naflexvit_base_patch16_gap naflexvit_base_patch16_map",
            (21, 13): "naflexvit_so150m2_patch16_reg1_gap naflexvit_so150m2_patch16_reg1_map",
        },
        naflex=True,
    ),
    "naflex_siglip": Family(
        names={
            (12, 12): "naflexvit_base_patch16_siglip",
            (27, 16): "naflexvit_so400m_patch16_siglip",
        },
        act="gelu_tanh",
        profile="siglip2",
        naflex=True,
    ),
    "naflex_par": Family(
        names={
            (12, 12): "naflexvit_base_patch16_par_gap",
        },
        profile="timm-par",
        naflex=True,
    ),
    "naflex_radio": Family(
        names={
            (24, 16): "naflexvit_large_patch16_radio_v3",
            (27, 16): "naflexvit_so400m_patch16_radio_v4",
            (32, 16): "naflexvit_huge_patch16_radio_v4",
            (40, 24): "naflexvit_giant_patch16_radio_v3",
        },
        profile="radio",
        naflex=True,
    ),
    "naflex_radio_aligned": Family(
        names={
            (12, 12): "naflexvit_base_patch16_radio_v3",
            (32, 16): "naflexvit_huge_patch16_radio_v3",
        },
        profile="radio-aligned",
        naflex=True,
    ),
    "radio": Family(
        names={
            (12, 12): "vit_base_patch16_radio_v3",
            (24, 16): "vit_large_patch16_radio_v3",
            (27, 16): "vit_so400m_patch16_radio_v4",
            (32, 16): "vit_huge_patch16_radio_v3 vit_huge_patch16_radio_v4",
            (40, 24): "vit_giant_patch16_radio_v3",
        },
    ),
    "naflex_parfac": Family(
        names={
            (12, 12): "naflexvit_base_patch16_parfac_gap",
        },
        profile="timm-parfac",
        naflex=True,
    ),
    "beit": Family(
        names={
            (12, 12): "beit_base_patch16_224 beit_base_patch16_384 beitv2_base_patch16_224",
            (24, 16): ("beit_large_patch16_224 beit_large_patch16_384 beit_large_patch16_512 beitv2_large_patch16_224"),
        },
    ),
    "beit3": Family(
        names={
            (12, 12): "beit3_base_patch16_224",
            (24, 16): "beit3_large_patch16_224",
            (40, 16): "beit3_giant_patch14_224 beit3_giant_patch14_336",
        },
        norm_eps=1e-5,
    ),
    "relpos": Family(
        names={
            (9, 3): "test_vit_relpos",
            (12, 6): "vit_relpos_small_patch16_224 vit_srelpos_small_patch16_224",
            (12, 8): ("vit_relpos_medium_patch16_224 vit_relpos_medium_patch16_cls_224 vit_srelpos_medium_patch16_224"),
            (12, 12): (
                "vit_relpos_base_patch16_224 vit_relpos_base_patch16_cls_224 vit_relpos_base_patch16_clsgap_224"
            ),
            (12, 14): "vit_relpos_base_patch16_plus_240",
        },
    ),
    "rpn": Family(
        names={
            (12, 6): "vit_relpos_small_patch16_rpn_224",
            (12, 8): "vit_relpos_medium_patch16_rpn_224",
            (12, 12): "vit_base_patch16_rpn_224 vit_relpos_base_patch16_rpn_224",
            (12, 14): "vit_relpos_base_patch32_plus_rpn_256",
        },
        norm_post=True,
    ),
}

ARCHITECTURES: dict[str, Architecture] = {
    name: Architecture(name, family_name, family, depth, num_heads)
    for family_name, family in FAMILIES.items()
    for (depth, num_heads), names in family.names.items()
    for name in names.split()
}


REFUSED = {
    "^samvit_": "windows and a neck (SAM)",
    r"_r\d*_s\d+_|_mci_|_resnet\d|_patch16_224_r50": "a convolutional stem (hybrid)",
    "_dp?wee_|_dlittle_": "differential attention",
    "_pwee_|_18x2_|_parallel_": "parallel blocks",
}
"""Pattern of a name that is not served -> why, for the sentence of the refusal."""


def find(name: str) -> Architecture:
    """Return the architecture of this name, which may end with the tag of its weights. Raises CheckpointUnsupported."""
    architecture = ARCHITECTURES.get(name.partition(".")[0])
    if architecture is None:
        feature = next((feature for pattern, feature in REFUSED.items() if re.search(pattern, name)), None)
        if feature:
            raise CheckpointUnsupported(f"config.json: {name} has {feature}, which is not supported")
        raise CheckpointUnsupported(
            f"config.json: timm's architecture {name!r} is not one that is served; docs/coverage.md has the families"
        )
    return architecture
