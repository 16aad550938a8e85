"""A checkpoint converted to timm's layout gives the same answers, in Vitrine and in timm."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models.checkpoints.checkpoint import build, open_checkpoint
from models.checkpoints.convert import convert
from models.errors import CheckpointUnsupported
from tests.checkpoints.comparison import BAR
from tests.checkpoints.families import FAMILIES
from tests.checkpoints.original import SIZES, Family, Original, pictures
from tests.originals import timm

REFUSED = {
    "DINO, head on 4 blocks": "last 4 blocks",
    "DINO, head interleaved": "cls_avg_interleaved",
    "DINOv2, head": "cls_avg",
    "DINOv2, head on 4 blocks": "last 4 blocks",
    "DINOv2 registers, head on 4 blocks": "last 4 blocks",
    "DINOv2, head of a training run": "cls_avg",
    "DINOv3, head": "cls_avg",
    "JAX, representation layer": "representation layer",
    "torchvision, representation layer": "representation layer",
    "transformers, DeiT, bare": "representation layer",
    "transformers, ViT with pooler": "representation layer",
    "transformers, ViT with pooler, names in memory": "representation layer",
    "transformers, Dinov2": "cls_avg",
    "transformers, Dinov2 SwiGLU": "cls_avg",
    "transformers, Dinov2WithRegisters": "cls_avg",
    "transformers, CLIP with classifier": "before the final norm",
    "transformers, AIMv2 vision": "attention pooling of this form",
    "transformers, AIMv2 vision, native": "position embeddings that are computed",
    "transformers, AIMv2, both towers": "attention pooling of this form",
    "transformers, Data2VecVision, bare": "without a norm after the blocks",
}
CONVERTIBLE = [family for family in FAMILIES if family.name not in REFUSED]


def opened(original: Original) -> Any:
    return open_checkpoint(str(original.path), **original.options)


@pytest.mark.parametrize("family", CONVERTIBLE, ids=lambda family: family.name)
def test_a_converted_checkpoint_gives_the_same_answers(family: Family, tmp_path: Path) -> None:
    (tmp_path / "original").mkdir()
    original = family.make(tmp_path / "original")
    checkpoint = opened(original)
    differences = convert(checkpoint, tmp_path / "converted")
    again = open_checkpoint(str(tmp_path / "converted"))
    before, after = build(checkpoint), build(again)
    assert again.digest == checkpoint.digest
    assert again.content.config == checkpoint.content.config
    images = [pictures(size, count=1)[0] for size in SIZES.values()]
    ours, expected = after(images), before(images)
    for name in ("cls", "mean", "native", "logits"):
        mine, other = getattr(ours, name), getattr(expected, name)
        assert (mine is None) == (other is None), name
        assert mine is None or torch.equal(mine, other), name
    assert again.content.preprocess == checkpoint.content.preprocess
    assert again.content.labels == checkpoint.content.labels
    assert_timm_agrees(tmp_path / "converted", after, differences)


def assert_timm_agrees(folder: Path, network: Any, differences: list[str]) -> None:
    """timm loads the directory and agrees at the native size, except for the differences that `convert` reported."""
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    native = tuple(json.loads((folder / "config.json").read_text())["model_args"]["img_size"])
    images = pictures((native[0], native[1]))
    if any("periods" in difference for difference in differences):
        network.rotary.rule = dataclasses.replace(network.rotary.rule, rounded=False)
        network.rotary._cache._values.clear()
    with torch.inference_mode():
        expected, ours = model(images), network(list(images))
    answer = ours.logits if ours.logits is not None else ours.native
    assert answer is not None
    # Another epsilon changes the answers by about this much at the scale of these activations.
    bar = 5e-5 if any("LayerNorm" in difference for difference in differences) else BAR
    assert float((expected - answer).abs().max()) <= bar * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name in REFUSED], ids=lambda family: family.name)
def test_what_timm_cannot_express_is_refused_by_name(family: Family, tmp_path: Path) -> None:
    checkpoint = opened(family.make(tmp_path))
    with pytest.raises(CheckpointUnsupported, match=REFUSED[family.name]):
        convert(checkpoint, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_a_directory_with_files_is_not_overwritten(tmp_path: Path) -> None:
    checkpoint = opened(FAMILIES[0].make(tmp_path))
    with pytest.raises(FileExistsError):
        convert(checkpoint, tmp_path)
