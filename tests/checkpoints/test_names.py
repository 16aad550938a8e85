"""What a user can type for a checkpoint, what is found in the place of files, and what no library tells the user."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.checkpoints.checkpoint import open_checkpoint
from models.errors import CheckpointBroken, CheckpointError, CheckpointNotFound
from models.files.location import locate_local
from tests.checkpoints import bare_family, timm_family
from tests.checkpoints.reference import jax_arrays
from tests.cli.test_cli import vitrine

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 346284714\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tiny vit"
    path.mkdir()
    timm_family.VARIANTS["plain"](path)
    return path


# Names


@pytest.mark.parametrize("scheme", ["file://", "file://localhost", "file:"])
def test_an_address_of_a_file_is_its_path(scheme: str, folder: Path) -> None:
    address = folder.as_uri().removeprefix("file://")
    assert open_checkpoint(f"{scheme}{address}").name == "tiny vit"
    assert open_checkpoint(f"{scheme}{address}/model.safetensors").name == "tiny vit"
    with pytest.raises(CheckpointNotFound, match="no such file or directory on this machine"):
        open_checkpoint(f"{scheme}{address}/nothing")


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("https://huggingface.co/owner/name/tree/v1", "give the repository, owner/name, and set revision to v1"),
        ("huggingface.co/owner/name/blob/main/model.safetensors", "owner/name, and set revision to main"),
        ("hf-hub:owner/name@v1", "give the repository, owner/name, and set revision to v1"),
        ("hf-hub:name", "give it as owner/name"),
        ("https://huggingface.co/bert", "give it as owner/name"),
        ("https://example.com/model.safetensors", "download the file and give its path"),
        ("s3://bucket/model.safetensors", "download the file and give its path"),
        ("", "the model is empty"),
        (" ", "the model is empty"),
    ],
)
def test_what_to_type_instead_is_said(source: str, advice: str) -> None:
    with pytest.raises(CheckpointNotFound, match=advice):
        locate_local(source, None)


def test_an_empty_setting_is_unset_and_an_empty_flag_is_refused() -> None:
    assert "Egyptian cat" in vitrine("classify", "examples/cat.png", model="").stdout
    refused = vitrine("classify", "examples/cat.png", "--model", "")
    assert refused.returncode == 1
    assert "the model is empty" in refused.stderr


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_model_has_the_name_of_its_directory_if_that_of_its_file_says_nothing(name: str, folder: Path) -> None:
    if name == "pytorch_model.bin":
        bare = bare_family.dino(folder).path
        (folder / "config.json").unlink()
        bare.rename(folder / name)
    printed = json.loads(vitrine("inspect", str(folder / name), "--json", "--num-heads", "4").stdout)
    assert printed["name"] == "tiny vit"


def test_a_file_of_an_own_name_has_that_name(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "mine.safetensors")
    assert open_checkpoint(str(folder / "mine.safetensors")).name == "mine"


def test_a_link_to_a_file_has_the_configs_beside_it(folder: Path) -> None:
    # As in the cache of the hub, where files are links to blobs without a suffix.
    blob = folder.parent / "0123abcd"
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    checkpoint = open_checkpoint(str(folder / "model.safetensors"))
    assert (checkpoint.name, checkpoint.content.layout) == ("tiny vit", "timm")


# Links and pointers


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "golden.json"])
def test_a_link_without_a_target_is_called_one(name: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(folder / "gone")
    with pytest.raises(CheckpointNotFound, match=rf"{name}: a link whose target does not exist \(.*gone\)"):
        open_checkpoint(str(folder))


def test_a_folder_or_setting_that_is_a_link_without_a_target(folder: Path) -> None:
    link = folder / "link"
    link.symlink_to(folder / "gone")
    for source, labels in ((link, None), (link / "model.safetensors", None), (folder, str(link))):
        with pytest.raises(CheckpointNotFound, match="link: a link whose target does not exist"):
            open_checkpoint(str(source), labels=labels)


FILES = ("model.safetensors", "config.json", "golden.json", "pytorch_model.bin", "weights.pth", "weights.npz")


@pytest.mark.parametrize("name", FILES)
def test_a_pointer_of_git_lfs_is_called_one(name: str, folder: Path) -> None:
    if not name.endswith(".json"):
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(POINTER)
    with pytest.raises(CheckpointBroken, match=rf"{name}: a Git LFS pointer, not the file itself"):
        open_checkpoint(str(folder))


def test_a_shard_a_head_and_labels_that_are_pointers(folder: Path) -> None:
    (folder / "pointer").write_text(POINTER)
    shutil.copy(folder / "pointer", folder / "head.pth")
    for labels, head in ((str(folder / "pointer"), None), (None, str(folder / "head.pth"))):
        with pytest.raises(CheckpointBroken, match="a Git LFS pointer"):
            open_checkpoint(str(folder), labels=labels, head=head)
    (folder / "model.safetensors").unlink()
    shutil.copy(folder / "pointer", folder / "model-1.safetensors")
    index = {"weight_map": {"cls_token": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointBroken, match=r"model-1\.safetensors: a Git LFS pointer"):
        open_checkpoint(str(folder))


def test_a_web_page_in_the_place_of_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("\n<!DOCTYPE html>\n<html><body>Sign in</body></html>")
    with pytest.raises(CheckpointBroken, match="a web page, not the file itself"):
        open_checkpoint(str(folder))


# No library's own advice reaches the user


def pickled_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)


def pickle_alone(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weights": [1.0]}))


def objects(path: Path) -> None:
    np.savez(path, **jax_arrays(), extra=np.array([{}], dtype=object))


def torchscript(path: Path) -> None:
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def module(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def text(path: Path) -> None:
    path.write_text("nothing\n" * 40)


DAMAGED: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a pickled array": ("a.npz", pickled_array),
    "objects": ("b.npz", objects),
    "a pickle named .npz": ("c.npz", pickle_alone),
    "a pickle": ("d.pth", pickle_alone),
    "TorchScript": ("e.pt", torchscript),
    "a module": ("f.pth", module),
    "text": ("g.pth", text),
    "text as .npz": ("h.npz", text),
    "text as safetensors": ("i.safetensors", text),
    "an array named .pth": ("j.pth", pickled_array),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_no_advice_of_a_library_reaches_the_user(what: str, tmp_path: Path) -> None:
    name, make = DAMAGED[what]
    make(tmp_path / name)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(tmp_path / name))
    said = str(caught.value)
    assert said.startswith(str(tmp_path / name))
    assert "\n" not in said
    for advice in ("unsafe", "weights_only", "allow_pickle", "arbitrary code", "add_safe_globals", "trust the file"):
        assert advice not in said, said
