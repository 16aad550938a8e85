"""Negative controls: the comparisons with the originals fail under a wrong rule or config."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.checkpoints.checkpoint import Checkpoint, build, open_checkpoint
from models.network.config import ViTConfig
from models.network.positions.learned import Resampling
from models.network.positions.rotary import Rotary
from models.network.positions.sincos import SinCos
from models.network.vit import VisionTransformer
from tests.checkpoints import bare_family, converted_family, timm_family, transformers_family
from tests.checkpoints.comparison import BAR, differences, worst
from tests.checkpoints.original import SIZES, Original, randomise
from tests.checkpoints.reference import Facebook
from tests.checkpoints.wrong import BARE, WRONG_EVERYWHERE, WRONG_PROFILES

OTHER_SIZES = [name for name in SIZES if name != "native"]


@pytest.mark.parametrize(("make", "profile"), WRONG_PROFILES.values(), ids=WRONG_PROFILES.keys())
def test_a_wrong_profile_shows_at_every_other_size(
    make: Callable[[Path], Original], profile: str, tmp_path: Path
) -> None:
    original = make(tmp_path)
    network = build(open_checkpoint(str(original.path), **{**original.options, "profile": profile}))
    for size, row in differences(original, network).items():
        if size in OTHER_SIZES:
            assert max(row.values()) > 100 * BAR, (size, row)


@pytest.mark.parametrize(("make", "profile"), WRONG_EVERYWHERE.values(), ids=WRONG_EVERYWHERE.keys())
def test_a_wrong_activation_or_rounding_shows_at_the_native_size(
    make: Callable[[Path], Original], profile: str, tmp_path: Path
) -> None:
    original = make(tmp_path)
    network = build(open_checkpoint(str(original.path), **{**original.options, "profile": profile}))
    assert max(differences(original, network)["native"].values()) > 5 * BAR


def rebuilt(checkpoint: Checkpoint, config: ViTConfig) -> VisionTransformer:
    return build(dataclasses.replace(checkpoint, content=dataclasses.replace(checkpoint.content, config=config)))


def altered(original: Original, **changes: object) -> VisionTransformer:
    """The network of a checkpoint with a changed config."""
    checkpoint = open_checkpoint(str(original.path), **original.options)
    return rebuilt(checkpoint, dataclasses.replace(checkpoint.content.config, **changes))  # type: ignore[arg-type]


EVA_02, PE = converted_family.VARIANTS["EVA-02"], converted_family.VARIANTS["PE core"]
WRONG_CONFIGS: dict[str, tuple[Callable[[Path], Original], dict[str, object]]] = {
    "heads": (timm_family.VARIANTS["plain"], {"num_heads": 6}),
    "DINO's head concatenated": (BARE["DINO, head interleaved"], {"pool": "cls_avg"}),
    "CLIP's classifier on normed tokens": (transformers_family.VARIANTS["CLIP with classifier"], {"pool_norm": True}),
    "the second head ignored": (timm_family.VARIANTS["distilled"], {"pool": "cls", "head_dist": False}),
    "prefix in the mean": (timm_family.VARIANTS["[CLS], average, norm before"], {"pool": "avg_all"}),
    "the mean without the prefix": (timm_family.VARIANTS["average with prefix"], {"pool": "avg"}),
    "the head of BEiT on [CLS]": (transformers_family.VARIANTS["BEiT"], {"pool": "cls"}),
    "norms before the branch": (timm_family.VARIANTS["norms after the residual branch"], {"norm_post": False}),
    "norms before the branch, with tables": (
        timm_family.VARIANTS["relative positions, norms after"],
        {"norm_post": False},
    ),
    "attention pooling with the prefix": (
        timm_family.VARIANTS["attention pooling, without the prefix"],
        {"pool_prefix": True},
    ),
    "attention pooling without the prefix": (
        timm_family.VARIANTS["attention pooling, with the prefix"],
        {"pool_prefix": False},
    ),
    "heads of attention pooling": (transformers_family.VARIANTS["SigLIP vision"], {"pool_heads": 6}),
    "activation of attention pooling": (transformers_family.VARIANTS["SigLIP vision"], {"pool_act": "silu"}),
    "AIMv2's frequencies": (transformers_family.VARIANTS["AIMv2 vision, native"], {"position": SinCos(100.0)}),
    "EVA-02's rotary positions not scaled": (EVA_02, {"rotary": Rotary(10_000.0)}),
    "EVA-02's columns before its rows": (EVA_02, {"rotary": Rotary(10_000.0, axes="xy", reference=(16, 16))}),
    "EVA-02's channels not interleaved": (
        EVA_02,
        {"rotary": Rotary(10_000.0, reference=(16, 16), interleaved=False)},
    ),
    "PE's rotary positions scaled": (
        PE,
        {"rotary": Rotary(10_000.0, axes="xy", offset=1.0, reference=(14, 14))},
    ),
    "PE's first patch where [CLS] is": (PE, {"rotary": Rotary(10_000.0, axes="xy")}),
    "PE's rows before its columns": (PE, {"rotary": Rotary(10_000.0, offset=1.0)}),
    "heads of PE's attention pooling": (PE, {"pool_heads": 4}),
    "PE's attention pooling without [CLS]": (PE, {"pool_prefix": False}),
    "the representation layer without tanh": (BARE["JAX, representation layer"], {"projection_tanh": False}),
}


@pytest.mark.parametrize(("make", "changes"), WRONG_CONFIGS.values(), ids=WRONG_CONFIGS.keys())
def test_a_wrong_config_shows(make: Callable[[Path], Original], changes: dict[str, object], tmp_path: Path) -> None:
    original = make(tmp_path)
    if changes.get("head_dist") is False:
        checkpoint = open_checkpoint(str(original.path), **original.options)
        weights = {key: value for key, value in checkpoint.content.weights.items() if not key.startswith("head_dist.")}
        config = dataclasses.replace(checkpoint.content.config, **changes)  # type: ignore[arg-type]
        content = dataclasses.replace(checkpoint.content, config=config, weights=weights)
        network = build(dataclasses.replace(checkpoint, content=content))
    else:
        network = altered(original, **changes)
    assert worst(differences(original, network)) > 1000 * BAR


@pytest.mark.parametrize("variant", ["NaFlex, aspect ratio preserved", "NaFlex, rows and columns"])
def test_a_table_resampled_to_the_grid_itself_shows_where_it_is_not_square(variant: str, tmp_path: Path) -> None:
    original = timm_family.VARIANTS[variant](tmp_path)
    rule = open_checkpoint(str(original.path)).content.config.position
    assert isinstance(rule, Resampling)
    found = differences(original, altered(original, position=dataclasses.replace(rule, square=False)))
    assert {name for name, row in found.items() if max(row.values()) > 100 * BAR} == {"wide", "tall"}


def test_dino_skips_resampling_by_pixels_and_not_by_grid(tmp_path: Path) -> None:
    # 65 x 70 pixels give the native grid, but DINO resamples, because the picture is not square.
    original = BARE["DINO"](tmp_path)
    by_grid = differences(original, altered(original, position=Resampling(offset=0.1, skip="grid")))
    assert max(by_grid["as many patches, not square"].values()) > 100 * BAR
    assert max(by_grid["beyond the grid"].values()) <= BAR


@pytest.mark.parametrize("eps", [1e-12, 1e-5])
def test_a_wrong_eps_shows_where_activations_are_small(eps: float, tmp_path: Path) -> None:
    # At unit scale the difference is below any tolerance, so patches, positions and tokens are made small.
    model = randomise(Facebook("plain"))
    assert isinstance(model, Facebook)
    for parameter in (*model.patch_embed.parameters(), model.cls_token, model.pos_embed):
        parameter.mul_(0.02)
    original = bare_family.bare(model, tmp_path, "mae_small.pth")
    checkpoint = open_checkpoint(str(original.path), **original.options)
    assert worst(differences(original, build(checkpoint))) <= BAR
    other = rebuilt(checkpoint, dataclasses.replace(checkpoint.content.config, norm_eps=eps))
    assert worst(differences(original, other)) > 10 * BAR


def test_transposed_position_embeddings_show(tmp_path: Path) -> None:
    # On square pictures only asymmetric embeddings would show it; wide pictures always do.
    original = timm_family.VARIANTS["plain"](tmp_path)
    checkpoint = open_checkpoint(str(original.path))
    weights = dict(checkpoint.content.weights)
    weights["pos_embed.table"] = weights["pos_embed.table"].transpose(0, 1).contiguous()
    transposed = build(
        dataclasses.replace(checkpoint, content=dataclasses.replace(checkpoint.content, weights=weights))
    )
    assert max(differences(original, transposed)["wide"].values()) > 1000 * BAR


WRONG_TABLES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "rows and columns swapped": ("relative.tables", lambda table: table.transpose(2, 3)),
    "queries and keys swapped": ("relative.tables", lambda table: table.flip(2, 3)),
    "rows upside down": ("relative.tables", lambda table: table.flip(2)),
    "the table of another block": ("relative.tables", lambda table: table.roll(1, 0)),
    "to and from [CLS] swapped": ("relative.class_rows", lambda rows: rows[:, :, [1, 0, 2]]),
    "no bias of [CLS] for itself": ("relative.class_rows", lambda rows: rows * torch.tensor([1.0, 1.0, 0.0])),
}


@pytest.mark.parametrize("mistake", WRONG_TABLES)
@pytest.mark.parametrize("family", ["timm", "transformers"])
def test_a_wrong_table_of_relative_positions_shows_at_every_size(mistake: str, family: str, tmp_path: Path) -> None:
    original = {"timm": timm_family.VARIANTS, "transformers": transformers_family.VARIANTS}[family]["BEiT"](tmp_path)
    checkpoint = open_checkpoint(str(original.path))
    name, change = WRONG_TABLES[mistake]
    weights = dict(checkpoint.content.weights)
    weights[name] = change(weights[name]).contiguous()
    wrong = build(dataclasses.replace(checkpoint, content=dataclasses.replace(checkpoint.content, weights=weights)))
    for size, row in differences(original, wrong).items():
        assert max(row.values()) > 20 * BAR, (size, row)


def test_position_embeddings_are_resampled_in_float32_in_every_dtype(tmp_path: Path) -> None:
    original = timm_family.VARIANTS["plain"](tmp_path)
    network = build(open_checkpoint(str(original.path))).to(torch.bfloat16)
    assert network.pos_embed
    assert network.pos_embed.table.dtype == torch.float32
    assert network.patch_embed.proj.weight.dtype == torch.bfloat16
