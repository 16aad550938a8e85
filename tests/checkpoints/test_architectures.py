"""Every architecture that timm knows is served because a table names it, or refused by name."""

import json
import re
from pathlib import Path

import pytest

from models.checkpoints.checkpoint import open_checkpoint
from models.errors import CheckpointUnsupported
from models.layouts.timm import config as timm_config
from models.layouts.timm.architectures import ARCHITECTURES, NAMES, OLD_NAMES
from tests.conftest import MODEL
from tests.originals import timm

PLAIN_MODULES = ("vision_transformer", "deit", "eva", "naflexvit")


def is_served(architecture: str) -> bool:
    """Whether the name is accepted; a refusal names it."""
    if architecture in ARCHITECTURES:
        timm_config.family({"architecture": architecture})
        return True
    with pytest.raises(CheckpointUnsupported, match=re.escape(architecture)):
        timm_config.family({"architecture": architecture})
    return False


def test_every_architecture_of_timm_is_known_or_refused() -> None:
    served = {name for name in timm.list_models() if is_served(name)}
    assert served == {name for _, names in NAMES for name in names.split()}
    plain = {name for module in PLAIN_MODULES for name in timm.list_models(module=module)}
    assert served <= plain


def test_old_names_are_of_known_architectures() -> None:
    from timm.models import _registry

    renamed = _registry._deprecated_models
    for family, names in OLD_NAMES:
        assert all(ARCHITECTURES[renamed[name].partition(".")[0]] == family for name in names.split())


@pytest.mark.parametrize("architecture", ["vit_base_patch16_radio_v3", "vit_of_next_year"])
def test_tensors_that_fit_do_not_make_an_architecture_known(tmp_path: Path, architecture: str) -> None:
    """Rotary positions have no weights: every tensor of such a network fits a plain one."""
    config = json.loads((MODEL / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": architecture}))
    (tmp_path / "model.safetensors").symlink_to(MODEL / "model.safetensors")
    with pytest.raises(CheckpointUnsupported, match=architecture):
        open_checkpoint(str(tmp_path))
