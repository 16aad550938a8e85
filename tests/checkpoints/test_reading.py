"""Attention heads, profiles, classifier heads, labels and configs; and the architectures that are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.checkpoints.checkpoint import Checkpoint, build, open_checkpoint
from models.checkpoints.describe import describe
from models.errors import CheckpointBroken, CheckpointNotFound, CheckpointUnsupported
from models.network.positions.learned import Resampling
from models.network.vit import Readout
from tests.checkpoints import bare_family, timm_family, transformers_family
from tests.checkpoints.original import pictures, randomise
from tests.checkpoints.reference import DIM, HEADS, Facebook, jax_arrays
from tests.originals import timm

Weights = dict[str, Tensor]


def facebook(folder: Path, name: str = "plain.pth", wrap: str = "", extra: Weights | None = None) -> Path:
    weights = randomise(Facebook("plain")).state_dict() | (extra or {})
    torch.save({wrap: weights} if wrap else weights, folder / name)
    return folder / name


def head(classes: int, width: int = DIM) -> Weights:
    return {f"head.{key}": value for key, value in randomise(nn.Linear(width, classes)).state_dict().items()}


def opened(path: Path, **options: Any) -> Checkpoint:
    return open_checkpoint(str(path), **{"num_heads": HEADS, **options})


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# Heads of attention


def test_an_unknown_number_of_heads_must_be_set(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnsupported, match="set num_heads"):
        opened(facebook(tmp_path), num_heads=None)


def test_the_number_of_heads_must_divide_the_width(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnsupported, match="5 heads"):
        opened(facebook(tmp_path), num_heads=5)


def test_an_ambiguous_number_of_heads_must_be_set(tmp_path: Path) -> None:
    model = timm_family.create("vit_base_patch16_gap_224", embed_dim=768, depth=12, num_heads=16, mlp_ratio=0.1)
    torch.save(model.state_dict(), tmp_path / "gap.pth")
    with pytest.raises(CheckpointUnsupported, match="12 or 16 heads"):
        open_checkpoint(str(tmp_path / "gap.pth"))


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6)])
def test_the_number_of_heads_of_published_networks_is_assumed(width: int, heads: int, tmp_path: Path) -> None:
    model = timm_family.create("vit_tiny_patch16_224", embed_dim=width, num_heads=heads)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    content = open_checkpoint(str(tmp_path / "vit.pth")).content
    assert content.config.num_heads == heads
    assert content.reasons["num_heads"].startswith("assumed")


# Profiles


PROFILES: dict[str, tuple[str, Weights, str]] = {
    "plain.pth": ("", {}, "timm"),
    "dino_deitsmall16_pretrain.pth": ("", {}, "dino"),
    "checkpoint.pth": ("teacher", {}, "dino"),
    "backbone.pth": ("", {"register_tokens": torch.zeros(1, 4, DIM)}, "dinov2-reg"),
    "pretrained.pth": ("model", {}, "mae"),
    "finetuned.pth": ("model", head(7), "deit"),
}


@pytest.mark.parametrize("name", PROFILES)
def test_the_profile_follows_from_the_file(name: str, tmp_path: Path) -> None:
    wrap, extra, profile = PROFILES[name]
    content = opened(facebook(tmp_path, name, wrap, extra)).content
    assert content.profile == profile
    assert content.reasons["profile"]


def test_a_profile_can_be_set_and_the_reasons_say_so(tmp_path: Path) -> None:
    content = opened(facebook(tmp_path), profile="jax").content
    assert (content.profile, content.config.act) == ("jax", "gelu_tanh")
    assert isinstance(content.config.position, Resampling)
    assert content.config.position.align_corners
    assert "'timm'" in content.reasons["profile"]


def test_an_unknown_profile_is_refused_before_a_file_is_read() -> None:
    with pytest.raises(CheckpointUnsupported, match=r"'nonsense'.*torchvision"):
        open_checkpoint("nobody/nothing", profile="nonsense")


# SigLIP and AIMv2


def test_a_missing_pooling_is_named(tmp_path: Path) -> None:
    original = transformers_family.VARIANTS["SigLIP vision, names in memory"](tmp_path)
    path = tmp_path / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    torch.save({key: value for key, value in weights.items() if not key.startswith("head.")}, path)
    with pytest.raises(CheckpointBroken, match=r"head\.probe"):
        open_checkpoint(str(original.path))


def test_the_classifier_of_siglip_reads_the_mean_and_the_reasons_say_so(tmp_path: Path) -> None:
    transformers_family.VARIANTS["SigLIP with classifier"](tmp_path)
    content = open_checkpoint(str(tmp_path)).content
    assert (content.config.pool, content.config.num_classes) == ("avg", 7)
    assert "left out" in content.reasons["pooling"]


def test_naflex_has_a_budget_of_patches_and_its_processor_must_fit(tmp_path: Path) -> None:
    transformers_family.VARIANTS["SigLIP 2 NaFlex vision"](tmp_path)
    preprocess = open_checkpoint(str(tmp_path)).content.preprocess
    assert (preprocess.max_patches, preprocess.input_size, preprocess.interpolation) == (256, (128, 128), "bilinear")
    processor = {"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 90}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    preprocess = open_checkpoint(str(tmp_path)).content.preprocess
    assert (preprocess.max_patches, preprocess.input_size) == (90, (72, 72))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor | {"patch_size": 16}))
    with pytest.raises(CheckpointUnsupported, match="patch_size 16"):
        open_checkpoint(str(tmp_path))


def test_a_linear_layer_must_fit_the_patches_of_the_config(tmp_path: Path) -> None:
    transformers_family.VARIANTS["SigLIP 2 NaFlex vision"](tmp_path)
    edit(tmp_path / "config.json", lambda c: c.update(patch_size=16))
    with pytest.raises(CheckpointBroken, match="16 x 16"):
        open_checkpoint(str(tmp_path))


def test_another_activation_of_aimv2_is_refused(tmp_path: Path) -> None:
    transformers_family.VARIANTS["AIMv2 vision"](tmp_path)
    edit(tmp_path / "config.json", lambda c: c.update(hidden_act="gelu"))
    with pytest.raises(CheckpointUnsupported, match="hidden_act 'gelu'"):
        open_checkpoint(str(tmp_path))


def test_linear_patches_are_refused_where_the_name_does_not_have_them(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", use_naflex=True, embed_dim=48, depth=12, num_heads=4)
    timm_family.save(model, tmp_path, "vit_tiny_patch16_224", {"embed_dim": 48, "depth": 12, "num_heads": 4})
    with pytest.raises(CheckpointUnsupported, match="use_naflex"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("name", ["naflexvit_base_patch16_siglip", "vit_of_next_year"])
def test_a_network_inside_open_clip_must_be_known(name: str, tmp_path: Path) -> None:
    bare_family.open_clip_named(tmp_path, "vit_base_patch16_siglip_224", own=False, pool="map")
    change = {"timm_model_name": name}
    edit(tmp_path / "open_clip_config.json", lambda c: c["model_cfg"]["vision_cfg"].update(change))
    with pytest.raises(CheckpointUnsupported, match=name):
        open_checkpoint(str(tmp_path), num_heads=HEADS)


def test_the_naflex_archive_of_big_vision_is_refused(tmp_path: Path) -> None:
    arrays = jax_arrays(second=True, cls=False, pooling=True, classes=0)
    arrays["embedding/kernel"] = arrays["embedding/kernel"].reshape(-1, DIM)
    np.savez(tmp_path / "naflex.npz", **arrays)
    with pytest.raises(CheckpointUnsupported, match="NaFlex"):
        open_checkpoint(str(tmp_path / "naflex.npz"))


# Heads


def test_a_headless_checkpoint_has_no_classes_even_with_labels_in_its_config(tmp_path: Path) -> None:
    transformers_family.make("ViTMSNModel", transformers_family.hidden, tmp_path, **transformers_family.VIT)
    edit(tmp_path / "config.json", lambda c: c.update(id2label={str(i): f"class {i}" for i in range(1000)}))
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.content.labels is None
    assert Readout.LOGITS not in build(checkpoint).readouts


@pytest.mark.parametrize("names", [["a", "b"], [f"LABEL_{i}" for i in range(9)]])
def test_a_number_of_labels_other_than_the_heads_is_refused(names: list[str], tmp_path: Path) -> None:
    transformers_family.VARIANTS["ViT"](tmp_path)
    edit(tmp_path / "config.json", lambda c: c.update(id2label={str(i): name for i, name in enumerate(names)}))
    with pytest.raises(CheckpointBroken, match="7"):
        open_checkpoint(str(tmp_path))


def test_a_head_of_zeros_is_dropped(tmp_path: Path) -> None:
    arrays = jax_arrays(representation=True)
    arrays["head/kernel"][:] = 0
    arrays["head/bias"][:] = 0
    np.savez(tmp_path / "in21k.npz", **arrays)
    checkpoint = open_checkpoint(str(tmp_path / "in21k.npz"))
    assert checkpoint.content.labels is None
    assert "zero" in checkpoint.content.reasons["head"]
    features = build(checkpoint)(list(pictures((64, 64))))
    assert features.native is not None
    assert features.native.abs().max() <= 1  # the representation layer ends in tanh


def test_a_projection_head_of_training_is_not_a_classifier(tmp_path: Path) -> None:
    original = bare_family.dino_training(tmp_path)
    checkpoint = open_checkpoint(str(original.path), **original.options)
    assert checkpoint.content.labels is None
    assert "head.mlp" in checkpoint.content.reasons["left out"]


def test_a_regression_head_is_not_a_classifier_and_gives_the_native_vector(tmp_path: Path) -> None:
    original = transformers_family.VARIANTS["ViT"](tmp_path)
    edit(tmp_path / "config.json", lambda c: c.update(problem_type="regression"))
    checkpoint = open_checkpoint(str(tmp_path))
    network = build(checkpoint)
    images = pictures((64, 64))
    ours, expected = network(list(images)), original.forward(images)["logits"]
    assert checkpoint.content.labels is None
    assert Readout.LOGITS not in network.readouts
    assert ours.native is not None
    assert torch.allclose(ours.native, expected, atol=1e-5)


def test_a_multi_label_classifier_uses_sigmoid(tmp_path: Path) -> None:
    transformers_family.VARIANTS["ViT"](tmp_path)
    edit(tmp_path / "config.json", lambda c: c.update(problem_type="multi_label_classification"))
    labels = open_checkpoint(str(tmp_path)).content.labels
    assert labels is not None
    assert labels.activation == "sigmoid"


def test_outputs_for_the_background_are_dropped(tmp_path: Path) -> None:
    original = timm_family.make("vit_tiny_patch16_224", tmp_path)
    edit(tmp_path / "config.json", lambda c: c["pretrained_cfg"].update(label_offset=1))
    checkpoint = open_checkpoint(str(tmp_path))
    images = pictures((64, 64))
    logits = build(checkpoint)(list(images)).logits
    assert logits is not None
    assert checkpoint.content.config.num_classes == 6
    assert torch.allclose(logits, original.forward(images)["logits"][:, 1:], atol=1e-5)


def test_a_head_file_of_an_unknown_width_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.randn(7, 7 * DIM), "bias": torch.zeros(7)}, tmp_path / "head.pth")
    with pytest.raises(CheckpointUnsupported, match="336 features"):
        opened(facebook(tmp_path), head=str(tmp_path / "head.pth"))


def test_a_file_of_several_heads_is_refused(tmp_path: Path) -> None:
    key = "classifiers_dict.classifier_{}_blocks_avgpool_False_lr_0_1.linear.weight"
    torch.save({key.format(n): torch.randn(7, n * DIM) for n in (1, 4)}, tmp_path / "head.pth")
    with pytest.raises(CheckpointUnsupported, match="2 heads"):
        opened(facebook(tmp_path), head=str(tmp_path / "head.pth"))


def test_a_head_instead_of_a_model_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.randn(7, DIM), "bias": torch.zeros(7)}, tmp_path / "head.pth")
    with pytest.raises(CheckpointUnsupported, match="only a linear head"):
        opened(tmp_path / "head.pth")
    with pytest.raises(CheckpointUnsupported, match="not a linear head"):
        opened(facebook(tmp_path), head=str(facebook(tmp_path, "other.pth")))


# Labels


def labels_of(path: Path, **options: Any) -> tuple[tuple[str, ...], str]:
    content = opened(path, **options).content
    assert content.labels is not None
    return content.labels.names, content.reasons["labels"]


def test_a_published_head_of_1000_classes_is_assumed_to_be_imagenet(tmp_path: Path) -> None:
    names, reason = labels_of(facebook(tmp_path, wrap="model", extra=head(1000)))
    assert (names[0], names[999]) == ("tench, Tinca tinca", "toilet tissue, toilet paper, bathroom tissue")
    assert reason.startswith("assumed")


def test_an_unrecognised_head_of_1000_classes_has_class_indices(tmp_path: Path) -> None:
    names, reason = labels_of(facebook(tmp_path, extra=head(1000)))
    assert names[:2] == ("0", "1")
    assert "imagenet-1k" in reason


def test_imagenets_labels_can_be_set_and_unset(tmp_path: Path) -> None:
    assert labels_of(facebook(tmp_path, extra=head(1000)), labels="imagenet-1k")[0][0] == "tench, Tinca tinca"
    assert labels_of(facebook(tmp_path, wrap="model", extra=head(1000)), labels="none")[0][0] == "0"
    with pytest.raises(CheckpointBroken, match="1000 labels"):
        opened(facebook(tmp_path, extra=head(7)), labels="imagenet-1k")


def test_labels_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("alpha\nbeta\n")
    assert labels_of(facebook(tmp_path, extra=head(2)), labels=str(tmp_path / "labels.txt"))[0] == ("alpha", "beta")
    with pytest.raises(CheckpointNotFound, match=r"none\.txt"):
        opened(facebook(tmp_path, extra=head(2)), labels=str(tmp_path / "none.txt"))


def test_labels_come_from_id2label_and_from_label_names(tmp_path: Path) -> None:
    transformers_family.VARIANTS["ViT"](tmp_path)
    edit(tmp_path / "config.json", lambda c: c.update(id2label={str(i): f"class {i}" for i in range(7)}))
    assert labels_of(tmp_path)[0][6] == "class 6"
    edit(tmp_path / "config.json", lambda c: c.update(id2label={str(i): f"LABEL_{i}" for i in range(7)}))
    assert labels_of(tmp_path)[0][6] == "6"


# What the config states is checked against the tensors


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "intermediate_size", "patch_size"])
def test_a_config_of_another_network_is_refused(field: str, tmp_path: Path) -> None:
    transformers_family.VARIANTS["ViT"](tmp_path)
    edit(tmp_path / "config.json", lambda c: c.update({field: c[field] * 2}))
    with pytest.raises(CheckpointBroken, match=r"config\.json says"):
        open_checkpoint(str(tmp_path))


def test_a_patch_size_missing_from_the_config_comes_from_the_tensors(tmp_path: Path) -> None:
    transformers_family.VARIANTS["ViT"](tmp_path)
    edit(tmp_path / "config.json", lambda c: c.pop("patch_size"))
    assert open_checkpoint(str(tmp_path)).content.config.patch_size == (8, 8)


def test_missing_fields_of_clip_have_the_defaults_of_its_class(tmp_path: Path) -> None:
    transformers_family.VARIANTS["CLIP vision"](tmp_path)
    for field in ("hidden_act", "layer_norm_eps"):
        edit(tmp_path / "config.json", lambda c, field=field: c.pop(field, None))  # type: ignore[misc]
    config = open_checkpoint(str(tmp_path)).content.config
    assert (config.act, config.norm_eps) == ("quick_gelu", 1e-5)


def test_mixed_prefixes_are_removed_key_by_key(tmp_path: Path) -> None:
    original = transformers_family.make(
        "ViTMSNModel", transformers_family.hidden, tmp_path, in_memory=True, **transformers_family.VIT
    )
    path = tmp_path / "pytorch_model.bin"
    weights = torch.load(path)
    torch.save({f"vit.{key}" if "embeddings" in key else key: value for key, value in weights.items()}, path)
    images = pictures((64, 64))
    ours = build(open_checkpoint(str(tmp_path)))(list(images), Readout.CLS).cls
    assert ours is not None
    assert torch.allclose(ours, original.forward(images)["cls"], atol=1e-5)


def test_transformers_names_without_a_config_are_refused(tmp_path: Path) -> None:
    transformers_family.VARIANTS["ViT"](tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointUnsupported, match=r"a config\.json with model_type is needed"):
        open_checkpoint(str(tmp_path))


def test_a_bias_missing_from_one_block_is_damage(tmp_path: Path) -> None:
    path = facebook(tmp_path)
    weights = torch.load(path)
    del weights["blocks.2.attn.qkv.bias"]
    torch.save(weights, path)
    with pytest.raises(CheckpointBroken, match=r"blocks\.2\.attn\.qkv\.bias"):
        opened(path)


def test_half_precision_is_computed_in_float32(tmp_path: Path) -> None:
    path = facebook(tmp_path)
    torch.save({key: value.half() for key, value in torch.load(path).items()}, path)
    assert {weight.dtype for weight in opened(path).content.weights.values()} == {torch.float32}


def test_position_embeddings_that_fit_two_grids_are_refused(tmp_path: Path) -> None:
    # 9 rows: 3 x 3 patches, or 2 x 2 patches and five prefix tokens.
    tokens = {"register_tokens": torch.zeros(1, 4, DIM), "pos_embed": torch.zeros(1, 9, DIM)}
    with pytest.raises(CheckpointUnsupported, match="several grids"):
        opened(facebook(tmp_path, extra=tokens))


def test_mae_is_deterministic(tmp_path: Path) -> None:
    # The original class masks patches at random; the network here does not mask.
    transformers_family.VARIANTS["ViTMAE, pre-training"](tmp_path)
    network, images = build(open_checkpoint(str(tmp_path))), list(pictures((64, 64)))
    first, second = network(images, Readout.CLS).cls, network(images, Readout.CLS).cls
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


UNSUPPORTED = {
    "SigLIP": "attn_pool.latent",
    "relative positions": "shared_rel_pos.mlp.fc1.weight",
    "DINOv3 with untied norms": "cls_norm.weight",
    "Sapiens 2": "blocks.0.attn.wq.weight",
    "EVA": "blocks.0.attn.q_proj.weight",
    "split biases": "blocks.0.attn.q_bias",
    "parallel": "blocks.0.in_proj.weight",
    "differential": "blocks.0.lambda_q1",
    "gated": "blocks.0.attn.gate.weight",
    "norms inside": "blocks.0.attn.norm.weight",
    "SwiGLU of three": "blocks.0.mlp.fc1_g.weight",
    "AIMv2": "patch_embed.norm.weight",
    "hybrid": "patch_embed.backbone.conv1.weight",
    "convolutional stem": "patch_embed.proj.0.weight",
    "NaFlex": "embeds.proj.weight",
    "RADIO": "radio_model.x",
    "MMPretrain": "backbone.layers.0.ffn.layers.0.0.weight",
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_architectures_are_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnsupported, match=name):
        opened(facebook(tmp_path, extra={UNSUPPORTED[name]: torch.zeros(1)}))


SERVED_WITH_A_CONFIG = (
    "SigLIP",
    "relative positions",
    "EVA",
    "split biases",
    "norms inside",
    "SwiGLU of three",
    "AIMv2",
    "NaFlex",
)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_network_that_a_config_would_name_is_not_called_unsupported(name: str, tmp_path: Path) -> None:
    expected = "add the config.json of its library" if name in SERVED_WITH_A_CONFIG else "not supported"
    with pytest.raises(CheckpointUnsupported, match=expected):
        opened(facebook(tmp_path, extra={UNSUPPORTED[name]: torch.zeros(1)}))


def dinov3(folder: Path, name: str = "dinov3.pth", **changed: Tensor | None) -> Path:
    """A DINOv3 of facebookresearch with some of its tensors changed; None takes one out."""

    def wrap(weights: Weights) -> Weights:
        changes = {key.replace("__", "."): tensor for key, tensor in changed.items()}
        kept = {key: tensor for key, tensor in weights.items() if changes.get(key, tensor) is not None}
        return kept | {key: tensor for key, tensor in changes.items() if tensor is not None}

    return bare_family.dinov3(folder, name, wrap).path


def test_dinov3_tells_its_heads_and_its_pictures(tmp_path: Path) -> None:
    content = open_checkpoint(str(dinov3(tmp_path))).content
    assert (content.profile, content.config.num_heads, content.config.norm_eps) == ("dinov3", 4, 1e-5)
    assert content.config.rotary is not None
    assert content.config.rotary.rounded
    assert (content.preprocess.input_size, content.preprocess.steps) == ((256, 256), "squash")
    assert content.preprocess.interpolation == "bilinear"
    satellite = open_checkpoint(str(dinov3(tmp_path, "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth"))).content
    assert satellite.preprocess.mean == (0.430, 0.411, 0.296)
    assert content.preprocess.mean == (0.485, 0.456, 0.406)


def test_dinov3_without_its_periods_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnsupported, match=r"'rope_embed\.periods' of DINOv3 is missing"):
        open_checkpoint(str(dinov3(tmp_path, rope_embed__periods=None)))


def test_other_periods_of_dinov3_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnsupported, match=r"'rope_embed\.periods' is not that of published networks"):
        open_checkpoint(str(dinov3(tmp_path, rope_embed__periods=torch.tensor([1.0, 2.0, 4.0]))))


def test_a_mask_of_biases_that_is_none_is_refused(tmp_path: Path) -> None:
    # The original fills it with NaN until its weights are initialised.
    mask = torch.full((3 * DIM,), torch.nan)
    with pytest.raises(CheckpointBroken, match=r"mask of 'blocks\.1\.attn\.qkv\.bias'"):
        open_checkpoint(str(dinov3(tmp_path, blocks__1__attn__qkv__bias_mask=mask)))


def test_a_gate_without_silu_is_refused(tmp_path: Path) -> None:
    fields = transformers_family.DINOV3 | {"use_gated_mlp": True, "hidden_act": "gelu"}
    transformers_family.make("DINOv3ViTModel", transformers_family.hidden, tmp_path, interpolate=False, **fields)
    with pytest.raises(CheckpointUnsupported, match=r"hidden_act 'gelu' with use_gated_mlp"):
        open_checkpoint(str(tmp_path))


def test_the_defaults_of_dinov3_are_its_own(tmp_path: Path) -> None:
    transformers_family.VARIANTS["DINOv3"](tmp_path)
    content = open_checkpoint(str(tmp_path)).content
    assert content.preprocess.mean == (0.485, 0.456, 0.406)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_theta"], config["layer_norm_eps"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(str(tmp_path)).content.config == content.config
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_theta": 10.0}))
    assert open_checkpoint(str(tmp_path)).content.config != content.config


def test_an_unsupported_model_of_transformers_is_refused_by_name(tmp_path: Path) -> None:
    model = transformers_family.build("SwinModel", image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 1])
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointUnsupported, match="model_type 'swin'"):
        open_checkpoint(str(tmp_path))


# Relative positions


def test_the_tables_of_relative_positions_show_the_heads(tmp_path: Path) -> None:
    content = open_checkpoint(str(timm_family.VARIANTS["BEiT, bare .pth"](tmp_path).path)).content
    assert content.config.num_heads == 4
    assert content.config.grid_size == (8, 8)
    assert "relative_position_index" in content.reasons["left out"]
    assert "BEiT" in content.reasons["profile"]


def test_a_table_of_another_grid_than_the_configs_is_broken(tmp_path: Path) -> None:
    original = timm_family.VARIANTS["BEiT"](tmp_path)
    edit(tmp_path / "config.json", lambda config: config["model_args"].update(img_size=[72, 64]))
    with pytest.raises(CheckpointBroken, match="225 offsets of patches, which do not fit the 9 x 8 patches"):
        open_checkpoint(str(original.path))


def test_a_network_of_relative_positions_needs_the_size_of_its_config(tmp_path: Path) -> None:
    timm_family.VARIANTS["relative positions"](tmp_path)

    def without_size(config: dict[str, Any]) -> None:
        del config["pretrained_cfg"]["input_size"], config["model_args"]["img_size"]

    edit(tmp_path / "config.json", without_size)
    with pytest.raises(CheckpointUnsupported, match="no config says the input size"):
        open_checkpoint(str(tmp_path))


def test_offsets_relative_to_the_size_of_the_picture_are_refused(tmp_path: Path) -> None:
    timm_family.VARIANTS["relative positions"](tmp_path)
    edit(tmp_path / "config.json", lambda config: config["model_args"].update(rel_pos_type="mlp_swin"))
    with pytest.raises(CheckpointUnsupported, match="'mlp_swin'"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("use_relative_position_bias", "is false, but tensor 'blocks.0.relative.table' is there"),
        ("use_shared_relative_position_bias", "is true, but tensor 'relative.table' is missing"),
        ("use_absolute_position_embeddings", "is true, but tensor 'pos_embed' is missing"),
    ],
)
def test_a_config_that_contradicts_the_tables_is_broken(field: str, says: str, tmp_path: Path) -> None:
    transformers_family.VARIANTS["BEiT"](tmp_path)
    edit(tmp_path / "config.json", lambda config: config.update({field: not config[field]}))
    with pytest.raises(CheckpointBroken, match=f"{field} {says}"):
        open_checkpoint(str(tmp_path))


def test_tables_that_transformers_transposes_are_refused(tmp_path: Path) -> None:
    transformers_family.VARIANTS["BEiT"](tmp_path)
    edit(tmp_path / "config.json", lambda config: config.update(image_size=[48, 64]))
    with pytest.raises(CheckpointUnsupported, match="not square"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("variant", "rules", "norm"),
    [
        ("plain", {"position"}, "layer"),
        ("DINOv3", {"rotary"}, "layer"),
        ("RoPE-ViT, with a table", {"position", "rotary"}, "layer"),
        ("BEiT", {"relative"}, "layer"),
        ("Sapiens 2", {"rotary"}, "rms"),
    ],
)
def test_the_description_has_the_rules_of_every_kind_of_position(
    variant: str, rules: set[str], norm: str, tmp_path: Path
) -> None:
    described = describe(open_checkpoint(str(timm_family.VARIANTS[variant](tmp_path).path)))
    assert {name for name in ("position", "rotary", "relative") if described[name]} == rules
    assert described["norm"] == norm
