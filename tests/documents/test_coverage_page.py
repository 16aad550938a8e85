"""docs/coverage.md is of the tables of the code and of the installed timm, and the README has its sum."""

import re
from collections import Counter

import transformers

from models.layouts.timm.architectures import ARCHITECTURES
from models.layouts.transformers.classes import CLASSES
from tests.checkpoints import bare_family
from tests.coverage.families import family
from tests.coverage.timm_weights import published
from tests.server import ROOT

PAGE = (ROOT / "docs" / "coverage.md").read_text()
ROW = re.compile(r"^\| (\S.*?) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", re.MULTILINE)
FAMILIES = {name: tuple(map(int, counts)) for name, *counts in ROW.findall(PAGE)}


def test_each_family_has_its_published_weights() -> None:
    weights, right = Counter[str](), Counter[str]()
    for one in published():
        for name in (family(one.architecture), "**all**"):
            weights[name] += len(one.tags)
            right[name] += len(one.tags) * (one.architecture in ARCHITECTURES)
    expected = {name: (count, right[name], count - right[name], 0) for name, count in weights.items()}
    assert expected == FAMILIES, "run `make coverage`"


def test_each_class_of_transformers_is_there() -> None:
    for model_type, classes in CLASSES.items():
        (row,) = re.findall(rf"^\| `{model_type}` \| (.*) \| .*\|$", PAGE, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) <= set(classes.split())
    shown = set(re.findall(r"`(\w+)`", PAGE))
    served = {name for classes in CLASSES.values() for name in classes.split()}
    assert {name for name in served if hasattr(transformers, name)} <= shown  # apple's own class is not of transformers


def test_each_original_layout_is_right() -> None:
    for layout in bare_family.FAMILIES:
        assert f"| {layout.name} | {layout.against} | right |" in PAGE


def test_the_readme_has_the_sum() -> None:
    weights, right, _, _ = FAMILIES["**all**"]
    assert f"{right} of the {weights} published weights" in " ".join((ROOT / "README.md").read_text().split())
