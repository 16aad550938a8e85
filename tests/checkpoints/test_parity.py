from pathlib import Path

import pytest

from tests.checkpoints.comparison import BAR, differences, open_network, worst
from tests.checkpoints.families import FAMILIES
from tests.checkpoints.original import Family


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_answers_like_the_original(family: Family, tmp_path: Path) -> None:
    original = family.make(tmp_path)
    found = differences(original, open_network(original))
    assert worst(found) <= BAR, found
