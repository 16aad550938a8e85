"""docs/quantization.md is followed word for word, in a folder with the pictures that it asks for."""

import re
from pathlib import Path

import httpx

from app.quantization import measure, samples
from tests.documents.how_to import Reader
from tests.heads.labelled import write_folder
from tests.server import ROOT

PAGE = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        (tmp_path / "weights").symlink_to(ROOT / "weights")
        write_folder(tmp_path / "pictures", 12)
        reader.follow(PAGE)
        model = httpx.get(f"http://127.0.0.1:{reader.ports[8000]}/model").json()
    assert (model["dtype"], model["quantization"]["calibration"]["pictures"]) == ("int8", 9)


def test_the_numbers_that_it_names_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert f"A quarter of the pictures, {samples.CALIBRATED} at most" in text
    assert f"Up to {samples.MEASURED} others" in text
    assert f"a median cosine below {measure.MEDIAN}, or less than {measure.SAME_CLASS:.0%} of pictures" in text


def test_the_measured_numbers_keep_the_bar() -> None:
    (row,) = re.findall(r"^\| int8 \| (.*) \|$", PAGE, re.MULTILINE)
    top_1, same, median, *_ = (float(cell.strip(" %")) for cell in row.split("|"))
    (exact,) = re.findall(r"^\| float32 \| ([\d.]+)%", PAGE, re.MULTILINE)
    assert median >= measure.MEDIAN
    assert same >= 100 * measure.SAME_CLASS
    assert top_1 >= float(exact) - 0.5
