"""The preprocessing of originals whose files say nothing of it: what their own evaluation does to a picture.

Sources: facebookresearch/dino `eval_linear.py`, dinov2 `dinov2/data/transforms.py`, deit `datasets.py`, mae
`util/datasets.py`, torchvision `models/vision_transformer.py` (the transforms of its weights), google-research
`vision_transformer/vit_jax/input_pipeline.py`, openai/CLIP `clip.py`.
"""

from dataclasses import replace
from fractions import Fraction

from models.layouts.source import Reading
from models.network.config import ViTConfig
from models.preprocess import CLIP_MEAN, CLIP_STD, INCEPTION_MEAN, INCEPTION_STD, Preprocess

SEVEN_EIGHTHS = Fraction(7, 8)  # shortest side 256, of which 224 are cut
USUAL_SIDE = 224


def default_preprocess(reading: Reading, config: ViTConfig, file: str) -> tuple[Preprocess, str]:
    """What the checkpoint says, or the default of its profile, and why."""
    if reading.preprocess is not None:
        return reading.preprocess, "the checkpoint's config"
    native = config.grid_size[0] * config.patch_size[0], config.grid_size[1] * config.patch_size[1]
    default = _of_profile(reading, config, native, file)
    return default, f"assumed: what the original of {reading.profile} does; a config.json beside the file overrides it"


def _of_profile(reading: Reading, config: ViTConfig, native: tuple[int, int], file: str) -> Preprocess:
    profile = reading.profile
    if profile in ("dino", "dinov2", "dinov2-reg"):
        # Trained on larger pictures, evaluated at 224 all the same.
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
    """The transforms of torchvision's published weights, which are told apart by size and by the file's name."""
    swag = "swag" in file or native[0] > USUAL_SIDE or config.embed_dim == 1280
    if swag:
        return Preprocess(native, crop_pct=1.0)
    large16 = config.embed_dim == 1024 and config.patch_size == (16, 16)
    shortest = Fraction(native[0], 242) if large16 and native[0] == USUAL_SIDE else SEVEN_EIGHTHS
    return Preprocess(native, crop_pct=shortest, interpolation="bilinear")
