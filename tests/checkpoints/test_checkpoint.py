"""A checkpoint loads completely or raises an error that names the tensor or the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoints.checkpoint import Checkpoint, build, open_checkpoint
from models.errors import CheckpointBroken, CheckpointError, CheckpointNotFound
from tests.conftest import MODEL

Tensors = dict[str, torch.Tensor]
Config = dict[str, Any]


@pytest.fixture
def altered(tmp_path: Path) -> Callable[..., str]:
    """Make a copy of the default model with changed tensors or config."""

    def alter(tensors: Callable[[Tensors], None] | None = None, config: Callable[[Config], None] | None = None) -> str:
        weights: Tensors = load_file(MODEL / "model.safetensors")
        if tensors:
            tensors(weights)
        save_file(weights, tmp_path / "model.safetensors")
        content: Config = json.loads((MODEL / "config.json").read_text())
        if config:
            config(content)
        (tmp_path / "config.json").write_text(json.dumps(content))
        return str(tmp_path)

    return alter


def test_the_default_model_is_recognised(checkpoint: Checkpoint) -> None:
    content = checkpoint.content
    assert (checkpoint.name, content.layout, content.profile) == ("vit-small-tiny-imagenet", "timm", "timm")
    assert (content.config.num_heads, content.config.depth, content.config.grid_size) == (6, 12, (37, 37))
    assert content.preprocess.input_size == (112, 112)
    assert content.labels is not None
    assert len(content.labels.names) == 200
    assert set(content.reasons) >= {"layout", "profile", "num_heads"}


FAULTS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "missing": (lambda t: t.pop("blocks.3.norm2.bias"), "blocks.3.norm2.bias"),
    "a whole block missing": (lambda t: [t.pop(k) for k in list(t) if k.startswith("blocks.5.")], "without gaps"),
    "unexpected": (lambda t: t.update({"blocks.3.extra": torch.zeros(1)}), "blocks.3.extra"),
    "misshapen": (lambda t: t.update({"blocks.3.mlp.fc1.weight": torch.zeros(1536, 383)}), "blocks.3.mlp.fc1.weight"),
    "a bias in some blocks only": (lambda t: t.pop("blocks.3.attn.qkv.bias"), "blocks.3.attn.qkv.bias"),
    "position embeddings of no grid": (lambda t: t.update({"pos_embed": torch.zeros(1, 1367, 384)}), "1367 rows"),
    "a head of other classes": (
        lambda t: t.update({"head.weight": torch.ones(100, 384), "head.bias": torch.zeros(100)}),
        "num_classes is 200",
    ),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_the_error_names_the_damage(
    altered: Callable[..., str], fault: Callable[[Tensors], None], message: str
) -> None:
    with pytest.raises(CheckpointBroken, match=message):
        open_checkpoint(altered(tensors=fault))


def test_the_error_names_the_tensors_of_another_network(altered: Callable[..., str]) -> None:
    with pytest.raises(CheckpointBroken, match=r"attn_pool\.latent"):
        open_checkpoint(altered(tensors=lambda t: t.update({"attn_pool.latent": torch.zeros(1)})))


def test_an_empty_or_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="contains no weights"):
        open_checkpoint(str(tmp_path))
    with pytest.raises(CheckpointNotFound, match="no such file or directory"):
        open_checkpoint(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("size", [0, 7, 4_000, 1_000_000])
def test_a_truncated_file(altered: Callable[..., str], size: int) -> None:
    folder = Path(altered())
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(str(folder))


def test_a_config_that_is_not_json(altered: Callable[..., str]) -> None:
    folder = Path(altered())
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointBroken, match=r"config\.json"):
        open_checkpoint(str(folder))


def test_the_position_embedding_of_the_class_token_is_added_to_it(
    altered: Callable[..., str], checkpoint: Checkpoint
) -> None:
    def add_position_to_token(tensors: Tensors) -> None:
        # timm's `no_embed_class`: the same network, with the row already added.
        position = tensors.pop("pos_embed").float()
        tensors["cls_token"] = tensors["cls_token"].float() + position[:, :1]
        tensors["pos_embed"] = position[:, 1:].contiguous()

    folded = open_checkpoint(altered(tensors=add_position_to_token))
    assert folded.digest == checkpoint.digest
    for name, tensor in checkpoint.content.weights.items():
        assert torch.equal(folded.content.weights[name], tensor), name


def test_the_digest_depends_on_the_values_only(altered: Callable[..., str], checkpoint: Checkpoint) -> None:
    assert open_checkpoint(altered(tensors=lambda t: t.update({k: v.float() for k, v in t.items()}))).digest == (
        checkpoint.digest
    )
    changed = open_checkpoint(altered(tensors=lambda t: t["norm.bias"].__setitem__(0, 1.0)))
    assert changed.digest != checkpoint.digest


def test_a_headless_checkpoint_has_no_classes_and_no_labels(altered: Callable[..., str]) -> None:
    headless = open_checkpoint(altered(tensors=lambda t: [t.pop("head.weight"), t.pop("head.bias")]))
    assert headless.content.labels is None
    assert build(headless).head is None


def test_classes_without_labels_get_their_indices(altered: Callable[..., str]) -> None:
    unnamed = open_checkpoint(altered(config=lambda c: c.pop("label_names")))
    assert unnamed.content.labels is not None
    assert unnamed.content.labels.names[:3] == ("0", "1", "2")
