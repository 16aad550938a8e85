"""Which files are listed, and in which order."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.bulk.entries import ListedFile, read_file
from app.bulk.listing import SUFFIXES, PathNotFound, Search
from app.bulk.tables import Row
from app.settings import FORMATS, ImageFormat
from tests.bulk import tree
from tests.server import ROOT


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


def test_what_is_passed_over_is_counted(folder: Path) -> None:
    search = Search(["pictures"], FORMATS)
    assert all(one.size == 4 and not one.named for one in search)
    assert search.passed_over == {"hidden": 2, "without an image suffix": 1, "links to folders": 1}


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


def assert_accounted(found: list[ListedFile], search: Search, folder: str) -> None:
    """Compare a search with `os.walk`: each entry once, as a file, with a problem, or passed over for its reason."""
    expected = tree.account(folder)
    paths = [one.path for one in found]
    assert len(paths) == len(set(paths))
    assert {one.path for one in found if one.problem is None} == expected.files
    assert {one.path for one in found if one.problem is not None} == expected.problems
    assert search.passed_over == expected.passed_over
    assert search.met == len(found) + search.passed_over.total()


def test_every_kind_of_entry_is_accounted_for(tmp_path: Path) -> None:
    """Wherever an entry that cannot be followed comes in the folder's order, what comes after it is there."""
    folder = str(tree.make(tmp_path / "tree"))
    search = Search([folder], FORMATS)
    found = list(search)
    assert_accounted(found, search, folder)
    assert len([one for one in found if one.problem is None]) == 8
    problems = {one.path.removeprefix(f"{folder}/"): one.problem for one in found if one.problem is not None}
    assert problems["self.png"] == problems["one.png"] == "a symbolic link that leads back to itself"
    assert problems["broken.png"] == "a symbolic link to something that does not exist"
    assert problems["pipe.png"] == "a pipe, not a file"
    assert problems["socket.png"] == "a socket, not a file"
    assert problems["a/to-device.png"] == "a device, not a file"
    assert list(search) == found, "the same again, counted anew"
    assert_accounted(found, search, folder)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(100_000):
        if index % 1000 == 500:
            (folder / f"{index}.png").symlink_to(f"{index}.png")
        else:
            (folder / f"{index}{'.png' if index % 2 else '.txt'}").touch()
    return folder


def test_a_folder_of_100000_entries_is_accounted_for(many: Path) -> None:
    search = Search([str(many)], FORMATS)
    found = list(search)
    assert_accounted(found, search, str(many))
    assert search.met == 100_000
    assert len(found) == 50_100


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder in a folder in a folder, deeper than Python's calls may be."""
    lowest = tmp_path / "deep"
    lowest.mkdir()
    for _ in range(1500):
        lowest /= "d"
        lowest.mkdir()
    (lowest / "deepest.png").touch()
    yield tmp_path / "deep"
    (lowest / "deepest.png").unlink()
    while lowest != tmp_path:
        lowest.rmdir()
        lowest = lowest.parent


def test_the_depth_of_folders_has_no_limit(deep: Path) -> None:
    (found,) = Search([str(deep)], FORMATS)
    assert found.path.endswith("/d/deepest.png")
    (matched,) = Search([f"{deep}/**/*.png"], FORMATS)
    assert matched.path == found.path


AS_NOBODY = """
import json, os, sys
from app.bulk.listing import Search
from app.settings import FORMATS
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
search = Search(sys.argv[1:], FORMATS)
print(json.dumps([[(one.path, one.problem) for one in search], search.met, search.passed_over]))
"""


def test_a_folder_that_cannot_be_read_is_listed_with_the_reason() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for below in ("closed", "open"):
            (folder / below).mkdir(mode=0o755)
            (folder / below / "1.png").touch()
        (folder / "closed").chmod(0)
        for asked in (name, f"{name}/**/*.png"):
            printed = subprocess.run(
                [sys.executable, "-c", AS_NOBODY, asked], cwd=ROOT, capture_output=True, text=True, check=True
            )
            found, met, passed_over = json.loads(printed.stdout)
            reason = "the folder cannot be read: Permission denied"
            assert sorted(found) == [[f"{name}/closed", reason], [f"{name}/open/1.png", None]]
            assert (met, passed_over) == (2, {})
        (folder / "closed").chmod(0o755)


def test_globs_do_not_follow_links_and_list_what_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two links to the folder itself would be 2 ** 40 paths; the standard library's `glob` does not end."""
    for name in ("up", "here"):
        (tmp_path / name).symlink_to(".")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "1.png").touch()
    (tmp_path / "sub" / "2.png").symlink_to("2.png")
    os.mkfifo(tmp_path / "sub" / "3.png")
    monkeypatch.chdir(tmp_path)
    for pattern in ("**/*.png", f"{tmp_path}/**/*.png", "./**/*.png", "**/**/*.png", "sub/**/*.png", "sub/*.png"):
        search = Search([pattern], FORMATS)
        found = list(search)
        assert [Path(one.path).name for one in found] == ["1.png", "2.png", "3.png"]
        assert [one.problem is None for one in found] == [True, False, False]
        assert search.met == 3
    search = Search(["*"], FORMATS)
    assert list(search) == []
    assert (search.met, search.passed_over) == (3, {"folders that a glob matches": 3})
    assert [one.path for one in Search(["up/sub/1.png", "up/sub/*1*"], FORMATS)] == ["up/sub/1.png"] * 2


NAMED = {
    "pipe": "a pipe, not a file",
    "socket": "a socket, not a file",
    "broken": "a symbolic link to something that does not exist",
    "self": "a symbolic link that leads back to itself",
    "a/to-device": "a device, not a file",
    "nowhere": "no such file or folder",
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_named_and_is_no_file_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    path = str(tree.make(tmp_path / "tree") / name)
    with pytest.raises(PathNotFound) as refused:
        Search([path], FORMATS)
    assert str(refused.value).startswith(f"{path}: {NAMED[name]}")


@pytest.mark.parametrize("name", ["pipe", "socket", "a/to-device", "a", "self", "broken"])
def test_reading_what_is_no_file_raises_and_does_not_wait(tmp_path: Path, name: str) -> None:
    """A file may have become a pipe since it was listed."""
    with pytest.raises(OSError, match=r"."):
        read_file(str(tree.make(tmp_path / "tree") / name), 10)
    assert read_file(str(tmp_path / "tree" / "a" / "to-file.png"), 10) == tree.PICTURE[:10]
