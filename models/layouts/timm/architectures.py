"""The architectures of timm that are known to be plain Vision Transformers.

timm saves nothing of rotary positions and of other parts without weights: only the name of the architecture shows them.
So a name is served because it is in this table, and not because its tensors fit. Each network was compared with timm's.

Source: huggingface/pytorch-image-models 1.0.31, `vision_transformer.py` and `deit.py`.
"""

KNOWN = frozenset(
    """
    deit3_base_patch16_224 deit3_base_patch16_384 deit3_huge_patch14_224 deit3_large_patch16_224
    deit3_large_patch16_384 deit3_medium_patch16_224 deit3_small_patch16_224 deit3_small_patch16_384
    deit_base_distilled_patch16_224 deit_base_distilled_patch16_384 deit_base_patch16_224 deit_base_patch16_384
    deit_small_distilled_patch16_224 deit_small_patch16_224 deit_tiny_distilled_patch16_224
    deit_tiny_patch16_224 eva_large_patch14_196 eva_large_patch14_336 flexivit_base flexivit_large
    flexivit_small test_vit test_vit2 vit_base_patch14_dinov2 vit_base_patch14_reg1_tipsv2
    vit_base_patch14_reg4_dinov2 vit_base_patch16_224 vit_base_patch16_224_miil vit_base_patch16_384
    vit_base_patch16_clip_224 vit_base_patch16_clip_384 vit_base_patch16_clip_quickgelu_224
    vit_base_patch16_gap_224 vit_base_patch16_plus_240 vit_base_patch16_plus_clip_240
    vit_base_patch16_reg4_gap_256 vit_base_patch16_siglip_gap_224 vit_base_patch16_siglip_gap_256
    vit_base_patch16_siglip_gap_384 vit_base_patch16_siglip_gap_512 vit_base_patch32_224 vit_base_patch32_384
    vit_base_patch32_clip_224 vit_base_patch32_clip_256 vit_base_patch32_clip_384 vit_base_patch32_clip_448
    vit_base_patch32_clip_quickgelu_224 vit_base_patch32_plus_256 vit_base_patch32_siglip_gap_256
    vit_base_patch8_224 vit_betwixt_patch16_gap_256 vit_betwixt_patch16_reg1_gap_256
    vit_betwixt_patch16_reg4_gap_256 vit_betwixt_patch16_reg4_gap_384 vit_betwixt_patch32_clip_224
    vit_giant_patch14_224 vit_giant_patch14_clip_224 vit_giant_patch14_dinov2 vit_giant_patch14_reg1_tipsv2
    vit_giant_patch14_reg4_dinov2 vit_giant_patch16_gap_224 vit_giantopt_patch16_siglip_gap_256
    vit_giantopt_patch16_siglip_gap_384 vit_gigantic_patch14_224 vit_gigantic_patch14_clip_224
    vit_gigantic_patch14_clip_378 vit_gigantic_patch14_clip_quickgelu_224 vit_huge_patch14_224
    vit_huge_patch14_clip_224 vit_huge_patch14_clip_336 vit_huge_patch14_clip_378
    vit_huge_patch14_clip_quickgelu_224 vit_huge_patch14_clip_quickgelu_378 vit_huge_patch14_gap_224
    vit_huge_patch16_gap_448 vit_intern300m_patch14_448 vit_large_patch14_224 vit_large_patch14_clip_224
    vit_large_patch14_clip_336 vit_large_patch14_clip_quickgelu_224 vit_large_patch14_clip_quickgelu_336
    vit_large_patch14_dinov2 vit_large_patch14_reg1_tipsv2 vit_large_patch14_reg4_dinov2 vit_large_patch16_224
    vit_large_patch16_384 vit_large_patch16_siglip_gap_256 vit_large_patch16_siglip_gap_384
    vit_large_patch16_siglip_gap_512 vit_large_patch32_224 vit_large_patch32_384 vit_little_patch16_reg1_gap_256
    vit_little_patch16_reg4_gap_256 vit_medium_patch16_clip_224 vit_medium_patch16_gap_240
    vit_medium_patch16_gap_256 vit_medium_patch16_gap_384 vit_medium_patch16_reg1_gap_256
    vit_medium_patch16_reg4_gap_256 vit_medium_patch32_clip_224 vit_mediumd_patch16_reg4_gap_256
    vit_mediumd_patch16_reg4_gap_384 vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2
    vit_small_patch16_224 vit_small_patch16_36x1_224 vit_small_patch16_384 vit_small_patch32_224
    vit_small_patch32_384 vit_small_patch8_224 vit_so150m2_patch16_reg1_gap_256 vit_so150m2_patch16_reg1_gap_384
    vit_so150m2_patch16_reg1_gap_448 vit_so150m_patch16_reg4_gap_256 vit_so150m_patch16_reg4_gap_384
    vit_so400m_patch14_reg1_tipsv2 vit_so400m_patch14_siglip_gap_224 vit_so400m_patch14_siglip_gap_378
    vit_so400m_patch14_siglip_gap_384 vit_so400m_patch14_siglip_gap_448 vit_so400m_patch14_siglip_gap_896
    vit_so400m_patch16_siglip_gap_256 vit_so400m_patch16_siglip_gap_384 vit_so400m_patch16_siglip_gap_512
    vit_tiny_patch16_224 vit_tiny_patch16_384 vit_wee_patch16_reg1_gap_256 vit_xsmall_patch16_clip_224
    """.split()  # noqa: SIM905 - a list of strings would be four times as long
)

OLD_NAMES = frozenset(
    """
    deit3_base_patch16_224_in21ft1k deit3_base_patch16_384_in21ft1k deit3_huge_patch14_224_in21ft1k
    deit3_large_patch16_224_in21ft1k deit3_large_patch16_384_in21ft1k deit3_medium_patch16_224_in21ft1k
    deit3_small_patch16_224_in21ft1k deit3_small_patch16_384_in21ft1k vit_base_patch16_224_dino
    vit_base_patch16_224_in21k vit_base_patch16_224_miil_in21k vit_base_patch16_224_sam
    vit_base_patch32_224_clip_laion2b vit_base_patch32_224_in21k vit_base_patch32_224_sam
    vit_base_patch8_224_dino vit_base_patch8_224_in21k vit_giant_patch14_224_clip_laion2b
    vit_huge_patch14_224_clip_laion2b vit_huge_patch14_224_in21k vit_large_patch14_224_clip_laion2b
    vit_large_patch16_224_in21k vit_large_patch32_224_in21k vit_small_patch16_224_dino
    vit_small_patch16_224_in21k vit_small_patch32_224_in21k vit_small_patch8_224_dino vit_tiny_patch16_224_in21k
    """.split()  # noqa: SIM905 - a list of strings would be four times as long
)
"""Names of the same networks before timm 0.9, which older checkpoints have."""
