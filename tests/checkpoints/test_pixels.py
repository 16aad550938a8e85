"""The pixels of each original's preprocessing and of Vitrine's are equal for the same JPEG."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.checkpoints.checkpoint import build, open_checkpoint
from models.checkpoints.defaults import SEVEN_EIGHTHS
from models.preprocess import Preprocess
from tests.checkpoints import transformers_family
from tests.checkpoints.pixels import PROCESSORS, SIZES, jpeg, ours, pixel_differences, processed, timm_pixel_differences
from tests.originals import torchvision
from tests.server import ROOT


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_equal_transformers(name: str, tmp_path: Path) -> None:
    assert max(pixel_differences(tmp_path, name, "pil")) <= 1e-5


def test_the_torchvision_backend_of_transformers_differs_by_at_most_one_level(tmp_path: Path) -> None:
    # torchvision rounds differently when resizing 8-bit tensors; with these constants one level is 2 / 255.
    assert 1e-5 < max(pixel_differences(tmp_path, "ViT, constants", "torchvision")) <= 1.01 * 2 / 255


def test_the_pixels_of_dinov3_differ_by_at_most_one_level(tmp_path: Path) -> None:
    # Its processor resizes without rounding; Pillow rounds to 8 bits. One level is 1 / 255 / std, and std is 0.224.
    assert max(pixel_differences(tmp_path, "DINOv3", "torchvision")) <= 1.01 / 255 / 0.224


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
def test_pixels_equal_timm(mode: str, crop_pct: float, tmp_path: Path) -> None:
    assert max(timm_pixel_differences(tmp_path, mode, crop_pct)) <= 1e-5


def test_pixels_equal_torchvision() -> None:
    weights = torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1
    preprocess = Preprocess((224, 224), crop_pct=SEVEN_EIGHTHS, interpolation="bilinear")
    for size in SIZES:
        data = jpeg(*size)
        expected = weights.transforms()(Image.open(io.BytesIO(data)).convert("RGB")).numpy()
        assert float(np.abs(ours(data, preprocess, (16, 16)) - expected).max()) <= 1e-5


def test_the_crop_of_transformers_is_one_pixel_from_torchvisions() -> None:
    # 259 - 224 = 35: transformers rounds half of it to 17, the others to 18.
    own, other = (
        Preprocess((224, 224), crop_pct=224 / 256, crop_rounding=rounding).plan((256, 259), (16, 16)).offset
        for rounding in ("floor", "even")
    )
    assert (own, other) == ((16, 17), (16, 18))


def test_logits_of_a_file_equal_transformers(tmp_path: Path) -> None:
    """From the bytes of a file to logits, with transformers and with Vitrine."""
    original = transformers_family.VARIANTS["ViT"](tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", "size": 64})
    )

    checkpoint = open_checkpoint(str(tmp_path))
    data = (ROOT / "examples" / "espresso.jpg").read_bytes()
    mine = build(checkpoint)([torch.from_numpy(ours(data, checkpoint.content.preprocess))]).logits
    expected = original.forward(torch.from_numpy(processed(tmp_path, data))[None])["logits"]
    assert mine is not None
    assert float((mine - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
