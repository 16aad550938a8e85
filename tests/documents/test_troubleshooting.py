"""docs/how-to/troubleshooting.md has every error code, with a cause and a remedy, and no other."""

import re

from app.errors import STATUSES
from app.settings import Settings
from tests.server import ROOT

PAGE = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)


def test_every_code_has_one_row_in_the_order_of_the_table() -> None:
    assert [code for code, *_ in ROWS] == list(STATUSES)


def test_every_row_has_a_cause_and_a_remedy() -> None:
    for code, *cells in ROWS:
        for cell in cells:
            assert cell.endswith("."), f"{code}: {cell}"
            assert len(cell) > 20, f"{code}: {cell}"


def test_the_settings_that_are_named_exist() -> None:
    for name in re.findall(r"VITRINE_([A-Z_]+[A-Z])", PAGE):
        assert name.lower() in Settings.model_fields
