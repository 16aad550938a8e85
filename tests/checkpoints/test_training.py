"""What training code leaves in a file: averages of the weights, several networks, buffers, other names of a scale."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.checkpoints.checkpoint import Checkpoint, open_checkpoint
from models.errors import CheckpointBroken, CheckpointUnsupported
from tests.checkpoints import transformers_family
from tests.checkpoints.comparison import BAR, differences, open_network, worst
from tests.checkpoints.original import NATIVE_ONLY, Original, randomise
from tests.checkpoints.reference import HEADS, Facebook
from tests.checkpoints.timm_family import TOY, create
from tests.checkpoints.timm_family import forward as timm_forward

Weights = dict[str, Tensor]


@pytest.fixture
def weights() -> Weights:
    return {key: value.clone() for key, value in randomise(Facebook("plain")).state_dict().items()}


@pytest.fixture
def raw(weights: Weights) -> Weights:
    return {key: value + 1 for key, value in weights.items()}


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[Any], Checkpoint]:
    def save(content: Any) -> Checkpoint:
        torch.save(content, tmp_path / "weights.pth")
        return open_checkpoint(str(tmp_path / "weights.pth"), num_heads=HEADS)

    return save


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {f"{prefix}{key}": value for key, value in weights.items()}


@pytest.mark.parametrize("name", ["ema", "model_ema", "ema_model", "ema_state_dict", "swa_model", "averaged_model"])
def test_the_average_is_preferred_and_what_is_left_out_is_said(
    name: str, weights: Weights, raw: Weights, opened: Callable[[Any], Checkpoint]
) -> None:
    plain = opened(weights).digest
    checkpoint = opened({"model": raw, name: weights, "epoch": 3})
    assert checkpoint.digest == plain
    assert checkpoint.content.reasons["container"] == (
        f"the weights are under {name}; other networks in the file are left out: model"
    )


def test_an_average_inside_its_own_dictionary(
    weights: Weights, raw: Weights, opened: Callable[[Any], Checkpoint]
) -> None:
    plain = opened(weights).digest
    assert opened({"model": raw, "ema": {"decay": 0.999, "updates": 7, "module": weights}, "decay": 1}).digest == plain


def test_an_average_without_names_is_not_read_and_the_weights_are(
    weights: Weights, raw: Weights, opened: Callable[[Any], Checkpoint]
) -> None:
    # torch-ema stores a list, in the order of the optimizer's parameters.
    checkpoint = opened({"model": weights, "ema": {"decay": 0.999, "shadow_params": list(raw.values())}})
    assert checkpoint.digest == opened(weights).digest
    assert checkpoint.content.reasons["container"] == "the weights are under model"


def test_another_network_in_the_file_is_said(
    weights: Weights, raw: Weights, opened: Callable[[Any], Checkpoint]
) -> None:
    reasons = opened({"model": weights, "discriminator": raw}).content.reasons
    assert reasons["container"].endswith("left out: discriminator")


def test_several_averages_are_refused(weights: Weights, raw: Weights, opened: Callable[[Any], Checkpoint]) -> None:
    with pytest.raises(CheckpointUnsupported, match=r"'ema_0\.99', 'ema_0\.999'"):
        opened({"model": raw, "ema_0.99": weights, "ema_0.999": raw})


@pytest.mark.parametrize("average", ["ema_model.", "model_ema.module.", "module.ema.", "swa_model."])
@pytest.mark.parametrize("beside", ["model.", "online_model.", "", "module."])
def test_the_average_is_preferred_in_one_flat_dictionary(
    average: str, beside: str, weights: Weights, raw: Weights, opened: Callable[[Any], Checkpoint]
) -> None:
    plain = opened(weights).digest
    counters = {"initted": torch.tensor(True), "step": torch.tensor(9)}
    checkpoint = opened(prefixed(beside, raw) | prefixed(average, weights) | counters)
    assert checkpoint.digest == plain
    assert "left out" in checkpoint.content.reasons["container"]


@pytest.mark.parametrize("outer", ["", "module.", "_orig_mod.module.", "model."])
def test_the_teacher_is_preferred_behind_other_prefixes(
    outer: str, weights: Weights, raw: Weights, opened: Callable[[Any], Checkpoint]
) -> None:
    plain = opened(weights).digest
    flat = prefixed(f"{outer}teacher.backbone.", weights) | prefixed(f"{outer}student.backbone.", raw)
    checkpoint = opened(flat)
    assert checkpoint.digest == plain
    assert "student.*" in checkpoint.content.reasons["container"]


def test_a_teacher_beside_a_network_without_a_prefix_is_refused(
    weights: Weights, raw: Weights, opened: Callable[[Any], Checkpoint]
) -> None:
    # The network may be what the teacher has taught.
    with pytest.raises(CheckpointBroken, match=r"teacher\.cls_token"):
        opened(weights | prefixed("teacher.", raw))


def test_two_kinds_of_averages_are_refused(weights: Weights, raw: Weights, opened: Callable[[Any], Checkpoint]) -> None:
    with pytest.raises(CheckpointUnsupported, match="ema, swa_model"):
        opened(prefixed("ema.", weights) | prefixed("swa_model.", raw))


@pytest.mark.parametrize(
    "name",
    ["dino_loss.center", "module.ibot_patch_loss.center", "n_averaged", "criterion.weight", "model_ema.num_updates"],
)
def test_buffers_of_training_are_left_out_by_name(
    name: str, weights: Weights, opened: Callable[[Any], Checkpoint]
) -> None:
    plain = opened(weights).digest
    checkpoint = opened(weights | {name: torch.zeros(1, 16)})
    assert checkpoint.digest == plain
    assert name.rpartition("model_ema.")[2] in checkpoint.content.reasons["left out"]


def test_swa_of_torch(opened: Callable[[Any], Checkpoint]) -> None:
    model = randomise(Facebook("plain"))
    averaged = torch.optim.swa_utils.AveragedModel(model)
    checkpoint = opened(averaged.state_dict())
    assert checkpoint.digest == opened(model.state_dict()).digest
    assert "n_averaged" in checkpoint.content.reasons["left out"]


@pytest.mark.parametrize("leaf", ["weight", "lambda1", "scale"])
def test_a_layer_scale_under_another_name(leaf: str, opened: Callable[[Any], Checkpoint]) -> None:
    weights = randomise(Facebook("offset", v2=True)).state_dict()
    renamed = {key.replace(".gamma", f".{leaf}"): value for key, value in weights.items()}
    checkpoint = opened(renamed)
    assert checkpoint.digest == opened(weights).digest
    assert checkpoint.content.profile == "dinov2"


def test_a_layer_scale_of_transformers_under_another_name(tmp_path: Path) -> None:
    transformers_family.VARIANTS["Dinov2, names in memory"](tmp_path)
    digest = open_checkpoint(str(tmp_path)).digest
    path = tmp_path / "pytorch_model.bin"
    torch.save({key.replace(".lambda1", ".gamma"): value for key, value in torch.load(path).items()}, path)
    assert open_checkpoint(str(tmp_path)).digest == digest


def timm_wrapper(folder: Path, **config: Any) -> Original:
    """A network of timm inside transformers, saved by transformers."""
    create("vit_tiny_patch16_224")  # makes timm importable
    import transformers

    model = randomise(
        transformers.TimmWrapperForImageClassification(
            transformers.TimmWrapperConfig(
                architecture="vit_small_patch14_dinov2",
                model_args={"img_size": 64} | {key: value for key, value in TOY.items() if key != "num_classes"},
                num_labels=7,
                **config,
            )
        )
    )
    model.save_pretrained(folder)  # type: ignore[operator]
    inner = model.timm_model
    assert isinstance(inner, nn.Module)
    return Original(folder, lambda pictures: timm_forward(inner, pictures), sizes=NATIVE_ONLY)


def test_a_network_of_timm_inside_transformers(tmp_path: Path) -> None:
    original = timm_wrapper(tmp_path)
    assert worst(differences(original, open_network(original))) <= BAR
    labels = open_checkpoint(str(tmp_path)).content.labels
    assert labels is not None
    assert labels.names == ("0", "1", "2", "3", "4", "5", "6")
