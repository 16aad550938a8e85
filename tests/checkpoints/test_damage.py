"""Damage: whichever tensor is lost, misshapen or strange, the checkpoint is refused in one line that names it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.checkpoints.checkpoint import understand
from models.errors import CheckpointBroken, CheckpointError
from models.files.opening import open_source
from models.layouts.source import Choices, Source
from tests.checkpoints import timm_family, transformers_family
from tests.checkpoints.original import Original
from tests.checkpoints.reference import HEADS
from tests.checkpoints.wrong import BARE

LAYOUTS: dict[str, Callable[[Path], Original]] = {
    "timm": timm_family.VARIANTS["DINOv2 registers"],
    "timm, distilled": timm_family.VARIANTS["distilled"],
    "ViT": transformers_family.VARIANTS["ViT"],
    "Dinov2 SwiGLU": transformers_family.VARIANTS["Dinov2 SwiGLU, names in memory"],
    "CLIP": transformers_family.VARIANTS["CLIP with projection"],
    "DINOv2": BARE["DINOv2"],
    "torchvision": BARE["torchvision"],
    "JAX": BARE["JAX"],
    "OpenAI CLIP": BARE["OpenAI CLIP"],
}
NOT_NEEDED = re.compile(r".*(mask_token|position_ids|logit_scale|text|token_embedding|ln_final|input_resolution).*")
ITS_BLOCK = re.compile(r"(?:blocks|layers?|encoder_layer|encoderblock|resblocks)[._/]?(\d+)")


def changed(source: Source, tensors: dict[str, Tensor]) -> Source:
    return Source(source.path, tensors, source.config, source.processor, source.open_clip, source.wrappers)


def one_by_one(source: Source) -> Iterator[str]:
    """Every name that the network reads, of the blocks those of one in the middle alone: the others are the same."""
    for key in source.tensors:
        block = ITS_BLOCK.search(key)
        towers = any(name.startswith("visual.") for name in source.tensors)
        own = not towers or key.startswith("visual.")
        if own and not NOT_NEEDED.match(key.removeprefix("visual.")) and (block is None or block[1] == "1"):
            yield key


def read(source: Source) -> None:
    understand(source, Choices(num_heads=HEADS))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_is_missed(layout: str, tmp_path: Path) -> None:
    source = open_source(LAYOUTS[layout](tmp_path).path)
    read(source)
    for lost in one_by_one(source):
        left = {key: tensor for key, tensor in source.tensors.items() if key != lost}
        with pytest.raises(CheckpointError) as caught:
            read(changed(source, left))
        assert "\n" not in str(caught.value), lost


# Without a config a wider patch is another network, and so is a wider projection.
NO_CONFIG = {
    "DINOv2": ("patch_embed.proj.weight",),
    "torchvision": ("conv_proj.weight",),
    "OpenAI CLIP": ("visual.conv1.weight", "visual.proj"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_misshapen_tensor_is_noticed(layout: str, tmp_path: Path) -> None:
    source = open_source(LAYOUTS[layout](tmp_path).path)
    for wrong in one_by_one(source):
        if layout in NO_CONFIG and wrong.endswith(NO_CONFIG[layout]):
            continue
        tensor = source.tensors[wrong]
        longer = torch.cat([tensor, tensor[..., :1]], dim=-1)
        with pytest.raises(CheckpointError) as caught:
            read(changed(source, {**source.tensors, wrong: longer}))
        assert "\n" not in str(caught.value), wrong


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_stranger_is_named(layout: str, tmp_path: Path) -> None:
    source = open_source(LAYOUTS[layout](tmp_path).path)
    with pytest.raises(CheckpointBroken, match="stranger"):
        read(changed(source, {**source.tensors, "stranger.weight": torch.zeros(3)}))


def test_a_gap_in_the_blocks_is_noticed(tmp_path: Path) -> None:
    for layout, make in LAYOUTS.items():
        folder = tmp_path / layout
        folder.mkdir()
        source = open_source(make(folder).path)
        left = {key: t for key, t in source.tensors.items() if not ((b := ITS_BLOCK.search(key)) and b[1] == "1")}
        with pytest.raises(CheckpointError):
            read(changed(source, left))


def test_a_lost_last_block_is_noticed_where_a_config_counts_them(tmp_path: Path) -> None:
    source = open_source(LAYOUTS["ViT"](tmp_path).path)
    left = {key: tensor for key, tensor in source.tensors.items() if "layer.2." not in key}
    with pytest.raises(CheckpointBroken, match="depth is 3"):
        read(changed(source, left))


def test_files_hold_what_these_tests_think(tmp_path: Path) -> None:
    LAYOUTS["ViT"](tmp_path)
    assert any("attention.attention.query" in key for key in load_file(tmp_path / "model.safetensors"))
    (tmp_path / "jax").mkdir()
    with np.load(LAYOUTS["JAX"](tmp_path / "jax").path) as archive:
        assert archive["Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"].ndim == 3
