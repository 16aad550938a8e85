"""Checkpoints under the profile of another original: what the negative controls compare."""

from collections.abc import Callable
from pathlib import Path

from tests.checkpoints import bare_family, timm_family, transformers_family
from tests.checkpoints.original import Original

Mistake = tuple[Callable[[Path], Original], str]

BARE = bare_family.FORMULAS | {name: make for name, (_, make) in bare_family.INSTALLED.items()}
WRONG_PROFILES: dict[str, Mistake] = {
    "an offset where there is none": (transformers_family.VARIANTS["ViT"], "transformers-4.45"),
    "no antialias where there is": (transformers_family.VARIANTS["Dinov2WithRegisters"], "transformers"),
    "antialias where there is none": (transformers_family.VARIANTS["Dinov2"], "transformers-registers"),
    "timm without antialias": (timm_family.VARIANTS["plain"], "mae"),
    "DINO without its offset": (BARE["DINO"], "mae"),
    "DINOv2 without its offset": (BARE["DINOv2"], "mae"),
    "registers with the offset": (BARE["DINOv2 registers"], "dinov2"),
    "torchvision without aligned corners": (BARE["torchvision"], "mae"),
    "JAX without aligned corners": (BARE["JAX"], "timm-npz"),
    "flexivit by timm's usual rule": (timm_family.VARIANTS["flexivit"], "timm"),
}

WRONG_EVERYWHERE: dict[str, Mistake] = {
    "erf for tanh": (BARE["JAX"], "timm-npz"),
    "erf for QuickGELU": (BARE["OpenAI CLIP"], "open_clip"),
    "QuickGELU for erf": (BARE["open_clip"], "openai-clip"),
}
