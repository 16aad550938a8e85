"""A file without a config is taken for a plain network: this is said, can be set, and the name must not contradict."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor

from models.checkpoints.checkpoint import Checkpoint, open_checkpoint
from models.errors import CheckpointUnsupported
from tests.checkpoints import bare_family, timm_family
from tests.checkpoints.original import randomise
from tests.checkpoints.reference import HEADS, ClipTower, Facebook
from tests.cli.test_cli import CAT, vitrine
from tests.server import serving


def bare(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    torch.save(randomise(Facebook("plain")).state_dict(), path)
    return path


def tower(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Path:
    weights: dict[str, Tensor] = randomise(ClipTower(20)).state_dict()
    torch.save({key: value.to(dtype) for key, value in weights.items()}, folder / name)
    return folder / name


def opened(path: Path, **options: Any) -> Checkpoint:
    return open_checkpoint(str(path), num_heads=HEADS, **options)


def test_what_is_assumed_of_a_file_without_a_config_is_among_the_reasons(tmp_path: Path) -> None:
    reasons = opened(bare(tmp_path, "plain.pth")).content.reasons
    assert "taken for a plain Vision Transformer without rotary positions" in reasons["assumed"]
    assert "set profile" in reasons["assumed"]


def test_a_set_profile_is_no_assumption(tmp_path: Path) -> None:
    assert "assumed" not in opened(bare(tmp_path, "plain.pth"), profile="mae").content.reasons
    assert "assumed" not in opened(bare(tmp_path, "plain.pth"), profile="timm").content.reasons


@pytest.mark.parametrize("name", ["plain", "EVA-02"])
def test_a_config_that_names_the_architecture_leaves_nothing_to_assume(name: str, tmp_path: Path) -> None:
    original = timm_family.VARIANTS[name](tmp_path)
    assert "assumed" not in open_checkpoint(str(original.path)).content.reasons


@pytest.mark.parametrize(("dtype", "taken"), [(torch.float32, "GELU"), (torch.float16, "QuickGELU")])
def test_the_activation_of_a_bare_clip_tower_is_said(dtype: torch.dtype, taken: str, tmp_path: Path) -> None:
    content = opened(tower(tmp_path, "tower.pt", dtype)).content
    assert content.config.act == ("quick_gelu" if taken == "QuickGELU" else "gelu")
    assert f"taken to be {taken};" in content.reasons["assumed"]


def test_open_clips_config_leaves_nothing_to_assume(tmp_path: Path) -> None:
    original = bare_family.open_clip_trunk(tmp_path)
    assert "assumed" not in open_checkpoint(str(original.path), **original.options).content.reasons


CONTRADICTIONS = {
    "vit_base_patch16_rope_224.fb_in1k.pth": "'vit_base_patch16_rope_224', which is not a plain network",
    "my_vit_small_patch16_rope_ape_224-finetuned.pth": "'vit_small_patch16_rope_ape_224'",
    "vit_pe_lang_large_patch14_448.fb.bin": "'vit_pe_lang_large_patch14_448'",
    "vit_base_patch32_clip_quickgelu_224.pth": "'vit_base_patch32_clip_quickgelu_224'",
    "flexivit_small.pth": "'flexivit_small'",
    "vit_pe_tiny.pth": "PE",
    "PE-Core-B16-224.pt": "PE",
    "deit_small_rope.pth": "rotary positions",
    "dinov3_vits16.pth": "rotary positions",
    "vit-b-quickgelu-mine.pth": "QuickGELU",
    "vit_base_patch16_rope_224/model.bin": "'vit_base_patch16_rope_224'",
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_name_that_contradicts_the_assumption_is_an_error(name: str, tmp_path: Path) -> None:
    path = bare(tmp_path, name)
    with pytest.raises(CheckpointUnsupported, match=CONTRADICTIONS[name]) as caught:
        opened(path)
    assert "\n" not in str(caught.value)
    opened(path, profile="timm")


@pytest.mark.parametrize(
    "name",
    ["vit_small_patch16_224.dino.pth", "deit3_small_patch16_224.pth", "europe.pth", "property.pth", "type_core.pth"],
)
def test_a_name_that_says_nothing_else_is_served(name: str, tmp_path: Path) -> None:
    opened(bare(tmp_path, name))


def test_quickgelu_in_the_name_of_a_clip_tower(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnsupported, match="set profile to openai-clip"):
        opened(tower(tmp_path, "ViT-B-32-quickgelu-laion400m_e32.pt"))
    assert opened(tower(tmp_path, "ViT-B-32-quickgelu-half.pt", torch.float16)).content.config.act == "quick_gelu"
    path = tower(tmp_path, "ViT-B-32-quickgelu-laion400m_e32.pt")
    assert opened(path, profile="openai-clip").content.config.act == "quick_gelu"
    assert opened(path, profile="open_clip").content.config.act == "gelu"


def test_inspect_the_log_and_the_model_page_say_it(tmp_path: Path) -> None:
    path, said = bare(tmp_path, "plain.pth"), "taken for a plain Vision Transformer without rotary positions"
    assert said in vitrine("inspect", str(path), "--num-heads", "4").stdout
    assert said in vitrine("classify", CAT, "--model", str(path), "--num-heads", "4").stderr
    assert said not in vitrine("embed", CAT, "--model", str(path), "--num-heads", "4", "--profile", "mae").stderr
    log = tmp_path / "log"
    with serving(log, model=path, num_heads=HEADS) as server:
        assert said in httpx.get(f"{server.url}/model", timeout=30).json()["reasons"]["assumed"]
    assert said in log.read_text()
