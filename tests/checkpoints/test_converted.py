"""EVA-02 and Perception Encoder in timm's layout, next to the formulas of their originals."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.checkpoints.checkpoint import build, open_checkpoint
from tests.checkpoints.comparison import BAR, differences, open_network, relative
from tests.checkpoints.converted_family import VARIANTS
from tests.checkpoints.original import Original, pictures

Make = Callable[[Path], Original]


@pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS.keys())
def test_images_of_all_sizes_in_one_batch_equal_the_original(make: Make, tmp_path: Path) -> None:
    original = make(tmp_path)
    images = [pictures(size, count=1)[0] for size in original.sizes.values()]
    with torch.inference_mode():
        ours = open_network(original)(images)
        for index, image in enumerate(images):
            for what, expected in original.forward(image[None]).items():
                assert relative(expected[0], getattr(ours, what)[index]) <= BAR, (what, image.shape)


@pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_native_size_equals_the_original_without_a_profile(make: Make, tmp_path: Path) -> None:
    original = make(tmp_path)
    checkpoint = open_checkpoint(str(original.path))
    assert checkpoint.content.profile == "timm"
    found = differences(original, build(checkpoint))
    assert {name for name, row in found.items() if max(row.values()) <= BAR} == {"native"}
