"""Preprocessing: pixels equal to timm's, and the resolutions that a request can set."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.pictures import decode as decode_module
from app.pictures.decode import BY_TORCH, VECTORISED, Limits, Picture, decode, to_network
from app.settings import FORMATS
from models.network.vit import Readout
from models.preprocess import Preprocess, Steps
from tests.bounds import assert_equal_in_float32

LIMITS = Limits(FORMATS, 50_000_000)
PATCH = (14, 14)
CONFIGS: dict[str, tuple[dict[str, Any], Preprocess]] = {
    "default": ({"crop_pct": 1.0}, Preprocess((112, 112), crop_pct=1.0)),
    "crop 0.875": ({"crop_pct": 0.875}, Preprocess((112, 112), crop_pct=0.875)),
    "crop 0.9 bilinear": (
        {"crop_pct": 0.9, "interpolation": "bilinear"},
        Preprocess((112, 112), crop_pct=0.9, interpolation="bilinear"),
    ),
    "crop 0.95, 224": ({"crop_pct": 0.95, "input_size": (3, 224, 224)}, Preprocess((224, 224), crop_pct=0.95)),
    "wide": ({"crop_pct": 0.9, "input_size": (3, 70, 140)}, Preprocess((70, 140), crop_pct=0.9)),
    "tall": ({"crop_pct": 0.9, "input_size": (3, 140, 70)}, Preprocess((140, 70), crop_pct=0.9)),
    "squash": ({"crop_pct": 0.9, "crop_mode": "squash"}, Preprocess((112, 112), "squash", crop_pct=0.9)),
    "border": ({"crop_pct": 0.9, "crop_mode": "border"}, Preprocess((112, 112), "border", crop_pct=0.9)),
    "crop over 1": ({"crop_pct": 1.5}, Preprocess((112, 112), crop_pct=1.5)),
}
PICTURES = [(300, 451), (451, 300), (64, 64), (113, 259), (259, 113), (17, 500), (500, 17), (112, 112), (1, 1)]


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def timm_pixels(image: Image.Image, config: dict[str, Any]) -> Any:
    """The pixels of timm's evaluation transform, before normalisation: (3, H, W) uint8."""
    from tests.originals import timm

    defaults = {"input_size": (3, 112, 112), "interpolation": "bicubic", "crop_mode": "center"}
    transform = timm.data.create_transform(**defaults | config, normalize=False)
    return transform(image).numpy()


@pytest.mark.parametrize("size", PICTURES, ids=str)
@pytest.mark.parametrize(("config", "ours"), CONFIGS.values(), ids=CONFIGS.keys())
def test_pixels_equal_timms(config: dict[str, Any], ours: Preprocess, size: tuple[int, int]) -> None:
    image = noise(size)
    plan = ours.plan(size, PATCH)
    pixels = to_network(Picture(image, "PNG", (image.height, image.width)), plan, ours.interpolation)
    assert np.array_equal(pixels, timm_pixels(image, config))


def test_pixels_of_real_files_equal_timms(cat: bytes, espresso: bytes) -> None:
    ours = Preprocess((112, 112), crop_pct=0.9)
    for data in (cat, espresso):
        picture = decode(data, LIMITS)
        with Image.open(io.BytesIO(data)) as image:
            expected = timm_pixels(image.convert("RGB"), {"crop_pct": 0.9})
        assert np.array_equal(to_network(picture, ours.plan(picture.size, PATCH), "bicubic"), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest", "box", "hamming"])
@pytest.mark.parametrize("resize", [None, "squash"])
@pytest.mark.parametrize(
    "size", [(375, 500), (500, 375), (300, 90), (90, 300), (440, 100), (40, 61), (112, 112), (1, 300)], ids=str
)
def test_a_fast_resize_is_within_2_of_pillows(interpolation: str, size: Any, resize: Any) -> None:
    """Black and white noise overshoots most, and is clamped between the passes for rows and for columns."""
    image = noise(size).point(lambda value: 255 * (value > 127))
    plan = Preprocess((112, 112), "border" if size[0] == 1 else "crop", crop_pct=0.9).plan(size, PATCH, None, resize)
    for picture in (Picture(image, "PNG", size), Picture(noise(size), "PNG", size)):
        exact, fast = (to_network(picture, plan, interpolation, fast=fast) for fast in (False, True))
        assert np.abs(fast.astype(int) - exact).max() <= 2 * (interpolation in BY_TORCH and VECTORISED)
        assert (fast == exact).mean() >= 0.95


def test_a_fast_resize_is_torchs_where_both_go_row_by_row_first() -> None:
    picture = Picture(noise((375, 500)), "PNG", (375, 500))
    plan = Preprocess((112, 112), crop_pct=0.9).plan((375, 500), PATCH)
    exact, fast = (to_network(picture, plan, "bicubic", fast=fast) for fast in (False, True))
    assert np.array_equal(exact, fast) is not VECTORISED


@pytest.mark.parametrize("reason", ["no vector instructions", "a large image"])
def test_a_fast_resize_is_pillows_where_torch_would_be_slower(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, value = ("VECTORISED", False) if reason == "no vector instructions" else ("BY_TORCH_PIXELS", 300 * 400 - 1)
    monkeypatch.setattr(decode_module, name, value)
    picture = Picture(noise((300, 400)), "PNG", (300, 400))
    plan = Preprocess((112, 112)).plan((300, 400), PATCH)
    exact, fast = (to_network(picture, plan, "bicubic", fast=fast) for fast in (False, True))
    assert np.array_equal(exact, fast)


def test_the_engine_normalises_like_timm(checkpoint: Any, cat: bytes) -> None:
    from app.inference.engine import Engine
    from app.inference.jobs import Job
    from tests.originals import timm

    with Image.open(io.BytesIO(cat)) as image:
        config = {"input_size": (3, 112, 112), "crop_pct": 1.0, "interpolation": "bicubic"}
        expected = timm.data.create_transform(**config)(image.convert("RGB"))
    picture = decode(cat, LIMITS)
    preprocess = checkpoint.content.preprocess
    pixels = to_network(picture, preprocess.plan(picture.size, PATCH), preprocess.interpolation)
    assert_equal_in_float32(Engine(checkpoint, "cpu", "float32")._upload([Job(pixels, Readout.CLS)])()[0], expected)


def test_the_engine_gives_each_job_its_own_pixels(checkpoint: Any) -> None:
    from app.inference.engine import Engine
    from app.inference.jobs import Job

    # Portrait and landscape sizes and both dtypes, with no two alike next to each other.
    engine, rng = Engine(checkpoint, "cpu", "float32"), np.random.default_rng(5)
    files = [rng.integers(0, 256, (3, *size), np.uint8) for size in ((28, 42), (42, 28), (28, 42), (42, 28))]
    pixels = [files[0], files[1].astype(np.float32), files[2].astype(np.float32), files[3], files[2], files[1]]
    batch = engine._upload([Job(one, Readout.CLS) for one in pixels])()
    for one, batched in zip(pixels, batch, strict=True):
        (alone,) = engine._upload([Job(one, Readout.CLS)])()
        assert torch.equal(batched, alone)
        if one.dtype == np.float32:
            assert np.array_equal(alone.numpy(), one)


SIZES = {
    (70, 70): (70, 70),
    (100, 100): (98, 98),
    (105, 105): (112, 112),  # 7.5 patches: halves round up
    (1, 6): (14, 14),
    (140, 98): (140, 98),
}


@pytest.mark.parametrize(("requested", "rounded"), SIZES.items(), ids=str)
@pytest.mark.parametrize("resize", ["crop", "squash", None])
def test_a_size_is_rounded_to_whole_patches(requested: Any, rounded: Any, resize: Any) -> None:
    plan = Preprocess((112, 112), crop_pct=0.875).plan((300, 451), PATCH, requested, resize)
    assert plan.size == rounded


def test_fit_keeps_the_aspect_ratio_in_the_box() -> None:
    preprocess = Preprocess((112, 112))
    assert preprocess.plan((300, 450), PATCH, (224, 224), "fit").size == (154, 224)  # 149.3 pixels are 10.67 patches
    assert preprocess.plan((450, 300), PATCH, (224, 224), "fit").size == (224, 154)
    assert preprocess.plan((300, 450), PATCH, (112, 336), "fit").size == (112, 168)
    assert preprocess.plan((1, 20_000), PATCH, None, "fit").size == (14, 112)


def test_squash_keeps_the_whole_picture() -> None:
    plan = Preprocess((112, 112), crop_pct=0.5).plan((300, 450), PATCH, None, "squash")
    assert (plan.scaled, plan.offset, plan.size) == ((112, 112), (0, 0), (112, 112))


def test_crop_covers_and_crops_the_centre() -> None:
    plan = Preprocess((112, 112), "squash", crop_pct=0.875).plan((300, 450), PATCH, None, "crop")
    assert (plan.resize, plan.scaled, plan.offset) == ("crop", (128, 192), (8, 40))


def test_a_border_has_the_mean_colour() -> None:
    preprocess = Preprocess((112, 112), "border", crop_pct=1.0, mean=(0.1, 0.5, 0.9))
    plan = preprocess.plan((50, 100), PATCH)
    pixels = to_network(Picture(noise((50, 100)), "PNG", (50, 100)), plan, "bicubic")
    assert pixels[:, 0, 0].tolist() == [26, 128, 230]
    assert pixels[:, 111, 111].tolist() == [26, 128, 230]


side = st.integers(1, 3000)


@given(st.tuples(side, side), st.integers(1, 1200), st.sampled_from([14, 16]))
@settings(deadline=None, max_examples=300)
def test_a_budget_of_patches_is_used_as_siglip_2_uses_it(
    picture: tuple[int, int], max_patches: int, patch: int
) -> None:
    from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

    plan = Preprocess((112, 112), "border").plan(picture, (patch, patch), max_patches=max_patches)
    assert plan.size == plan.scaled == get_image_size_for_max_num_patches(*picture, patch, max_patches)
    assert plan.offset == (0, 0)
    assert (plan.size[0] // patch) * (plan.size[1] // patch) <= max_patches


def test_a_checkpoint_has_a_budget_where_a_request_has_no_size() -> None:
    preprocess = Preprocess((112, 112), "fit", crop_pct=1.0, max_patches=64)
    assert preprocess.plan((300, 450), PATCH).size == (84, 126)
    assert preprocess.plan((300, 450), PATCH, max_patches=6).size == (28, 42)
    assert preprocess.plan((300, 450), PATCH, (70, 70)).size == (42, 70)
    assert preprocess.plan((300, 450), PATCH, None, "squash").size == (112, 112)


@given(st.tuples(side, side), st.tuples(side, side), st.sampled_from(["crop", "squash", "fit", None]), side)
@settings(deadline=None, max_examples=300)
def test_every_plan_has_whole_patches_and_lies_in_the_picture(
    picture: tuple[int, int], size: tuple[int, int], resize: Any, percent: int
) -> None:
    all_steps: tuple[Steps, ...] = ("crop", "squash", "border")
    for steps in all_steps:
        plan = Preprocess((112, 112), steps, crop_pct=0.5 + percent / 6000).plan(picture, PATCH, size, resize)
        for scaled, offset, final, requested in zip(plan.scaled, plan.offset, plan.size, size, strict=True):
            assert final % 14 == 0
            assert 14 <= final <= max(14, requested + 7)
            assert scaled >= 1
            if resize in ("crop", "squash", "fit"):
                assert 0 <= offset <= scaled - final
