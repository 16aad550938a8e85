"""The architectures of timm that are served, and the family of each.

timm saves nothing of rotary positions and of other parts without weights: only the name of the architecture shows them.
So a name is served because it is in this table, and not because its tensors fit. Each network was compared with timm's.

Source: huggingface/pytorch-image-models 1.0.31: `vision_transformer.py`, `deit.py`, `eva.py` and
`naflexvit.py`.
"""

from models.layouts.timm.family import Family
from models.network.positions.rotary import Rotary

EVA_ROTARY = Rotary(10_000.0, reference=(16, 16))
PE_ROTARY = {side: Rotary(10_000.0, axes="xy", offset=1.0, reference=(side, side)) for side in (14, 24, 32)}
DINOV3_ROTARY = Rotary(100.0, "centred", interleaved=False)

PLAIN = Family(pool_prefix=False)
CLIP = Family(norm_eps=1e-5, pool_prefix=False, projects=True)
SIGLIP = Family(pool_prefix=False)
SIGLIP_PREFIX = Family()
EVA = Family()
EVA_CLIP = Family(projects=True)
EVA02 = Family(rotary=EVA_ROTARY)
EVA02_CLIP = Family(rotary=EVA_ROTARY, projects=True)
EVA02_E = Family(norm_post=True, projects=True)
ROPE_GAP = Family(rotary=EVA_ROTARY)
PE14, PE24, PE32 = (Family(norm_eps=1e-5, rotary=rotary, pool_heads=8, projects=True) for rotary in PE_ROTARY.values())
PE_GIGANTIC = Family(norm_eps=1e-5, rotary=Rotary(10_000.0, axes="xy", reference=(32, 32)), pool_heads=8, projects=True)
ROPE_VIT = Family(rotary=Rotary(100.0, axes="xy"))
ROPE_MIXED = Family(rotary=Rotary(10.0, axes="xy", learned=True))
DINOV3 = Family(norm_eps=1e-5, rotary=DINOV3_ROTARY)
DINOV3_7B = Family(norm_eps=1e-5, rotary=DINOV3_ROTARY, head_dim=128)
AIMV2 = Family("rms", 1e-5, head_dim=128, pool_prefix=False)
NAFLEX = Family(pool_prefix=False, naflex=True)
NAFLEX_SIGLIP = Family(pool_prefix=False, naflex=True, profile="siglip2")
NAFLEX_PAR = Family(pool_prefix=False, naflex=True, profile="timm-par")
NAFLEX_PARFAC = Family(pool_prefix=False, naflex=True, profile="timm-parfac")
SAPIENS2 = Family("rms", 1e-6, rotary=DINOV3_ROTARY)

NAMES: tuple[tuple[Family, str], ...] = (
    (
        PLAIN,
        """
        deit3_base_patch16_224 deit3_base_patch16_384 deit3_huge_patch14_224 deit3_large_patch16_224
        deit3_large_patch16_384 deit3_medium_patch16_224 deit3_small_patch16_224 deit3_small_patch16_384
        deit_base_distilled_patch16_224 deit_base_distilled_patch16_384 deit_base_patch16_224 deit_base_patch16_384
        deit_small_distilled_patch16_224 deit_small_patch16_224 deit_tiny_distilled_patch16_224
        deit_tiny_patch16_224 eva_large_patch14_196 eva_large_patch14_336 flexivit_base flexivit_large
        flexivit_small test_vit test_vit2 vit_base_patch14_dinov2 vit_base_patch14_reg1_tipsv2
        vit_base_patch14_reg4_dinov2 vit_base_patch16_224 vit_base_patch16_224_miil vit_base_patch16_384
        vit_base_patch16_gap_224 vit_base_patch16_plus_240 vit_base_patch16_reg4_gap_256
        vit_base_patch16_siglip_gap_224 vit_base_patch16_siglip_gap_256 vit_base_patch16_siglip_gap_384
        vit_base_patch16_siglip_gap_512 vit_base_patch32_224 vit_base_patch32_384 vit_base_patch32_plus_256
        vit_base_patch32_siglip_gap_256 vit_base_patch8_224 vit_betwixt_patch16_gap_256
        vit_betwixt_patch16_reg1_gap_256 vit_betwixt_patch16_reg4_gap_256 vit_betwixt_patch16_reg4_gap_384
        vit_giant_patch14_224 vit_giant_patch14_dinov2 vit_giant_patch14_reg1_tipsv2 vit_giant_patch14_reg4_dinov2
        vit_giant_patch16_gap_224 vit_giantopt_patch16_siglip_gap_256 vit_giantopt_patch16_siglip_gap_384
        vit_gigantic_patch14_224 vit_huge_patch14_224 vit_huge_patch14_gap_224 vit_huge_patch16_gap_448
        vit_intern300m_patch14_448 vit_large_patch14_224 vit_large_patch14_dinov2 vit_large_patch14_reg1_tipsv2
        vit_large_patch14_reg4_dinov2 vit_large_patch16_224 vit_large_patch16_384 vit_large_patch16_siglip_gap_256
        vit_large_patch16_siglip_gap_384 vit_large_patch16_siglip_gap_512 vit_large_patch32_224
        vit_large_patch32_384 vit_little_patch16_reg1_gap_256 vit_little_patch16_reg4_gap_256
        vit_medium_patch16_gap_240 vit_medium_patch16_gap_256 vit_medium_patch16_gap_384
        vit_medium_patch16_reg1_gap_256 vit_medium_patch16_reg4_gap_256 vit_mediumd_patch16_reg4_gap_256
        vit_mediumd_patch16_reg4_gap_384 vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2
        vit_small_patch16_224 vit_small_patch16_36x1_224 vit_small_patch16_384 vit_small_patch32_224
        vit_small_patch32_384 vit_small_patch8_224 vit_so150m2_patch16_reg1_gap_256 vit_so150m2_patch16_reg1_gap_384
        vit_so150m2_patch16_reg1_gap_448 vit_so150m_patch16_reg4_gap_256 vit_so150m_patch16_reg4_gap_384
        vit_so400m_patch14_reg1_tipsv2 vit_so400m_patch14_siglip_gap_224 vit_so400m_patch14_siglip_gap_378
        vit_so400m_patch14_siglip_gap_384 vit_so400m_patch14_siglip_gap_448 vit_so400m_patch14_siglip_gap_896
        vit_so400m_patch16_siglip_gap_256 vit_so400m_patch16_siglip_gap_384 vit_so400m_patch16_siglip_gap_512
        vit_tiny_patch16_224 vit_tiny_patch16_384 vit_wee_patch16_reg1_gap_256
        """,
    ),
    (
        CLIP,
        """
        vit_base_patch16_clip_224 vit_base_patch16_clip_384 vit_base_patch16_clip_quickgelu_224
        vit_base_patch16_plus_clip_240 vit_base_patch32_clip_224 vit_base_patch32_clip_256 vit_base_patch32_clip_384
        vit_base_patch32_clip_448 vit_base_patch32_clip_quickgelu_224 vit_betwixt_patch32_clip_224
        vit_giant_patch14_clip_224 vit_gigantic_patch14_clip_224 vit_gigantic_patch14_clip_378
        vit_gigantic_patch14_clip_quickgelu_224 vit_huge_patch14_clip_224 vit_huge_patch14_clip_336
        vit_huge_patch14_clip_378 vit_huge_patch14_clip_quickgelu_224 vit_huge_patch14_clip_quickgelu_378
        vit_large_patch14_clip_224 vit_large_patch14_clip_336 vit_large_patch14_clip_quickgelu_224
        vit_large_patch14_clip_quickgelu_336 vit_medium_patch16_clip_224 vit_medium_patch32_clip_224
        vit_xsmall_patch16_clip_224
        """,
    ),
    (
        SIGLIP,
        """
        vit_base_patch16_siglip_224 vit_base_patch16_siglip_256 vit_base_patch16_siglip_384
        vit_base_patch16_siglip_512 vit_base_patch32_siglip_256 vit_giantopt_patch16_siglip_256
        vit_giantopt_patch16_siglip_384 vit_large_patch16_siglip_256 vit_large_patch16_siglip_384
        vit_large_patch16_siglip_512 vit_so400m_patch14_siglip_224 vit_so400m_patch14_siglip_378
        vit_so400m_patch14_siglip_384 vit_so400m_patch16_siglip_256 vit_so400m_patch16_siglip_384
        vit_so400m_patch16_siglip_512
        """,
    ),
    (SIGLIP_PREFIX, "test_vit3"),
    (
        EVA,
        """
        eva_giant_patch14_224 eva_giant_patch14_336 eva_giant_patch14_560
        """,
    ),
    (EVA_CLIP, "eva_giant_patch14_clip_224"),
    (
        EVA02,
        """
        eva02_base_patch14_224 eva02_base_patch14_448 eva02_large_patch14_224 eva02_large_patch14_448
        eva02_small_patch14_224 eva02_small_patch14_336 eva02_tiny_patch14_224 eva02_tiny_patch14_336
        """,
    ),
    (
        EVA02_CLIP,
        """
        eva02_base_patch16_clip_224 eva02_large_patch14_clip_224 eva02_large_patch14_clip_336
        """,
    ),
    (EVA02_E, "eva02_enormous_patch14_clip_224"),
    (
        ROPE_GAP,
        """
        vit_base_patch16_rope_reg1_gap_256 vit_betwixt_patch16_rope_reg4_gap_256
        vit_medium_patch16_rope_reg1_gap_256 vit_mediumd_patch16_rope_reg1_gap_256
        """,
    ),
    (PE14, "vit_pe_core_base_patch16_224"),
    (
        PE24,
        """
        vit_pe_core_large_patch14_336 vit_pe_core_small_patch16_384 vit_pe_core_tiny_patch16_384
        """,
    ),
    (
        PE32,
        """
        vit_pe_lang_large_patch14_448 vit_pe_spatial_base_patch16_512 vit_pe_spatial_large_patch14_448
        vit_pe_spatial_small_patch16_512 vit_pe_spatial_tiny_patch16_512
        """,
    ),
    (
        PE_GIGANTIC,
        """
        vit_pe_core_gigantic_patch14_448 vit_pe_lang_gigantic_patch14_448 vit_pe_spatial_gigantic_patch14_448
        """,
    ),
    (
        ROPE_VIT,
        """
        vit_base_patch16_rope_224 vit_base_patch16_rope_ape_224 vit_large_patch16_rope_224
        vit_large_patch16_rope_ape_224 vit_small_patch16_rope_224 vit_small_patch16_rope_ape_224
        """,
    ),
    (
        ROPE_MIXED,
        """
        vit_base_patch16_rope_mixed_224 vit_base_patch16_rope_mixed_ape_224 vit_large_patch16_rope_mixed_224
        vit_large_patch16_rope_mixed_ape_224 vit_small_patch16_rope_mixed_224 vit_small_patch16_rope_mixed_ape_224
        """,
    ),
    (
        DINOV3,
        """
        vit_base_patch16_dinov3 vit_base_patch16_dinov3_qkvb vit_base_patch16_lingbot vit_giant_patch16_lingbot
        vit_huge_plus_patch16_dinov3 vit_huge_plus_patch16_dinov3_qkvb vit_large_patch16_dinov3
        vit_large_patch16_dinov3_qkvb vit_large_patch16_lingbot vit_small_patch16_dinov3
        vit_small_patch16_dinov3_qkvb vit_small_patch16_lingbot vit_small_plus_patch16_dinov3
        vit_small_plus_patch16_dinov3_qkvb vit_tiny_patch16_dinov3_qkvb
        """,
    ),
    (
        AIMV2,
        """
        aimv2_1b_patch14_224 aimv2_1b_patch14_336 aimv2_1b_patch14_448 aimv2_3b_patch14_224 aimv2_3b_patch14_336
        aimv2_3b_patch14_448 aimv2_huge_patch14_224 aimv2_huge_patch14_336 aimv2_huge_patch14_448
        aimv2_large_patch14_224 aimv2_large_patch14_336 aimv2_large_patch14_448
        """,
    ),
    (
        NAFLEX,
        """
        naflexvit_base_patch16_gap naflexvit_base_patch16_map naflexvit_so150m2_patch16_reg1_gap
        naflexvit_so150m2_patch16_reg1_map
        """,
    ),
    (NAFLEX_SIGLIP, "naflexvit_base_patch16_siglip naflexvit_so400m_patch16_siglip"),
    (NAFLEX_PAR, "naflexvit_base_patch16_par_gap"),
    (NAFLEX_PARFAC, "naflexvit_base_patch16_parfac_gap"),
    (DINOV3_7B, "vit_7b_patch16_dinov3"),
    (
        SAPIENS2,
        """
        vit_5b_patch16_sapiens2 vit_base_patch16_sapiens2 vit_giant_patch16_sapiens2 vit_huge_patch16_sapiens2
        vit_large_patch16_sapiens2
        """,
    ),
)
"""Each family with the names of its architectures."""

OLD_NAMES: tuple[tuple[Family, str], ...] = (
    (
        PLAIN,
        """
        deit3_base_patch16_224_in21ft1k deit3_base_patch16_384_in21ft1k deit3_huge_patch14_224_in21ft1k
        deit3_large_patch16_224_in21ft1k deit3_large_patch16_384_in21ft1k deit3_medium_patch16_224_in21ft1k
        deit3_small_patch16_224_in21ft1k deit3_small_patch16_384_in21ft1k vit_base_patch16_224_dino
        vit_base_patch16_224_in21k vit_base_patch16_224_miil_in21k vit_base_patch16_224_sam vit_base_patch32_224_in21k
        vit_base_patch32_224_sam vit_base_patch8_224_dino vit_base_patch8_224_in21k vit_huge_patch14_224_in21k
        vit_large_patch16_224_in21k vit_large_patch32_224_in21k vit_small_patch16_224_dino vit_small_patch16_224_in21k
        vit_small_patch32_224_in21k vit_small_patch8_224_dino vit_tiny_patch16_224_in21k
        """,
    ),
    (
        CLIP,
        """
        vit_base_patch32_224_clip_laion2b vit_giant_patch14_224_clip_laion2b vit_huge_patch14_224_clip_laion2b
        vit_large_patch14_224_clip_laion2b
        """,
    ),
)
"""Names of the same networks before timm 0.9, which older checkpoints have."""

ARCHITECTURES: dict[str, Family] = {name: family for family, names in NAMES + OLD_NAMES for name in names.split()}
