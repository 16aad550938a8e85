"""The list of a collection on a cluster accounts for every entry, like that of one machine; no cluster is started."""

from pathlib import Path
from typing import cast

import pytest
from pyarrow import fs

from app.bulk.atomic import CannotWrite
from app.bulk.entries import ListedFile
from app.bulk.listing import PathNotFound, Search
from app.bulk.parts import Unaccounted
from app.settings import FORMATS
from deploy.ray import slices as module
from deploy.ray.remote import RemoteSearch
from deploy.ray.slices import Slices
from tests.bulk import tree


def test_the_list_is_that_of_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where names are not UTF-8 and where a slice ends in the middle of a folder."""
    monkeypatch.setattr(module, "SLICE_FILES", 7)
    folder = str(tree.make(tmp_path / "tree"))
    slices, expected, search = Slices([folder], str(tmp_path / "out")), tree.account(folder), Search([folder], FORMATS)
    listed = slices.list_files(FORMATS)
    assert listed.files == len(expected.files | expected.problems)
    assert listed.passed_over == expected.passed_over
    numbers = slices.missing(listed)
    assert len(numbers) == -(-listed.files // 7) > 2
    found = [list(slices.files(number)) for number in numbers]
    assert [len(files) for files in found] == [listed.files_of(number) for number in numbers]
    assert [file for files in found for file in files] == list(search)
    for files in found:
        for file in files:
            if file.problem is None:
                assert slices.read(file.path, 10) == tree.PICTURE[:10]
    assert slices.list_files(FORMATS) == listed, "a later run reads the list"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    folder = tree.make(tmp_path / "tree")
    with pytest.raises(OSError, match="a pipe, not a file"):
        Slices([str(folder)], str(tmp_path / "out")).read(str(folder / "pipe"), 10)


@pytest.mark.parametrize("name", ["nowhere", "broken", "self", "pipe"])
def test_an_input_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    folder = tree.make(tmp_path / "tree")
    with pytest.raises(PathNotFound):
        Slices([str(folder / name)], str(tmp_path / "out")).list_files(FORMATS)


def test_an_entry_that_is_lost_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Losing(Search):
        def __iter__(self) -> object:  # type: ignore[override]
            return (file for place, file in enumerate(super().__iter__()) if place)

    monkeypatch.setattr(module, "Search", Losing)
    slices = Slices([str(tree.make(tmp_path / "tree"))], str(tmp_path / "out"))
    with pytest.raises(Unaccounted, match="were met, but"):
        slices.list_files(FORMATS)


def test_an_output_that_cannot_be_written_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    slices = Slices([str(tree.make(tmp_path / "tree"))], str(tmp_path / "out"))
    with pytest.raises(CannotWrite, match=f"cannot write {tmp_path}/out/files"):
        slices.list_files(FORMATS)


FOLDERS = {
    "root": [
        fs.FileInfo("root/b.png", fs.FileType.File, size=3),
        fs.FileInfo("root/closed", fs.FileType.Directory),
        fs.FileInfo("root/.hidden", fs.FileType.Directory),
        fs.FileInfo("root/a.jpg", fs.FileType.File, size=2),
        fs.FileInfo("root/odd.png", fs.FileType.Unknown),
        fs.FileInfo("root/gone.png", fs.FileType.NotFound),
        fs.FileInfo("root/odd", fs.FileType.Unknown),
        fs.FileInfo("root/scan.tif", fs.FileType.File, size=1),
        fs.FileInfo("root/below.png", fs.FileType.Directory),
        fs.FileInfo("root/.b.png", fs.FileType.File, size=1),
    ],
    "root/below.png": [fs.FileInfo("root/below.png/c.png", fs.FileType.File, size=4)],
}


class Store:
    """A filesystem that answers as pyarrow's do."""

    def get_file_info(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        if selector.base_dir not in FOLDERS:
            raise PermissionError(13, "Permission denied")
        return list(FOLDERS[selector.base_dir])


def test_a_remote_folder_is_accounted_for() -> None:
    search = RemoteSearch(cast(fs.FileSystem, Store()), ["root"], FORMATS)
    found = list(search)
    assert [(file.path, file.size, file.problem is None) for file in found] == [
        ("root/a.jpg", 2, True),
        ("root/b.png", 3, True),
        ("root/gone.png", None, False),
        ("root/odd.png", None, False),
        ("root/below.png/c.png", 4, True),
        ("root/closed", None, False),
    ]
    assert "Permission denied" in str(found[-1].problem)
    reasons = {"hidden": 2, "without an image suffix": 1, "of a format that image_formats leaves out": 1}
    assert search.passed_over == reasons
    assert search.met == len(found) + 4
    assert list(search) == found
    assert all(isinstance(file, ListedFile) for file in found)


def test_a_remote_input_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(PermissionError):
        list(RemoteSearch(cast(fs.FileSystem, Store()), ["nowhere"], FORMATS))
