"""The files of a network of 8 bits: what is written is what is read, and what is damaged is refused by name."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.checkpoints.checkpoint import Checkpoint, build, open_checkpoint
from models.checkpoints.convert import convert
from models.checkpoints.describe import accuracy, describe
from models.errors import CheckpointBroken, CheckpointUnsupported
from models.network.config import ViTConfig
from models.network.positions.relative import Relative
from models.network.positions.rotary import Rotary
from models.network.positions.sincos import SinCos
from models.preprocess import Labels, Preprocess
from models.quantization.file import FACTS, Facts
from tests.network.test_network import images, tiny
from tests.quantization.networks import content_of, opened


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    content = content_of(tiny(), images(*[(64, 64)] * 4), labels=Labels(tuple("abcdefg")), reasons={"heads": "so"})
    return opened(content, tmp_path_factory.mktemp("int8") / "network")


@pytest.fixture
def folder(written: Checkpoint, tmp_path: Path) -> Path:
    """A copy of the files, to damage."""
    for file in Path(written.source).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    "config",
    [
        ViTConfig(48, 3, 4, 96, (8, 8), (8, 8), SinCos(5000.0)),
        ViTConfig(48, 3, 4, 96, (8, 8), (8, 8), None, rotary=Rotary(100.0, "centred", reference=(4, 4))),
        ViTConfig(48, 3, 4, 96, (8, 8), (8, 8), None, relative=Relative((8, 8), resampling="bilinear"), pool="avg"),
    ],
    ids=["computed", "rotary", "relative"],
)
@pytest.mark.parametrize("crop", [0.875, 1.0, Fraction(224, 256)], ids=str)
def test_every_config_comes_back_as_it_was(written: Checkpoint, config: ViTConfig, crop: Any) -> None:
    """To its type: fingerprints depend on how it is written."""
    made = written.content.quantization
    assert made is not None
    facts = Facts("f", 1, "timm", "timm", config, Preprocess((64, 64), crop_pct=crop), None, {}, made)
    again = FACTS.validate_python(json.loads(json.dumps(FACTS.dump_python(facts, mode="json"))))
    assert repr(again) == repr(facts)


def test_a_network_is_read_as_it_was_written(written: Checkpoint) -> None:
    content, network = written.content, build(written)
    assert content.labels == Labels(tuple("abcdefg"))
    assert content.reasons == {"heads": "so"}
    assert content.weights["blocks.1.attn.qkv.weight"].dtype == torch.int8
    assert content.config.layer_scale is False
    assert torch.isfinite(network(images((64, 64))).cls).all()
    assert open_checkpoint(written.source).digest == written.digest


def test_it_is_described_with_what_it_costs(written: Checkpoint) -> None:
    described = describe(written)
    assert described["parameters"] == sum(tensor.numel() for tensor in folded().state_dict().values())
    assert described["quantization"]["costs"][0]["cosine_median"] == 0.999
    (sentence,) = accuracy(written)
    assert sentence.startswith("int8 in ")
    assert sentence.endswith(
        "linear layers; against float32 on 40 pictures at 64 x 64: cosine least 0.9900, 1st percentile 0.9950, "
        "median 0.99900, same best class 98.0%"
    )


def folded() -> Any:
    return tiny(layer_scale=False)


def test_the_digest_depends_on_scales(written: Checkpoint, folder: Path) -> None:
    change(folder, lambda tensors: tensors["blocks.0.attn.qkv.input_scale"].mul_(1.01))
    assert open_checkpoint(str(folder)).digest != written.digest


def test_it_cannot_be_converted(written: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnsupported, match="layers of 8 bits; convert the checkpoint that this one was made"):
        convert(written, tmp_path / "converted")


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


QKV = "blocks.1.attn.qkv"
DAMAGE: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda tensors: tensors.pop(f"{QKV}.weight_scale"), f"tensor '{QKV}.weight_scale' is missing"),
    "unexpected": (lambda tensors: tensors.update(more=torch.ones(1)), "unexpected tensors: 'more'"),
    "no integers": (
        lambda tensors: tensors.update({f"{QKV}.weight": tensors[f"{QKV}.weight"].float()}),
        f"tensor '{QKV}.weight' is of type float32",
    ),
    "integers": (
        lambda tensors: tensors.update({"norm.weight": tensors["norm.weight"].to(torch.int8)}),
        "tensor 'norm.weight' is of type int8",
    ),
    "a scale of nothing": (lambda tensors: tensors[f"{QKV}.input_scale"].zero_(), f"tensor '{QKV}.input_scale' is 0.0"),
    "a zero beyond": (lambda tensors: tensors[f"{QKV}.input_zero"].fill_(256), f"tensor '{QKV}.input_zero' is 256.0"),
    "a zero between": (lambda tensors: tensors[f"{QKV}.input_zero"].fill_(1.5), f"tensor '{QKV}.input_zero' is 1.5"),
    "no number": (lambda tensors: tensors[f"{QKV}.weight_scale"].fill_(float("nan")), "NaN or infinite"),
    "another shape": (
        lambda tensors: tensors.update({f"{QKV}.weight": torch.zeros(3, 4, dtype=torch.int8)}),
        f"tensor '{QKV}.weight' has shape",
    ),
    "two zeros": (
        lambda tensors: tensors.update({f"{QKV}.input_zero": torch.zeros(2)}),
        f"tensor '{QKV}.input_zero' has shape",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_tensors_are_named(folder: Path, name: str) -> None:
    edit, message = DAMAGE[name]
    change(folder, edit)
    with pytest.raises(CheckpointBroken) as raised:
        open_checkpoint(str(folder))
    assert message in str(raised.value)
    assert str(raised.value).startswith(str(folder))


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another version": (lambda config: config.update(version=2), "is of version 2 of the format vitrine-int8"),
    "no width": (lambda config: config["config"].pop("embed_dim"), "config.json: config.embed_dim: field required"),
    "a word": (lambda config: config["config"].update(depth="many"), "config.json: config.depth"),
    "another layer": (
        lambda config: config["quantization"]["layers"].append("head"),
        "'head' is not a layer that can be of 8 bits",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_is_not_as_written_is_refused(folder: Path, name: str) -> None:
    edit, message = CONFIGS[name]
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((CheckpointBroken, CheckpointUnsupported)) as raised:
        open_checkpoint(str(folder))
    assert message in str(raised.value)


@pytest.mark.parametrize("choice", [{"profile": "dinov2"}, {"num_heads": 2}, {"labels": "none"}], ids=str)
def test_what_was_chosen_when_it_was_written_stays(written: Checkpoint, choice: dict[str, Any]) -> None:
    (name,) = choice
    with pytest.raises(CheckpointUnsupported, match=f"keeps its {name}; set {name} for vitrine quantize instead"):
        open_checkpoint(written.source, **choice)
