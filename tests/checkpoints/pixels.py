"""Compare the preprocessing of an original with Vitrine's on the same JPEG."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.pictures.decode import Limits, decode, to_network
from models.checkpoints.checkpoint import open_checkpoint
from models.preprocess import Preprocess
from tests.checkpoints import timm_family, transformers_family
from tests.originals import timm

PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViTImageProcessor", {"size": {"height": 64, "width": 64}, "do_convert_rgb": True}),
    "ViT, old file": ("ViTFeatureExtractor", {"size": 64, "resample": 3}),
    "ViT, constants": ("ViTImageProcessor", {"size": 64, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
    "ViT, not rescaled": ("ViTImageProcessor", {"size": 64, "do_rescale": False, "image_mean": 128, "image_std": 64}),
    "ViT, not normalised": ("ViTImageProcessor", {"size": 64, "do_normalize": False}),
    "DeiT": ("DeiTImageProcessor", {"size": {"height": 72, "width": 72}, "crop_size": {"height": 64, "width": 64}}),
    "DeiT, a number": ("DeiTImageProcessor", {"size": 72, "crop_size": 64}),
    "Bit": ("BitImageProcessor", {"size": {"shortest_edge": 73}, "crop_size": 64}),
    "Beit": ("BeitImageProcessor", {"size": {"height": 64, "width": 64}}),
    "Beit, old file": ("BeitFeatureExtractor", {"size": 64, "resample": 2, "crop_size": 64, "do_center_crop": False}),
    "CLIP": ("CLIPImageProcessor", {"size": 64, "crop_size": 64}),
    "CLIP, odd margins": ("CLIPImageProcessor", {"size": {"shortest_edge": 71}, "crop_size": 64}),
    "CLIP, uncut": ("CLIPImageProcessor", {"size": {"shortest_edge": 64}, "do_center_crop": False}),
}
SIGLIP: dict[str, tuple[str, str, dict[str, Any]]] = {
    "SigLIP": ("SigLIP vision", "SiglipImageProcessor", {"size": {"height": 64, "width": 64}}),
    "SigLIP 2 NaFlex": ("SigLIP 2 NaFlex vision", "Siglip2ImageProcessor", {"patch_size": 8, "max_num_patches": 50}),
}
PROCESSORS |= {name: (processor, fields) for name, (_, processor, fields) in SIGLIP.items()}
ROUNDLESS: dict[str, tuple[str, dict[str, Any]]] = {
    "DINOv3": ("DINOv3ViTImageProcessor", {"size": {"height": 64, "width": 64}}),
}
"""Processors that resize fractions and not 8-bit pixels; they have no backend of Pillow."""
SIZES = [(480, 640), (256, 259), (200, 90), (77, 300), (50, 41)]


def jpeg(height: int, width: int) -> bytes:
    """A picture with detail and a gradient in every channel, so that a shift or a swapped channel shows."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = 255 * rows / height, 255 * columns / width
    blue = 127 + 100 * np.sin(rows / 5) * np.cos(columns / 7)
    noise = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    pixels = np.clip(np.stack([red, green, blue], -1) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()


def ours(data: bytes, preprocess: Preprocess, patch: tuple[int, int] = (8, 8)) -> NDArray[np.float32]:
    """The network's input for a file, as Vitrine computes it: (3, H, W)."""
    picture = decode(data, Limits(("JPEG", "PNG"), 10**7))
    pixels = to_network(picture, preprocess.plan(picture.size, patch), preprocess.interpolation) / np.float32(255)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocess.mean, preprocess.std))
    return ((pixels - mean) / std).astype(np.float32)


def processed(folder: Path, data: bytes, backend: str = "pil") -> NDArray[np.float32]:
    import transformers

    fields = json.loads((folder / "preprocessor_config.json").read_text())
    name = (fields.get("image_processor_type") or fields["feature_extractor_type"]).replace(
        "FeatureExtractor", "ImageProcessor"
    )
    name += "Pil" if backend == "pil" else ""
    processor: Any = getattr(transformers, name)(**{k: v for k, v in fields.items() if not k.endswith("_type")})
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    batch = processor(picture, return_tensors="pt")
    answer = batch["pixel_values"][0].numpy()
    if "spatial_shapes" in batch:  # flat patches, and their number in each direction
        h, w = batch["spatial_shapes"][0].tolist()
        tiles = answer[: h * w].reshape(h, w, 8, 8, 3)
        answer = tiles.transpose(4, 0, 2, 1, 3).reshape(3, h * 8, w * 8)
    height, width = (side // 8 * 8 for side in answer.shape[1:])
    return answer[:, :height, :width]  # without what is not a whole patch


def pixel_differences(folder: Path, name: str, backend: str) -> list[float]:
    """Return for each picture the largest difference from the pixels of transformers' image processor."""
    processor, fields = (PROCESSORS | ROUNDLESS)[name]
    transformers_family.VARIANTS[SIGLIP[name][0] if name in SIGLIP else "ViT"](folder)
    key = "feature_extractor_type" if "FeatureExtractor" in processor else "image_processor_type"
    (folder / "preprocessor_config.json").write_text(json.dumps({key: processor, **fields}))
    preprocess = open_checkpoint(str(folder)).content.preprocess
    return [_largest(ours(data, preprocess), processed(folder, data, backend)) for data in map(_jpeg_of, SIZES)]


def timm_pixel_differences(folder: Path, mode: str, crop_pct: float) -> list[float]:
    """Return for each picture the largest difference from the pixels of timm's transform."""
    timm_family.make("vit_tiny_patch16_224", folder)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"crop_pct": crop_pct, "crop_mode": mode}
    (folder / "config.json").write_text(json.dumps(config))
    preprocess = open_checkpoint(str(folder)).content.preprocess
    resolved = timm.data.resolve_data_config({}, pretrained_cfg=config["pretrained_cfg"])
    transform = timm.data.create_transform(**resolved, is_training=False)
    return [
        _largest(ours(data, preprocess), transform(Image.open(io.BytesIO(data)).convert("RGB")).numpy())
        for data in map(_jpeg_of, SIZES)
    ]


def _jpeg_of(size: tuple[int, int]) -> bytes:
    return jpeg(*size)


def _largest(mine: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the largest difference, relative to the original's largest value if that is over 1."""
    assert mine.shape == expected.shape, (mine.shape, expected.shape)
    return float(np.abs(mine - expected).max()) / max(1.0, float(np.abs(expected).max()))
