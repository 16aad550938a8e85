"""Checkpoints loaded with the profile of another original, for the negative controls."""

from collections.abc import Callable
from pathlib import Path

from tests.checkpoints import bare_family, converted_family, timm_family, transformers_family
from tests.checkpoints.original import Original

Mistake = tuple[Callable[[Path], Original], str]

BARE = bare_family.FORMULAS | {name: make for name, (_, make) in bare_family.INSTALLED.items()}
WRONG_PROFILES: dict[str, Mistake] = {
    "ViT with an offset": (transformers_family.VARIANTS["ViT"], "transformers-4.45"),
    "registers without antialias": (transformers_family.VARIANTS["Dinov2WithRegisters"], "transformers"),
    "Dinov2 with antialias": (transformers_family.VARIANTS["Dinov2"], "transformers-registers"),
    "timm without antialias": (timm_family.VARIANTS["plain"], "mae"),
    "DINO without its offset": (BARE["DINO"], "mae"),
    "DINOv2 without its offset": (BARE["DINOv2"], "mae"),
    "DINOv2 registers with the offset": (BARE["DINOv2 registers"], "dinov2"),
    "torchvision without aligned corners": (BARE["torchvision"], "mae"),
    "JAX without aligned corners": (BARE["JAX"], "timm-npz"),
    "BEiT with transformers' rule": (timm_family.VARIANTS["BEiT"], "transformers"),
    "transformers' BEiT with BEiT's rule": (transformers_family.VARIANTS["BEiT"], "timm"),
    "SigLIP 2 NaFlex with timm's usual rule": (transformers_family.VARIANTS["SigLIP 2 NaFlex vision"], "timm"),
    "timm's NaFlex with SigLIP 2's rule": (timm_family.VARIANTS["NaFlex, average"], "siglip2"),
    "EVA-02 with timm's rule": (converted_family.VARIANTS["EVA-02"], "timm"),
    "PE with timm's rules": (converted_family.VARIANTS["PE core"], "timm"),
    "timm's PE with the original's rules": (timm_family.VARIANTS["PE core"], "pe"),
    "flexivit with timm's usual rule": (timm_family.VARIANTS["flexivit"], "timm"),
}

WRONG_EVERYWHERE: dict[str, Mistake] = {
    "erf GELU instead of tanh": (BARE["JAX"], "timm-npz"),
    "erf GELU instead of QuickGELU": (BARE["OpenAI CLIP"], "open_clip"),
    "QuickGELU instead of erf": (BARE["open_clip"], "openai-clip"),
    "DINOv3 with periods in float32": (BARE["DINOv3"], "timm"),
    "transformers' DINOv3 with rounded periods": (transformers_family.VARIANTS["DINOv3"], "dinov3"),
}
