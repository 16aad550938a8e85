"""Every network that timm and transformers know is served because a table names it, or refused by name."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from models.checkpoints.checkpoint import open_checkpoint
from models.errors import CheckpointBroken, CheckpointUnsupported
from models.layouts.timm.architectures import ARCHITECTURES, find
from models.layouts.transformers import classes
from models.layouts.transformers.classes import CLASSES
from tests.checkpoints import transformers_family
from tests.checkpoints.original import Original
from tests.conftest import MODEL
from tests.coverage import transformers_classes
from tests.coverage.families import family
from tests.coverage.outcome import judge
from tests.coverage.timm_weights import MODULES, Published, heads_of, measure, published
from tests.coverage.transformers_classes import MODEL_TYPES
from tests.originals import timm

RENAMED = {old: str(new).partition(".")[0] for old, new in timm.models.get_deprecated_models().items()}


def one_of_each_family() -> dict[str, Published]:
    """The smallest network of each family of the page, and of each row of the table."""
    found: dict[str, Published] = {}
    for weights in sorted(published(), key=_size):
        name = weights.architecture
        row = ARCHITECTURES[name].family_name if name in ARCHITECTURES else "refused"
        found.setdefault(f"{family(name)}, {row}", weights)
    return found


def _size(weights: Published) -> tuple[int, tuple[int, ...]]:
    """The number of blocks times that of heads, which grows with the width, and the input size."""
    row = ARCHITECTURES.get(weights.architecture)
    return (row.depth * row.num_heads if row else 0), timm.get_pretrained_cfg(weights.name).input_size


ONE_OF_EACH = one_of_each_family()


def test_every_architecture_of_timm_is_served_or_refused_by_name() -> None:
    plain = {name for module in MODULES for name in timm.list_models(module=module)}
    names = {*timm.list_models(), *RENAMED}
    served = {name for name in names if name in ARCHITECTURES}
    for name in names - served:
        with pytest.raises(CheckpointUnsupported, match=re.escape(name)):
            find(name)
    assert served == set(ARCHITECTURES), "the table has a name that timm does not know"
    assert {RENAMED.get(name, name) for name in served} <= plain


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_table_has_the_sizes_of_the_architecture(name: str) -> None:
    row = ARCHITECTURES[name]
    with torch.device("meta"):
        model = timm.create_model(RENAMED.get(name, name))
    assert (row.depth, row.num_heads) == (len(model.blocks), heads_of(model))
    assert row.family is ARCHITECTURES[RENAMED.get(name, name)].family


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_network_of_each_family_is_served_and_right_or_refused(name: str) -> None:
    weights = ONE_OF_EACH[name]
    outcome = judge(name, weights.name, len(weights.tags), lambda: measure(weights))
    assert outcome.verdict == ("right" if weights.architecture in ARCHITECTURES else "refused"), outcome


@pytest.mark.parametrize(
    "architecture",
    [
        "vit_pe_spatial_base_patch16_512",
        "vit_base_patch16_rope_ape_224",
        "vit_base_patch16_rpn_224",
        "vit_of_next_year",
    ],
)
def test_tensors_that_fit_do_not_make_an_architecture_known(tmp_path: Path, architecture: str) -> None:
    """Rotary positions have no weights: every tensor of such a network fits a plain one."""
    config = json.loads((MODEL / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": architecture}))
    (tmp_path / "model.safetensors").symlink_to(MODEL / "model.safetensors")
    with pytest.raises(CheckpointBroken if architecture in ARCHITECTURES else CheckpointUnsupported) as refusal:
        open_checkpoint(str(tmp_path))
    assert architecture in ARCHITECTURES or architecture in str(refusal.value)


def test_a_narrow_network_keeps_the_heads_of_its_name(tmp_path: Path) -> None:
    """timm takes the number of heads from the architecture, whatever the width; 12 heads of 32, not 6 of 64."""
    model = timm.create_model("vit_base_patch16_224", embed_dim=384, depth=2)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    assert open_checkpoint(str(tmp_path)).content.config.num_heads == 12


MISTAKES: dict[str, dict[str, Any]] = {
    "activation": {"family": {"act": "gelu"}},
    "epsilon": {"family": {"norm_eps": 1e-5}},
    "resampling": {"family": {"profile": "transformers"}},
    "heads": {"num_heads": 6},
    "depth": {"depth": 11},
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_table_is_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = ONE_OF_EACH["siglip_gap, siglip_tanh"]
    row, change = ARCHITECTURES[weights.architecture], dict(MISTAKES[mistake])
    family = replace(row.family, **change.pop("family", {}))
    monkeypatch.setitem(ARCHITECTURES, weights.architecture, replace(row, family=family, **change))
    assert judge("", weights.name, 1, lambda: measure(weights)).verdict == "wrong"


def test_every_model_type_of_transformers_is_served_or_refused_by_name() -> None:
    assert set(CLASSES) <= set(MODEL_TYPES)
    for model_type in set(MODEL_TYPES) - set(CLASSES):
        with pytest.raises(CheckpointUnsupported, match=re.escape(repr(model_type))):
            classes.check({"model_type": model_type})


@pytest.mark.parametrize("model_type", CLASSES)
def test_every_class_of_transformers_is_compared_or_refused_by_name(model_type: str) -> None:
    """A class that is served has a variant in `transformers_family.py`, which the parity tests compare."""
    served = set(CLASSES[model_type].split())
    for name in set(transformers_classes.classes(model_type)) - served:
        with pytest.raises(CheckpointUnsupported, match=name):
            classes.check({"model_type": model_type, "architectures": [name]})
    compared = {cast(partial[Original], make).args[0] for make in transformers_family.VARIANTS.values()}
    assert served <= compared


def test_a_class_that_is_not_known_is_refused(tmp_path: Path) -> None:
    transformers_family.VARIANTS["ViT"](tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["ViTWithRotaryPositions"]}))
    with pytest.raises(CheckpointUnsupported, match="'ViTWithRotaryPositions'"):
        open_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": None}))
    assert open_checkpoint(str(tmp_path)).content.layout == "transformers"
