"""The preprocessing of checkpoints that do not describe it: what the original's evaluation code does.

Sources: facebookresearch/dino `eval_linear.py`, dinov2 `dinov2/data/transforms.py`, deit `datasets.py`, mae
`util/datasets.py`, torchvision `models/vision_transformer.py` (the transforms of its weights), google-research
`vision_transformer/vit_jax/input_pipeline.py`, openai/CLIP `clip.py`.
"""

from dataclasses import replace
from fractions import Fraction

from models.layouts.source import Reading
from models.network.config import ViTConfig
from models.preprocess import CLIP_MEAN, CLIP_STD, INCEPTION_MEAN, INCEPTION_STD, Preprocess

SEVEN_EIGHTHS = Fraction(7, 8)  # resize the shorter side to 256, crop 224
USUAL_SIDE = 224


def default_preprocess(reading: Reading, config: ViTConfig, file: str) -> tuple[Preprocess, str]:
    """Return the checkpoint's preprocessing or else its profile's default, and the reason."""
    if reading.preprocess is not None:
        return reading.preprocess, "the checkpoint's config"
    native = config.grid_size[0] * config.patch_size[0], config.grid_size[1] * config.patch_size[1]
    default = _of_profile(reading, config, native, file)
    return (
        default,
        f"assumed: what the original ({reading.profile}) does; a config.json in the same folder overrides it",
    )


def _of_profile(reading: Reading, config: ViTConfig, native: tuple[int, int], file: str) -> Preprocess:
    profile = reading.profile
    if profile in ("dino", "dinov2", "dinov2-reg"):
        # Trained on larger images, but evaluated at 224.
        return Preprocess((min(native[0], USUAL_SIDE), min(native[1], USUAL_SIDE)), crop_pct=SEVEN_EIGHTHS)
    if profile in ("deit", "mae"):
        whole = "blocks.0.ls1.gamma" in reading.tensors if profile == "deit" else max(native) > USUAL_SIDE
        return Preprocess(native, crop_pct=1.0 if whole else SEVEN_EIGHTHS)
    if profile == "torchvision":
        return _torchvision(config, native, file)
    if profile in ("jax", "timm-npz"):
        return Preprocess(native, "squash", 1.0, "bilinear", mean=INCEPTION_MEAN, std=INCEPTION_STD)
    if profile in ("openai-clip", "open_clip"):
        return Preprocess(native, crop_pct=1.0, mean=CLIP_MEAN, std=CLIP_STD)
    timm = Preprocess(native, crop_pct=0.9, mean=INCEPTION_MEAN, std=INCEPTION_STD)  # timm's default for a ViT
    return replace(timm, crop_rounding="floor") if profile.startswith("transformers") else timm


def _torchvision(config: ViTConfig, native: tuple[int, int], file: str) -> Preprocess:
    """Return the transforms of torchvision's published weights, which are distinguished by size and file name."""
    swag = "swag" in file or native[0] > USUAL_SIDE or config.embed_dim == 1280
    if swag:
        return Preprocess(native, crop_pct=1.0)
    large16 = config.embed_dim == 1024 and config.patch_size == (16, 16)
    shortest = Fraction(native[0], 242) if large16 and native[0] == USUAL_SIDE else SEVEN_EIGHTHS
    return Preprocess(native, crop_pct=shortest, interpolation="bilinear")
