"""The same JPEG through the original's preprocessing and through ours, to the pixel."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from app.images import Limits, decode, to_network
from models.checkpoint import build, open_checkpoint
from models.defaults import SEVEN_EIGHTHS
from models.preprocess import Preprocess
from tests.checkpoints import timm_family, transformers_family
from tests.originals import timm, torchvision
from tests.server import ROOT

ORIGINALS_OF: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViTImageProcessor", {"size": {"height": 64, "width": 64}, "do_convert_rgb": True}),
    "ViT, old file": ("ViTFeatureExtractor", {"size": 64, "resample": 3}),
    "ViT, constants": ("ViTImageProcessor", {"size": 64, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
    "ViT, not rescaled": ("ViTImageProcessor", {"size": 64, "do_rescale": False, "image_mean": 128, "image_std": 64}),
    "ViT, not normalised": ("ViTImageProcessor", {"size": 64, "do_normalize": False}),
    "DeiT": ("DeiTImageProcessor", {"size": {"height": 72, "width": 72}, "crop_size": {"height": 64, "width": 64}}),
    "DeiT, a number": ("DeiTImageProcessor", {"size": 72, "crop_size": 64}),
    "Bit": ("BitImageProcessor", {"size": {"shortest_edge": 73}, "crop_size": 64}),
    "CLIP": ("CLIPImageProcessor", {"size": 64, "crop_size": 64}),
    "CLIP, odd margins": ("CLIPImageProcessor", {"size": {"shortest_edge": 71}, "crop_size": 64}),
    "CLIP, uncut": ("CLIPImageProcessor", {"size": {"shortest_edge": 64}, "do_center_crop": False}),
}
SIZES = [(480, 640), (256, 259), (200, 90), (77, 300), (50, 41)]


def jpeg(height: int, width: int) -> bytes:
    """A picture with detail and a gradient of every colour, so that a shift or a swapped channel shows."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = 255 * rows / height, 255 * columns / width
    blue = 127 + 100 * np.sin(rows / 5) * np.cos(columns / 7)
    noise = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    pixels = np.clip(np.stack([red, green, blue], -1) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()


def ours(data: bytes, preprocess: Preprocess, patch: tuple[int, int] = (8, 8)) -> NDArray[np.float32]:
    """What the network is given of a file: (3, H, W)."""
    picture = decode(data, Limits(("JPEG", "PNG"), 10**7))
    pixels = to_network(picture, preprocess.plan(picture.size, patch), preprocess.interpolation) / np.float32(255)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocess.mean, preprocess.std))
    return ((pixels - mean) / std).astype(np.float32)


def processed(folder: Path, data: bytes, backend: str = "pil") -> NDArray[np.float32]:
    import transformers

    fields = json.loads((folder / "preprocessor_config.json").read_text())
    kind = (fields.get("image_processor_type") or fields["feature_extractor_type"]).replace(
        "FeatureExtractor", "ImageProcessor"
    )
    name = kind + ("Pil" if backend == "pil" else "")
    processor: Any = getattr(transformers, name)(**{k: v for k, v in fields.items() if not k.endswith("_type")})
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    answer = processor(picture, return_tensors="pt")["pixel_values"][0].numpy()
    height, width = (side // 8 * 8 for side in answer.shape[1:])
    return answer[:, :height, :width]  # what whole patches see


@pytest.mark.parametrize("name", ORIGINALS_OF)
def test_pixels_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    kind, fields = ORIGINALS_OF[name]
    transformers_family.VARIANTS["ViT"](tmp_path)
    key = "feature_extractor_type" if "FeatureExtractor" in kind else "image_processor_type"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({key: kind, **fields}))
    preprocess = open_checkpoint(str(tmp_path)).content.preprocess
    for size in SIZES:
        data = jpeg(*size)
        mine, theirs = ours(data, preprocess), processed(tmp_path, data)
        assert mine.shape == theirs.shape, size
        assert float(np.abs(mine - theirs).max()) <= 1e-5 * max(1.0, float(np.abs(theirs).max())), size


def test_the_other_back_end_of_transformers_differs_by_a_level_at_most(tmp_path: Path) -> None:
    # torchvision resizes 8-bit tensors with its own rounding.
    kind, fields = ORIGINALS_OF["CLIP"]
    transformers_family.VARIANTS["ViT"](tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind, **fields}))
    preprocess = open_checkpoint(str(tmp_path)).content.preprocess
    for size in SIZES:
        difference = np.abs(ours(jpeg(*size), preprocess) - processed(tmp_path, jpeg(*size), "torchvision"))
        assert float(difference.max()) <= 1.01 / 255 / min(preprocess.std)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
def test_pixels_are_those_of_timm(mode: str, crop_pct: float, tmp_path: Path) -> None:
    timm_family.make("vit_tiny_patch16_224", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"] |= {"crop_pct": crop_pct, "crop_mode": mode}
    (tmp_path / "config.json").write_text(json.dumps(config))
    preprocess = open_checkpoint(str(tmp_path)).content.preprocess
    resolved = timm.data.resolve_data_config({}, pretrained_cfg=config["pretrained_cfg"])
    transform = timm.data.create_transform(**resolved, is_training=False)
    for size in SIZES:
        data = jpeg(*size)
        theirs = transform(Image.open(io.BytesIO(data)).convert("RGB")).numpy()
        assert float(np.abs(ours(data, preprocess) - theirs).max()) <= 1e-5


def test_pixels_are_those_of_torchvision() -> None:
    weights = torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1
    preprocess = Preprocess((224, 224), crop_pct=SEVEN_EIGHTHS, interpolation="bilinear")
    for size in SIZES:
        data = jpeg(*size)
        theirs = weights.transforms()(Image.open(io.BytesIO(data)).convert("RGB")).numpy()
        assert float(np.abs(ours(data, preprocess, (16, 16)) - theirs).max()) <= 1e-5


def test_a_crop_of_transformers_lies_a_pixel_from_torchvisions() -> None:
    # 259 - 224 = 35: half of it is 17 for transformers, and rounds to 18 elsewhere.
    own, other = (
        Preprocess((224, 224), crop_pct=224 / 256, crop_rounding=rounding).plan((256, 259), (16, 16)).offset
        for rounding in ("floor", "even")
    )
    assert (own, other) == ((16, 17), (16, 18))


def test_the_whole_way_of_a_file(tmp_path: Path) -> None:
    """A file's bytes to logits, through transformers and through ours."""
    original = transformers_family.VARIANTS["ViT"](tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", "size": 64})
    )

    checkpoint = open_checkpoint(str(tmp_path))
    data = (ROOT / "examples" / "espresso.jpg").read_bytes()
    mine = build(checkpoint)([torch.from_numpy(ours(data, checkpoint.content.preprocess))]).logits
    theirs = original.forward(torch.from_numpy(processed(tmp_path, data))[None])["logits"]
    assert mine is not None
    assert float((mine - theirs).abs().max()) <= 1e-5 * max(1.0, float(theirs.abs().max()))
