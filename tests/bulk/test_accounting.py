"""A collection on the command line accounts for all that it meets, and says which file cannot be written, and why."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from app.bulk.parts import Parts, Unaccounted
from app.bulk.rows import Failure
from app.bulk.tables import Npy, Parquet, Row
from app.cli.run import print_passed_over
from tests.bulk import tree
from tests.bulk.collection import FAST, finish, generate, start, vitrine
from tests.environment import environment
from tests.server import ROOT


def reported(output: Path) -> dict[str, str]:
    """Return the failure report: why each file failed."""
    lines = output.with_suffix(".failures.jsonl").read_text().splitlines()
    return {line["path"]: line["detail"] for line in map(json.loads, lines)}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The picture of a cat would take longer."""
    picture = next(generate(tmp_path / "source", 1).rglob("*.png"))
    return tree.make(tmp_path / "tree", picture.read_bytes())


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_every_entry_of_a_folder_is_a_row_a_failure_or_passed_over(small: Path, tmp_path: Path, suffix: str) -> None:
    output, expected = tmp_path / f"vectors{suffix}", tree.account(str(small))
    code, printed = vitrine("embed", small, "-o", output, *FAST)
    assert code == 0, printed
    assert reported(output).keys() == expected.problems
    if suffix == ".npy":
        vectors = np.load(output)
        paths = [json.loads(line)["path"] for line in output.with_suffix(".files.jsonl").read_text().splitlines()]
        good = ~np.isnan(vectors).any(1)
        assert {path for path, kept in zip(paths, good, strict=True) if kept} == expected.files
        assert set(paths) == expected.files | expected.problems
    else:
        paths = pq.read_table(output)["path"].to_pylist()
        assert len(paths) == len(set(paths))
        assert set(paths) == {Row(path, None, None).text for path in expected.files}
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(expected.passed_over.items()))
    assert f"passed over in folders: {reasons}\n" in printed
    assert f"{len(expected.problems)} files failed" in printed


def test_a_resumed_run_says_what_was_passed_over(small: Path, tmp_path: Path) -> None:
    """The files are listed once; later runs read what was counted then."""
    output = tmp_path / "vectors.npy"
    interrupted = (
        "import app.bulk.run as run; from app.__main__ import main\n"
        "async def stop(*_): raise SystemExit(9)\n"
        "run._answer = stop; main()"
    )
    line = [sys.executable, "-c", interrupted, "embed", str(small), "-o", str(output), *FAST]
    subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, check=False)
    assert (tmp_path / "vectors.npy.parts" / "files.jsonl").exists()
    code, printed = vitrine("embed", small, "-o", output, *FAST)
    assert (code, "passed over in folders: " in printed) == (0, True), printed


def test_printed_classes_account_for_the_same(small: Path) -> None:
    expected = tree.account(str(small))
    code, printed = vitrine("classify", small, "--json", *FAST)
    lines = printed.splitlines()
    answered = {json.loads(line)["file"] for line in lines if line.startswith("{")}
    assert len(answered) == len(expected.files)
    for path in expected.problems:
        assert any(line.startswith(f"{Row(path, None, None).text}: ") for line in lines), path
    assert "passed over in folders: " in printed
    assert (code, f"{len(expected.problems)} files failed" in printed) == (1, True)


@pytest.mark.parametrize("kind", ["pipe", "broken"])
def test_what_is_named_and_cannot_be_read_is_refused(small: Path, tmp_path: Path, kind: str) -> None:
    """A pipe would otherwise be waited for without an end."""
    for command in (("embed", "-o", tmp_path / "vectors.npy"), ("classify",), ("attend", "-o", tmp_path / "map.png")):
        code, printed = finish(start(command[0], small / kind, *command[1:], *FAST), 60)
        assert code in (1, 2), printed
        assert kind in printed
        assert "Traceback" not in printed
    assert not list(tmp_path.glob("vectors*"))


@pytest.mark.parametrize("command", ["embed", "print"])
def test_a_folder_without_pictures_is_an_error(tmp_path: Path, command: str) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a.txt", "b.txt", ".c.png", "d.tif"):
        (folder / name).touch()
    output = tmp_path / "out.parquet"
    line = ("classify", folder) if command == "print" else (command, folder, "-o", output)
    for _ in range(2):  # the second run is told the same
        code, printed = vitrine(*line, *FAST)
        assert (code, f"there are no images in {folder}" in printed) == (1, True), printed
        assert "1 hidden, 1 of a format that image_formats leaves out, 2 without an image suffix" in printed
        assert not list(tmp_path.glob("out*"))


def test_nothing_is_printed_if_nothing_was_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    print_passed_over({})
    assert capsys.readouterr().out == ""


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 200 kB; only root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a filesystem")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_a_full_disk_is_told_with_path_and_reason_and_the_run_continues(
    tiny_disk: Path, tmp_path: Path, suffix: str
) -> None:
    pictures, output = generate(tmp_path / "pictures", 200), tiny_disk / f"vectors{suffix}"
    code, printed = vitrine("embed", pictures, "-o", output, *FAST)
    assert code == 1
    assert f"cannot write {tiny_disk}" in printed
    assert "No space left on device" in printed
    assert "run the same command again to continue" in printed
    assert "Traceback" not in printed
    assert "Exception ignored" not in printed
    assert not output.exists()
    subprocess.run(["mount", "-o", "remount,size=20m", str(tiny_disk)], check=True)
    code, printed = vitrine("embed", pictures, "-o", output, *FAST)
    assert (code, output.exists()) == (0, True), printed


def limited(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(("suffix", "size"), [(".npy", 1000), (".npy", 100_000), (".parquet", 100_000)])
def test_a_file_that_may_not_grow_is_told_with_path_and_reason(tmp_path: Path, suffix: str, size: int) -> None:
    """The list of files, or the first part."""
    pictures, output = generate(tmp_path / "pictures", 100), tmp_path / f"vectors{suffix}"
    line = [sys.executable, "-m", "app", "embed", str(pictures), "-o", str(output), *FAST]
    limit = partial(limited, size)
    done = subprocess.run(
        line, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, preexec_fn=limit
    )
    part = "files.jsonl" if size == 1000 else f"00000000{suffix}"
    assert done.returncode == 1
    assert f"cannot write {output}.parts/{part}: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / f"{output.name}.parts").glob("*.unfinished"))


def test_a_drawing_that_cannot_be_written_is_told_with_path_and_reason(tmp_path: Path) -> None:
    code, printed = vitrine("attend", ROOT / "examples" / "cat.png", "-o", "/dev/full", *FAST)
    assert (code, "cannot write /dev/full: No space left on device" in printed) == (1, True), printed


@pytest.mark.parametrize("table", [Parquet, Npy])
def test_a_file_that_is_neither_a_row_nor_a_failure_is_an_error(
    tmp_path: Path, table: type[Parquet] | type[Npy]
) -> None:
    """Whatever lost it, the run does not end as if it were complete."""
    made, answer = table(), np.ones(4, np.float32)
    with closing(Parts(tmp_path / f"vectors{made.suffix}", made)) as parts:
        (parts.folder / "files.jsonl").touch()
        parts.write([Row("a", 1, answer), Row("b", 1, None)], [Failure("b", 1, "not_an_image", "", False)])
        parts.total = 3
        with pytest.raises(Unaccounted, match="3 files are listed, but 2 were answered, 1 of them failed"):
            parts.join({})
        assert not parts.output.exists()
        parts.total = 2
        assert parts.join({}) == (1 if table is Parquet else 2, 4)
        assert parts.output.exists()


def test_the_report_of_a_name_that_is_not_utf8_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"\xff.png", b"b\xe9.png"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).symlink_to("nowhere")
    output = tmp_path / "vectors.npy"
    code, printed = vitrine("embed", folder, "-o", output, *FAST)
    assert code == 1, printed
    assert {os.fsencode(Path(path).name) for path in reported(output)} == {b"\xff.png", b"b\xe9.png"}
