"""docs/heads.md is followed word for word, in a folder with the pictures that it asks for."""

import re
from pathlib import Path

import httpx

from app.heads.file import read_head
from app.settings import Settings
from tests.documents.how_to import Reader
from tests.heads.labelled import write_folder
from tests.server import ROOT

PAGE = (ROOT / "docs" / "heads.md").read_text(encoding="utf-8")


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        write_folder(tmp_path / "pictures", 5, classes=("cat", "coffee"))
        reader.follow(PAGE)
        head = httpx.get(f"http://127.0.0.1:{reader.ports[8000]}/heads/pets").json()
    assert {one["label"]: one["examples"] for one in head["classes"]} == {"cat": 4, "coffee": 3, "rocket": 1}
    assert read_head(tmp_path / "pets.safetensors").examples.counts.tolist() == [5, 5]
    assert read_head(tmp_path / "heads" / "pets.safetensors").version == head["version"]
    assert "<svg" in (tmp_path / "pets.html").read_text()


def test_the_settings_that_are_named_exist() -> None:
    for name in re.findall(r"VITRINE_([A-Z_]+[A-Z])", PAGE):
        assert name.lower() in Settings.model_fields


def test_the_measured_numbers_keep_the_bounds_that_the_page_states() -> None:
    """Near the better of scikit-learn's two, near leave-one-out, and calibrated."""
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in PAGE.splitlines()
        if re.match(r"\| [58] \|", row)
    ]
    for count in ("5", "8"):
        table = {cells[1]: cells[2:] for cells in rows if cells[0] == count}
        ours, left_out = (float(cell.rstrip("%")) for cell in table["ridge"][:2])
        peers = [float(cells[0].rstrip("%")) for name, cells in table.items() if ", vectors" in name]
        assert len(peers) == 4
        assert ours >= max(peers) - 0.5
        assert abs(ours - left_out) <= 2
        assert float(table["ridge"][2]) <= 0.05
