"""Damage: a missing, misshapen or unexpected tensor is an error of one line, for every tensor of every layout."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.checkpoints.checkpoint import interpret
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
IGNORED = re.compile(r".*(mask_token|position_ids|logit_scale|text|token_embedding|ln_final|input_resolution).*")
BLOCK = re.compile(r"(?:blocks|layers?|encoder_layer|encoderblock|resblocks)[._/]?(\d+)")


def with_tensors(source: Source, tensors: dict[str, Tensor]) -> Source:
    return Source(source.path, tensors, source.config, source.processor, source.open_clip, source.wrappers)


def keys_to_damage(source: Source) -> Iterator[str]:
    """Yield every tensor name that the network reads; of the blocks only block 1, because all are alike."""
    for key in source.tensors:
        block = BLOCK.search(key)
        both_towers = any(name.startswith("visual.") for name in source.tensors)
        vision = not both_towers or key.startswith("visual.")
        if vision and not IGNORED.match(key.removeprefix("visual.")) and (block is None or block[1] == "1"):
            yield key


def read(source: Source) -> None:
    interpret(source, Choices(num_heads=HEADS))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_missing_tensor_is_noticed(layout: str, tmp_path: Path) -> None:
    source = open_source(LAYOUTS[layout](tmp_path).path)
    read(source)
    for missing in keys_to_damage(source):
        rest = {key: tensor for key, tensor in source.tensors.items() if key != missing}
        with pytest.raises(CheckpointError) as caught:
            read(with_tensors(source, rest))
        assert "\n" not in str(caught.value), missing


# Without a config these tensors define the network: a wider patch or projection is a valid other network.
NO_CONFIG = {
    "DINOv2": ("patch_embed.proj.weight",),
    "torchvision": ("conv_proj.weight",),
    "OpenAI CLIP": ("visual.conv1.weight", "visual.proj"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_misshapen_tensor_is_noticed(layout: str, tmp_path: Path) -> None:
    source = open_source(LAYOUTS[layout](tmp_path).path)
    for misshapen in keys_to_damage(source):
        if layout in NO_CONFIG and misshapen.endswith(NO_CONFIG[layout]):
            continue
        tensor = source.tensors[misshapen]
        longer = torch.cat([tensor, tensor[..., :1]], dim=-1)
        with pytest.raises(CheckpointError) as caught:
            read(with_tensors(source, {**source.tensors, misshapen: longer}))
        assert "\n" not in str(caught.value), misshapen


def test_a_prefix_token_of_another_width_is_named(tmp_path: Path) -> None:
    source = open_source(LAYOUTS["DINOv2"](tmp_path).path)
    registers = {**source.tensors, "register_tokens": torch.zeros(1, 4, 7)}
    with pytest.raises(CheckpointBroken, match=r"tensor 'reg_token' has shape \(1, 4, 7\)"):
        read(with_tensors(source, registers))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_unexpected_tensor_is_named(layout: str, tmp_path: Path) -> None:
    source = open_source(LAYOUTS[layout](tmp_path).path)
    with pytest.raises(CheckpointBroken, match="unexpected_name"):
        read(with_tensors(source, {**source.tensors, "unexpected_name.weight": torch.zeros(3)}))


def test_a_gap_in_the_blocks_is_noticed(tmp_path: Path) -> None:
    for layout, make in LAYOUTS.items():
        folder = tmp_path / layout
        folder.mkdir()
        source = open_source(make(folder).path)
        left = {key: t for key, t in source.tensors.items() if not ((b := BLOCK.search(key)) and b[1] == "1")}
        with pytest.raises(CheckpointError):
            read(with_tensors(source, left))


def test_a_missing_last_block_is_noticed_if_a_config_states_the_depth(tmp_path: Path) -> None:
    source = open_source(LAYOUTS["ViT"](tmp_path).path)
    left = {key: tensor for key, tensor in source.tensors.items() if "layer.2." not in key}
    with pytest.raises(CheckpointBroken, match="depth is 3"):
        read(with_tensors(source, left))


def test_the_files_have_the_names_that_these_tests_assume(tmp_path: Path) -> None:
    LAYOUTS["ViT"](tmp_path)
    assert any("attention.attention.query" in key for key in load_file(tmp_path / "model.safetensors"))
    (tmp_path / "jax").mkdir()
    with np.load(LAYOUTS["JAX"](tmp_path / "jax").path) as archive:
        assert archive["Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"].ndim == 3
