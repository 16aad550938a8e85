"""Opening files: which one is read, how damage is reported, and that code in a file never runs."""

import argparse
import collections
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.checkpoints.checkpoint import Checkpoint, open_checkpoint
from models.errors import CheckpointBroken, CheckpointError, CheckpointNotFound, CheckpointUnsupported
from tests.checkpoints.original import randomise
from tests.checkpoints.reference import HEADS, Facebook, jax_arrays

Weights = dict[str, Tensor]


@pytest.fixture
def weights() -> Weights:
    return {key: value.clone() for key, value in randomise(Facebook("plain")).state_dict().items()}


def opened(path: Path, **options: Any) -> Checkpoint:
    return open_checkpoint(str(path), num_heads=HEADS, **options)


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_the_safest_of_several_files_is_read(weights: Weights, tmp_path: Path) -> None:
    other = {key: value + 1 for key, value in weights.items()}
    save_file(weights, tmp_path / "model.safetensors")
    saved(tmp_path / "pytorch_model.bin", other)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    expected = opened(saved(tmp_path / "alone.pth", weights)).digest
    assert opened(tmp_path).digest == expected


def test_two_equally_preferred_files_are_refused(weights: Weights, tmp_path: Path) -> None:
    saved(tmp_path / "a.pth", weights)
    saved(tmp_path / "b.pth", weights)
    with pytest.raises(CheckpointUnsupported, match=r"a\.pth, b\.pth"):
        opened(tmp_path)


def shard(weights: Weights, folder: Path) -> dict[str, str]:
    names = sorted(weights)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: weights[key] for key in keys}, folder / file)
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


def test_shards_are_merged(weights: Weights, tmp_path: Path) -> None:
    shard(weights, tmp_path)
    assert opened(tmp_path).digest == opened(saved(tmp_path / "whole.pth", weights)).digest


def test_a_missing_shard_is_named(weights: Weights, tmp_path: Path) -> None:
    shard(weights, tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointBroken, match=r"model-2\.safetensors"):
        opened(tmp_path)


def test_a_tensor_that_no_shard_has_is_named(weights: Weights, tmp_path: Path) -> None:
    weight_map = shard(weights, tmp_path) | {"blocks.9.norm1.weight": "model-1.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointBroken, match=r"blocks\.9\.norm1\.weight"):
        opened(tmp_path)


def test_an_index_cannot_name_a_file_outside_of_its_folder(tmp_path: Path) -> None:
    index = {"weight_map": {"cls_token": "../secret.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointBroken, match=r"secret\.safetensors"):
        opened(tmp_path)


class Malicious:
    """A pickle that would run a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_with_code_is_refused_and_the_code_does_not_run(weights: Weights, tmp_path: Path) -> None:
    path = saved(tmp_path / "bad.pth", {"model": weights, "args": Malicious(tmp_path / "ran")})
    with pytest.raises(CheckpointUnsupported, match=r"bad\.pth.*system"):
        opened(path)
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnsupported, match="state_dict"):
        opened(saved(tmp_path / "module.pth", nn.Linear(2, 2)))


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit"):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "ViT-B-32.pt")
    with pytest.raises(CheckpointUnsupported, match="TorchScript"):
        opened(tmp_path / "ViT-B-32.pt")


def test_arguments_and_numpy_scalars_of_training_scripts_are_ignored(weights: Weights, tmp_path: Path) -> None:
    training = {
        "model": collections.OrderedDict(weights),
        "args": argparse.Namespace(lr=1e-3, betas=(0.9, 0.95)),
        "epoch": np.int64(3),
        "best_acc": np.float64(0.5),
    }
    plain = opened(saved(tmp_path / "plain.pth", weights))
    assert opened(saved(tmp_path / "training.pth", training)).digest == plain.digest


def test_an_npz_with_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **jax_arrays(), extra=np.array([{}], dtype=object))
    with pytest.raises(CheckpointBroken, match=r"bad\.npz"):
        opened(tmp_path / "bad.npz")


@pytest.mark.parametrize("kept", [0, 10, 3_000, 0.5, 0.99])
@pytest.mark.parametrize("ending", [".pth", ".safetensors", ".npz"])
def test_a_truncated_file_is_refused(weights: Weights, ending: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"short{ending}"
    if ending == ".npz":
        np.savez(path, **jax_arrays())
    elif ending == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    with pytest.raises(CheckpointBroken, match="short"):
        opened(path)


def test_ema_weights_are_preferred_to_raw_weights(weights: Weights, tmp_path: Path) -> None:
    raw = {key: value + 1 for key, value in weights.items()}
    checkpoint = opened(saved(tmp_path / "both.pth", {"state_dict": raw, "state_dict_ema": weights}))
    assert checkpoint.digest == opened(saved(tmp_path / "plain.pth", weights)).digest
    assert "state_dict_ema" in checkpoint.content.reasons["container"]


def test_the_teacher_is_preferred_to_the_student(weights: Weights, tmp_path: Path) -> None:
    flat = {f"teacher.backbone.{key}": value for key, value in weights.items()}
    flat |= {f"student.backbone.{key}": value + 1 for key, value in weights.items()}
    assert opened(saved(tmp_path / "flat.pth", flat)).digest == opened(saved(tmp_path / "p.pth", weights)).digest


def test_prefixes_are_removed_from_each_name_separately(weights: Weights, tmp_path: Path) -> None:
    prefixes = ("", "module.", "_orig_mod.module.", "module.backbone.")
    mixed = {prefixes[i % 4] + key: value for i, (key, value) in enumerate(weights.items())}
    assert opened(saved(tmp_path / "mixed.pth", mixed)).digest == opened(saved(tmp_path / "p.pth", weights)).digest


def test_a_prefix_inside_a_name_is_kept(weights: Weights, tmp_path: Path) -> None:
    weights["some_module.cls_token"] = torch.zeros(1)
    with pytest.raises(CheckpointBroken, match=r"some_module\.cls_token"):
        opened(saved(tmp_path / "odd.pth", weights))


def test_two_names_for_one_tensor_are_refused(weights: Weights, tmp_path: Path) -> None:
    weights["module.norm.weight"] = weights["norm.weight"] + 1
    with pytest.raises(CheckpointBroken, match=r"norm\.weight.*module\.norm\.weight"):
        opened(saved(tmp_path / "twice.pth", weights))


def test_a_file_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    for content in ({"epoch": 1}, [torch.zeros(2)], torch.zeros(2)):
        with pytest.raises(CheckpointUnsupported, match=r"empty\.pth"):
            opened(saved(tmp_path / "empty.pth", content))


def test_an_empty_folder_and_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="contains no weights"):
        opened(tmp_path)
    for name in ("nowhere", "nowhere.pth", "a/b/c"):
        with pytest.raises(CheckpointNotFound, match="no such"):
            opened(tmp_path / name)


def test_an_unsupported_file_format(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointUnsupported, match=r"\.safetensors"):
        opened(tmp_path / "model.onnx")


def test_a_config_that_is_not_json_is_named(weights: Weights, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", weights)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointBroken, match=r"config\.json"):
        opened(path)


def test_an_error_is_one_line_and_names_the_tensor(weights: Weights, tmp_path: Path) -> None:
    del weights["norm.bias"]
    with pytest.raises(CheckpointError) as caught:
        opened(saved(tmp_path / "w.pth", weights))
    assert "\n" not in str(caught.value)
    assert "norm.bias" in str(caught.value)
