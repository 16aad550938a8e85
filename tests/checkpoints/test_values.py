"""Values that cannot be right: NaN, whole numbers in the place of weights, configs of other types or other tables."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.checkpoints.checkpoint import open_checkpoint
from models.errors import CheckpointBroken, CheckpointUnsupported
from tests.checkpoints import timm_family, transformers_family
from tests.checkpoints.comparison import BAR, differences, open_network, worst
from tests.checkpoints.reference import DIM, HEADS, jax_arrays
from tests.cli.test_cli import CAT, vitrine

Weights = dict[str, Tensor]


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_weights(folder: Path, change: Callable[[Weights], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


# Numbers


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_tensor_that_is_not_finite_is_named_as_in_the_file(value: str, dtype: torch.dtype, tmp_path: Path) -> None:
    transformers_family.VARIANTS["ViT"](tmp_path)
    key = next(key for key in load_file(tmp_path / "model.safetensors") if key.endswith("attention.query.weight"))

    def spoil(weights: Weights) -> None:
        for name in weights:
            weights[name] = weights[name].to(dtype)
        weights[key][3, 5] = float(value)

    change_weights(tmp_path, spoil)
    with pytest.raises(CheckpointBroken, match=rf"model\.safetensors: tensor '{re.escape(key)}' has values .* NaN"):
        open_checkpoint(str(tmp_path))


def test_large_numbers_whose_sum_is_infinite_are_weights(tmp_path: Path) -> None:
    timm_family.VARIANTS["plain"](tmp_path)
    change_weights(tmp_path, lambda weights: weights["norm.bias"].fill_(3e38))
    open_checkpoint(str(tmp_path))


def test_numbers_beyond_float32_are_refused(tmp_path: Path) -> None:
    arrays = {name: array.astype(np.float64) for name, array in jax_arrays().items()}
    arrays["cls"][..., 0] = 1e60
    np.savez(tmp_path / "toy.npz", **arrays)
    with pytest.raises(CheckpointBroken, match="tensor 'cls' has values"):
        open_checkpoint(str(tmp_path / "toy.npz"))


def test_nan_in_a_tensor_that_is_left_out_does_not_matter(tmp_path: Path) -> None:
    timm_family.VARIANTS["DINOv2"](tmp_path)
    change_weights(tmp_path, lambda weights: weights.update(mask_token=torch.full((1, DIM), torch.nan)))
    open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("command", ["inspect", "classify", "serve"])
def test_the_command_line_names_the_tensor_without_a_traceback(command: str, tmp_path: Path) -> None:
    timm_family.VARIANTS["plain"](tmp_path)
    change_weights(tmp_path, lambda weights: weights["norm.bias"].fill_(torch.nan))
    arguments = {"inspect": [str(tmp_path)], "classify": [CAT, "--model", str(tmp_path)]}
    ended = vitrine(command, *arguments.get(command, ["--model", str(tmp_path), "--port", "0"]))
    assert ended.returncode == 1
    assert "tensor 'norm.bias' has values that are NaN" in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("command", ["classify", "serve"])
def test_finite_weights_without_a_finite_answer_are_said(command: str, tmp_path: Path) -> None:
    timm_family.VARIANTS["plain"](tmp_path)
    change_weights(tmp_path, lambda weights: [weights[f"head.{part}"].fill_(3e38) for part in ("weight", "bias")])
    arguments = [CAT] if command == "classify" else ["--port", "0"]
    ended = vitrine(command, *arguments, "--model", str(tmp_path), "--dtype", "float32")
    assert ended.returncode == 1
    assert "does not answer with finite numbers in float32" in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr + ended.stdout


def test_a_device_that_does_not_exist_is_said_without_a_traceback() -> None:
    ended = vitrine("classify", CAT, "--device", "cuda:99")
    assert ended.returncode == 1
    assert "cuda:99" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_in_the_place_of_weights_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    timm_family.VARIANTS["plain"](tmp_path)
    name = "blocks.1.mlp.fc1.weight"
    change_weights(tmp_path, lambda weights: weights.update({name: weights[name].to(dtype)}))
    dtype_name = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointUnsupported, match=rf"tensor '{re.escape(name)}' is of type {dtype_name}"):
        open_checkpoint(str(tmp_path))


def test_whole_numbers_in_a_head_of_its_own_are_refused(tmp_path: Path) -> None:
    timm_family.VARIANTS["plain, no head"](tmp_path)
    torch.save({"weight": torch.ones(7, DIM, dtype=torch.int8)}, tmp_path / "head.pth")
    with pytest.raises(CheckpointUnsupported, match="'weight' is of type int8"):
        open_checkpoint(str(tmp_path), head=str(tmp_path / "head.pth"))


# Configs


def test_id2label_is_read_as_a_list_too(tmp_path: Path) -> None:
    transformers_family.VARIANTS["ViT"](tmp_path)
    edit(tmp_path / "config.json", lambda c: c.update(id2label=list("abcdefg")))
    labels = open_checkpoint(str(tmp_path)).content.labels
    assert labels is not None
    assert labels.names == tuple("abcdefg")


@pytest.mark.parametrize("value", ["abcdefg", 7])
def test_labels_of_another_type_are_refused(value: Any, tmp_path: Path) -> None:
    transformers_family.VARIANTS["ViT"](tmp_path)
    edit(tmp_path / "config.json", lambda c: c.update(id2label=value))
    with pytest.raises(CheckpointBroken, match=rf"id2label is {value!r}"):
        open_checkpoint(str(tmp_path))
    timm_family.VARIANTS["plain"](tmp_path)
    edit(tmp_path / "config.json", lambda c: c.update(label_names=value))
    with pytest.raises(CheckpointBroken, match=rf"the labels are {value!r}"):
        open_checkpoint(str(tmp_path))


WRONG_TYPES: dict[str, Any] = {
    "image_size": "large",
    "num_attention_heads": "many",
    "layer_norm_eps": [1e-6],
    "hidden_act": ["gelu"],
}


@pytest.mark.parametrize("field", WRONG_TYPES)
def test_a_field_of_another_type_is_an_error_of_one_line(field: str, tmp_path: Path) -> None:
    transformers_family.VARIANTS["ViT"](tmp_path)
    edit(tmp_path / "config.json", lambda c: c.update({field: WRONG_TYPES[field]}))
    with pytest.raises(CheckpointBroken, match="unexpected type") as caught:
        open_checkpoint(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["ViT", "Dinov2", "CLIP vision"])
def test_a_table_of_another_size_than_the_config_says_is_refused(family: str, tmp_path: Path) -> None:
    transformers_family.VARIANTS[family](tmp_path)

    def resize(config: dict[str, Any]) -> None:
        (config.get("vision_config") or config).update(image_size=96)

    edit(tmp_path / "config.json", resize)
    with pytest.raises(CheckpointBroken, match=r"grid_size is \(12, 12\), but the tensors say \(8, 8\)"):
        open_checkpoint(str(tmp_path))


def test_a_table_of_another_size_than_timms_arguments_say_is_refused(tmp_path: Path) -> None:
    timm_family.VARIANTS["plain"](tmp_path)
    edit(tmp_path / "config.json", lambda c: c["model_args"].update(img_size=96))
    with pytest.raises(CheckpointBroken, match=r"grid_size is \(12, 12\), but the tensors say \(8, 8\)"):
        open_checkpoint(str(tmp_path))


def test_timm_resamples_a_table_to_another_input_size(tmp_path: Path) -> None:
    timm_family.VARIANTS["plain"](tmp_path)
    edit(tmp_path / "config.json", lambda c: c["pretrained_cfg"].update(input_size=[3, 96, 96]))
    edit(tmp_path / "config.json", lambda c: c["model_args"].pop("img_size"))
    content = open_checkpoint(str(tmp_path)).content
    assert content.config.grid_size == (8, 8)
    assert content.preprocess.input_size == (96, 96)


def test_projections_without_biases_are_those_with_zeros(tmp_path: Path) -> None:
    original = timm_family.make("vit_tiny_patch16_224", tmp_path, proj_bias=False)
    assert "blocks.0.attn.proj.bias" not in load_file(tmp_path / "model.safetensors")
    assert worst(differences(original, open_network(original))) <= BAR


@pytest.mark.parametrize("where", ["model_args", "top"])
def test_a_network_that_pools_nothing_is_refused(where: str, tmp_path: Path) -> None:
    timm_family.VARIANTS["plain"](tmp_path)

    def change(config: dict[str, Any]) -> None:
        config["model_args"].pop("global_pool")
        (config["model_args"] if where == "model_args" else config).update(global_pool="")

    edit(tmp_path / "config.json", change)
    with pytest.raises(CheckpointUnsupported, match="global_pool '' is not supported"):
        open_checkpoint(str(tmp_path))


def test_one_output_is_a_sigmoid_as_in_the_pipeline_of_transformers(tmp_path: Path) -> None:
    import transformers
    from PIL import Image

    model = transformers_family.build(
        "ViTForImageClassification", **transformers_family.TOY | transformers_family.MLP | {"num_labels": 1}
    )
    model.config.id2label = {0: "cat"}
    model.save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(size={"height": 64, "width": 64})
    processor.save_pretrained(tmp_path)
    ended = vitrine("classify", CAT, "--model", str(tmp_path), "--json", "--dtype", "float32", "--decode", "exact")
    (prediction,) = json.loads(ended.stdout)["predictions"]
    pipeline = transformers.pipeline("image-classification", str(tmp_path), device="cpu", dtype=torch.float32)
    (expected,) = pipeline(Image.open(CAT).convert("RGB"))
    assert prediction["label"] == expected["label"] == "cat"
    assert prediction["score"] == pytest.approx(expected["score"], abs=1e-2)
    assert 0.001 < prediction["score"] < 0.999
    with torch.inference_mode():
        pixels = processor(Image.open(CAT).convert("RGB"), return_tensors="pt").pixel_values
        assert prediction["score"] == pytest.approx(float(model(pixels).logits.sigmoid()), abs=1e-2)


@pytest.mark.parametrize("family", ["timm", "bare"])
def test_one_output_is_a_sigmoid_in_every_layout(family: str, tmp_path: Path) -> None:
    original = timm_family.make("vit_tiny_patch16_224", tmp_path, num_classes=1)
    path = original.path
    if family == "bare":
        path = tmp_path / "bare.pth"
        torch.save(load_file(tmp_path / "model.safetensors"), path)
        (tmp_path / "config.json").unlink()
    labels = open_checkpoint(str(path), num_heads=HEADS).content.labels
    assert labels is not None
    assert labels.activation == "sigmoid"


def test_a_head_of_one_output_in_a_file_of_its_own(tmp_path: Path) -> None:
    timm_family.VARIANTS["plain, no head"](tmp_path)
    torch.save(nn.Linear(DIM, 1).state_dict(), tmp_path / "head.pth")
    labels = open_checkpoint(str(tmp_path), head=str(tmp_path / "head.pth")).content.labels
    assert labels is not None
    assert labels.activation == "sigmoid"
