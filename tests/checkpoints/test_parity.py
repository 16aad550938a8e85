"""Every family of checkpoints gives the answers of its original, at every size."""

from pathlib import Path

import pytest

from tests.checkpoints.comparison import BAR, differences, open_network, worst
from tests.checkpoints.families import FAMILIES
from tests.checkpoints.original import Family


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_answers_equal_the_originals(family: Family, tmp_path: Path) -> None:
    original = family.make(tmp_path)
    found = differences(original, open_network(original))
    assert worst(found) <= BAR, found
