"""Collections on the command line: complete, equal to the server's answers, resumable, never mixed with another run."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from io import RawIOBase
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.bulk.progress import ProgressBar
from tests.bounds import assert_equal_in_float32
from tests.bulk.collection import FAST, finish, generate, kill_after, read, start, vitrine
from tests.environment import environment
from tests.server import ROOT

FILES = 2600
BAD = (5, 1500, 2599)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("pictures"), FILES, BAD)


@pytest.fixture(scope="session")
def uninterrupted(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run whose standard error is a terminal, recorded in the file `terminal` beside the output."""
    output = tmp_path_factory.mktemp("uninterrupted") / "vectors.parquet"
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    process = start("embed", pictures, "-o", output, *FAST, output=terminal)
    os.close(terminal)
    with os.fdopen(controller, "rb", buffering=0) as recorded:
        output.with_name("terminal").write_bytes(b"".join(_chunks(recorded)))
    assert process.wait(60) == 0
    return output


def _chunks(terminal: RawIOBase) -> Iterator[bytes]:
    with suppress(OSError):  # how Linux reports the end of a terminal
        while chunk := terminal.read(4096):
            yield chunk


def test_the_bar_shows_progress_rate_and_time_left(uninterrupted: Path) -> None:
    text = uninterrupted.with_name("terminal").read_text()
    assert re.search(r"\d+%.*\b\d+/2600 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+ files/s\]", text), text
    assert "3 files failed" in text


def test_a_log_line_shows_the_same() -> None:
    bar = ProgressBar()
    bar.start(100, 300)
    for _ in range(100):
        bar.advance("picture.png", None)
    assert bar._line(50.0) == "200 of 300 files,  2.00 files/s, 00:50 left"
    bar.close()


def test_the_table_has_every_file_with_an_answer(pictures: Path, uninterrupted: Path) -> None:
    table = read(uninterrupted)
    names = [str(path) for path in sorted(pictures.rglob("*.png"))]
    assert table["path"].to_pylist() == [name for place, name in enumerate(names) if place not in BAD]
    assert table["size"].to_pylist() == [Path(name).stat().st_size for name in table["path"].to_pylist()]
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: float>[384]"


def test_the_failure_report_has_every_other_file(pictures: Path, uninterrupted: Path) -> None:
    lines = [json.loads(line) for line in uninterrupted.with_suffix(".failures.jsonl").read_text().splitlines()]
    assert [Path(line["path"]).stem for line in lines] == [f"{place:06d}" for place in BAD]
    assert {line["code"] for line in lines} == {"not_an_image"}


def test_the_table_has_the_facts_of_its_run(uninterrupted: Path, client: httpx.Client) -> None:
    facts = read(uninterrupted).schema.metadata
    assert facts[b"vitrine.fingerprint"].decode() == client.get("/model").json()["fingerprint"]
    assert json.loads(facts[b"vitrine.query"]) == {"normalize": False, "size": "14"}


def test_vectors_equal_the_servers(uninterrupted: Path, client: httpx.Client) -> None:
    table = read(uninterrupted)
    for place in (0, 1024, len(table) - 1):
        data = Path(table["path"][place].as_py()).read_bytes()
        (served,) = client.post("/embed?size=14", content=data).json()["results"]
        assert_equal_in_float32(np.array(table["vector"][place].as_py(), np.float32), served["embedding"])


def test_npy_has_the_same_vectors_and_a_row_for_each_file(pictures: Path, uninterrupted: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.npy"
    assert vitrine("embed", pictures, "-o", output, *FAST)[0] == 0
    vectors = np.load(output)
    assert np.flatnonzero(np.isnan(vectors).any(1)).tolist() == list(BAD)
    listed = [json.loads(line)["path"] for line in output.with_suffix(".files.jsonl").read_text().splitlines()]
    table = read(uninterrupted)
    good = [place for place in range(FILES) if place not in BAD]
    assert [listed[place] for place in good] == table["path"].to_pylist()
    expected = np.stack(table["vector"].to_numpy(zero_copy_only=False))
    assert_equal_in_float32(vectors[good], expected)


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_a_killed_run_is_resumed(pictures: Path, uninterrupted: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"vectors{suffix}"
    command = ("embed", pictures, "-o", output, *FAST)
    parts = tmp_path / f"vectors{suffix}.parts"
    kill_after(start(*command), parts / "00000000.jsonl")
    assert not output.exists()
    first = (parts / f"00000000{suffix}").stat()
    process = start(*command)
    kill_after(process, parts / "00000001.jsonl")
    assert (parts / f"00000000{suffix}").stat().st_ino == first.st_ino, "the first part was made twice"
    code, printed = vitrine(*command)
    assert code == 0, printed
    assert "continuing after 2048 of 2600 files" in printed
    assert not parts.exists()
    if suffix == ".npy":
        assert np.load(output).shape == (FILES, 384)
    else:
        actual, expected = read(output), read(uninterrupted)
        assert actual["path"] == expected["path"]
        for mine, other in zip(actual["vector"].to_pylist(), expected["vector"].to_pylist(), strict=True):
            assert_equal_in_float32(np.array(mine, np.float32), np.array(other, np.float32))
    assert len(output.with_suffix(".failures.jsonl").read_text().splitlines()) == len(BAD)


SHORT_PARTS = "import app.bulk.run; app.bulk.run.PART_SECONDS = 0.2; from app.__main__ import main; main()"
"""The command line, writing a part every 0.2 s."""


def start_with_short_parts(*arguments: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", SHORT_PARTS, *map(str, arguments)]
    return subprocess.Popen(
        line, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_an_interrupted_run_keeps_its_answers(
    pictures: Path, uninterrupted: Path, tmp_path: Path, suffix: str, number: signal.Signals
) -> None:
    """Parts are written after some time too, not only after 1024 files."""
    output = tmp_path / f"vectors{suffix}"
    command = ("embed", pictures, "-o", output, *FAST)
    process = start_with_short_parts(*command)
    part = tmp_path / f"vectors{suffix}.parts" / "00000000.jsonl"
    while not part.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    process.send_signal(number)
    code, printed = finish(process)
    assert not output.exists()
    if number == signal.SIGINT:
        assert code == 130
        (saved,) = re.findall(
            r"interrupted: (\d+) of 2600 files are saved; run the same command again to continue", printed
        )
        assert "Traceback" not in printed
    else:
        assert code == -number
        saved = r"\d+"
    code, printed = vitrine(*command)
    assert code == 0, printed
    (before,) = re.findall(rf"continuing after ({saved}) of 2600 files", printed)
    assert 0 < int(before) < 2600
    good = FILES - len(BAD)
    rows = FILES if suffix == ".npy" else good
    assert re.search(rf"vectors{suffix}: wrote {rows} rows of 384 numbers in \d+\.\d s", printed)
    expected = np.stack(read(uninterrupted)["vector"].to_numpy(zero_copy_only=False))
    if suffix == ".npy":
        actual = np.load(output)
        actual = actual[~np.isnan(actual).any(1)]
    else:
        actual = np.stack(read(output)["vector"].to_numpy(zero_copy_only=False))
    assert len(actual) == good
    assert_equal_in_float32(actual, expected)


def test_ctrl_c_before_the_first_answer_prints_no_traceback(few: Path, tmp_path: Path) -> None:
    process = start("embed", few, "-o", tmp_path / "vectors.npy", *FAST)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    code, printed = finish(process)
    assert code in (130, -signal.SIGINT, 0)
    assert "Traceback" not in printed
    assert "Aborted" not in printed


def test_ctrl_c_during_a_long_forward_pass_ends_without_an_abort(tmp_path: Path) -> None:
    """The forward pass of 14401 tokens takes longer than the command waits for it."""
    output = tmp_path / "vectors.npy"
    size = ("--size", "1680", "--max-tokens-per-image", "20000", "--dtype", "float32", "--torch-threads", "1")
    process = start("embed", ROOT / "examples" / "cat.png", "-o", output, *size)
    while not (tmp_path / "vectors.npy.parts" / "files.jsonl").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    time.sleep(1)  # until it runs
    process.send_signal(signal.SIGINT)
    code, printed = finish(process)
    assert code == 130, printed
    assert "interrupted: 0 of 1 files are saved" in printed


def test_files_added_or_deleted_between_runs_do_not_move_rows(tmp_path: Path) -> None:
    pictures, output = generate(tmp_path / "pictures", 1500), tmp_path / "vectors.parquet"
    command = ("embed", pictures, "-o", output, *FAST)
    kill_after(start(*command), tmp_path / "vectors.parquet.parts" / "00000000.jsonl")
    shutil.copy(pictures / "000" / "000007.png", pictures / "000" / "000000-new.png")
    (pictures / "001" / "001200.png").unlink()
    assert vitrine(*command)[0] == 0
    stems = [Path(path).stem for path in read(output)["path"].to_pylist()]
    assert stems == [f"{place:06d}" for place in range(1500) if place != 1200]
    (line,) = output.with_suffix(".failures.jsonl").read_text().splitlines()
    assert "No such file" in json.loads(line)["detail"]


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return generate(tmp_path / "few", 3)


def test_a_complete_output_is_not_written_again(few: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.parquet"
    assert vitrine("embed", few, "-o", output, *FAST)[0] == 0
    made = output.stat()
    code, printed = vitrine("embed", few, "-o", output, *FAST)
    assert (code, "is already complete: 3 files" in printed) == (0, True)
    (few / "000" / "new.png").write_bytes((few / "000" / "000000.png").read_bytes())
    code, printed = vitrine("embed", few, "-o", output, *FAST)
    assert (code, "its files is" in printed) == (1, True)
    assert output.stat().st_mtime_ns == made.st_mtime_ns
    assert not output.with_name("vectors.parquet.parts").exists()


def test_a_different_run_replaces_the_output_only_with_overwrite(few: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.npy"
    assert "4096 are allowed" in vitrine("embed", few, "-o", output, "--size", 9999)[1]
    assert vitrine("embed", few, "-o", output, *FAST)[0] == 0, "a run without answers does not block another"
    made = output.read_bytes()
    code, printed = vitrine("embed", few, "-o", output, *FAST, "--normalize")
    assert (code, "its query is" in printed, "--overwrite" in printed) == (1, True, True)
    assert output.read_bytes() == made
    assert vitrine("embed", few, "-o", output, *FAST, "--normalize", "--overwrite")[0] == 0
    np.testing.assert_allclose(np.linalg.norm(np.load(output), axis=1), 1, atol=1e-5)


def test_the_parts_of_a_different_run_are_not_used(tmp_path: Path, pictures: Path) -> None:
    output = tmp_path / "vectors.parquet"
    command, parts = ("embed", pictures, "-o", output, *FAST), tmp_path / "vectors.parquet.parts"
    kill_after(start(*command, "--dtype", "float32"), parts / "00000000.jsonl")
    for other, named in (("--normalize", "query"), ("--dtype=bfloat16", "fingerprint")):
        code, printed = vitrine(*command, *(() if named == "fingerprint" else ("--dtype", "float32")), other)
        assert (code, f"its {named} is" in printed) == (1, True), printed
    assert (parts / "00000000.jsonl").exists()


def test_two_processes_do_not_write_the_same_output(tmp_path: Path, pictures: Path) -> None:
    output = tmp_path / "vectors.parquet"
    first = start("embed", pictures, "-o", output, *FAST)
    while not (tmp_path / "vectors.parquet.parts" / "files.jsonl").exists():
        assert first.poll() is None, first.communicate()[0]
    first.send_signal(signal.SIGSTOP)  # so that it is not done before the second one starts
    try:
        code, printed = vitrine("embed", pictures, "-o", output, *FAST)
    finally:
        first.send_signal(signal.SIGCONT)
    assert (code, "another process is writing" in printed) == (1, True), printed
    assert finish(first)[0] == 0


def test_labels_equal_the_servers(tmp_path: Path, client: httpx.Client) -> None:
    output = tmp_path / "labels.parquet"
    assert vitrine("classify", ROOT / "examples", "-o", output, "--top-k", 3, "--decode", "exact")[0] == 0
    for path, predictions in zip(*(read(output)[name].to_pylist() for name in ("path", "predictions")), strict=True):
        (served,) = client.post("/classify?top_k=3", content=Path(path).read_bytes()).json()["results"]
        assert [one["label"] for one in predictions] == [one["label"] for one in served["predictions"]]
        assert_equal_in_float32([one["score"] for one in predictions], [one["score"] for one in served["predictions"]])


def test_npy_works_without_pyarrow(few: Path, tmp_path: Path) -> None:
    without = "import sys; sys.modules['pyarrow'] = None; from app.__main__ import main; main()"

    def run(output: Path) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", without, "embed", str(few), "-o", str(output), *FAST]
        return subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)

    refused = run(tmp_path / "vectors.parquet")
    assert (refused.returncode, "vitrine[parquet]" in refused.stderr) == (1, True)
    assert run(tmp_path / "vectors.npy").returncode == 0
    assert np.load(tmp_path / "vectors.npy").shape == (3, 384)
