"""Which files are listed, and in which order."""

import os
from pathlib import Path

import pytest

from app.bulk.listing import SUFFIXES, PathNotFound, Search
from app.bulk.tables import Row
from app.settings import FORMATS, ImageFormat


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "b.JPG",
        "a.png",
        "c.txt",
        ".hidden.png",
        "sub/d.webp",
        "sub/deeper/e.heic",
        ".cache/f.png",
        "[x].png",
    ):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1234")
    (tmp_path / "pictures" / "sub" / "loop").symlink_to(tmp_path / "pictures", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pictures"


def listed(*named: str, formats: tuple[ImageFormat, ...] = FORMATS) -> list[str]:
    return [one.path.removeprefix("pictures/") for one in Search(named, formats)]


def test_a_folder_lists_its_images_in_alphabetical_order(folder: Path) -> None:
    assert listed("pictures") == ["[x].png", "a.png", "b.JPG", "sub/d.webp", "sub/deeper/e.heic"]
    assert listed("pictures/") == listed("pictures")


def test_skipped_files_are_counted(folder: Path) -> None:
    search = Search(["pictures"], FORMATS)
    assert all(one.size == 4 and not one.named for one in search)
    assert search.skipped == 2


def test_only_accepted_formats_are_listed(folder: Path) -> None:
    assert listed("pictures", formats=("WEBP",)) == ["sub/d.webp"]
    assert set(SUFFIXES) == {*FORMATS, "TIFF"}


def test_a_named_file_is_listed_whatever_its_suffix(folder: Path) -> None:
    assert listed("pictures/c.txt", "pictures/a.png", "pictures/c.txt") == ["c.txt", "a.png", "c.txt"]
    assert all(one.named for one in Search(["pictures/c.txt"], FORMATS))


def test_globs_match_files(folder: Path) -> None:
    assert listed("pictures/*.*") == ["[x].png", "a.png", "b.JPG", "c.txt"]
    assert listed("pictures/sub/d*/**") == ["sub/deeper/e.heic"]
    assert listed("pictures/[x].png") == ["[x].png"]


@pytest.mark.parametrize("named", ["nowhere.png", "pictures/*.tiff"])
def test_a_missing_path_is_reported_at_once(folder: Path, named: str) -> None:
    with pytest.raises(PathNotFound, match="nowhere" if "nowhere" in named else "tiff"):
        Search(["pictures", named], FORMATS)


def test_a_name_that_is_not_utf8_is_listed_and_escaped_in_a_table(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).write_bytes(b"1234")
    (odd,) = (one for one in Search(["pictures"], FORMATS) if "\udcff" in one.path)
    assert Row(odd.path, odd.size, None).text == "pictures/\\xff.png"
