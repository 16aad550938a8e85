"""A collection on Ray Data: the same rows as `vitrine embed`, also after SIGKILL and after the death of an actor."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

from app.bulk.tables import Row
from tests.bounds import assert_equal_in_float32
from tests.bulk import tree
from tests.bulk.collection import FAST, generate, vitrine
from tests.deploy.ray.conftest import below, ray_environment
from tests.server import ROOT

FILES = 6000  # two slices
BAD = (7, 5000)
WORKER = b"ray::MapWorker"


def start(*arguments: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "deploy.ray.bulk", *map(str, arguments)]
    environment = ray_environment(dtype="float32")
    return subprocess.Popen(
        line, cwd=ROOT, env=environment, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("pictures"), FILES, BAD)


def test_rows_equal_those_of_one_machine_after_a_kill_and_a_death(pictures: Path, tmp_path: Path) -> None:
    command = ("embed", pictures, "-o", tmp_path / "out", *FAST)
    first = start(*command)
    _wait_for(tmp_path / "out" / "failures" / "00000000.jsonl", first)
    first.kill()
    first.communicate()
    made = (tmp_path / "out" / "rows" / "thousand=00000" / "00000000.parquet").stat()

    second = start(*command)
    while not (workers := below(second.pid, WORKER)):
        assert second.poll() is None, second.communicate()[0]
        time.sleep(0.05)
    time.sleep(1)
    os.kill(workers[0], signal.SIGKILL)
    code, output = finish(second)
    assert code == 0, output
    assert "1 of 2 slices remain" in output
    rows = tmp_path / "out" / "rows"
    assert (rows / "thousand=00000" / "00000000.parquet").stat().st_ino == made.st_ino, "the first slice was made twice"

    table = ds.dataset(rows, partitioning="hive").to_table(columns=["path", "size", "vector"]).sort_by("path")
    assert Counter(table["path"].to_pylist()).most_common(1)[0][1] == 1
    faults = [
        json.loads(line)
        for path in sorted((tmp_path / "out" / "failures").iterdir())
        for line in path.read_text().splitlines()
    ]
    assert [Path(fault["path"]).stem for fault in faults] == [f"{place:06d}" for place in BAD]

    assert vitrine("embed", pictures, "-o", tmp_path / "one.parquet", *FAST, "--dtype", "float32")[0] == 0
    one = ds.dataset(tmp_path / "one.parquet").to_table()
    assert table["path"] == one["path"]
    assert table["size"] == one["size"]
    actual, expected = (np.stack(part["vector"].to_numpy(zero_copy_only=False)) for part in (table, one))
    assert_equal_in_float32(actual, expected)
    (metadata,) = {ds.dataset(path).schema.metadata[b"vitrine.fingerprint"] for path in rows.rglob("*.parquet")}
    assert metadata == one.schema.metadata[b"vitrine.fingerprint"]

    code, output = finish(start(*command, "--normalize"))
    assert (code, "its query is" in output) == (1, True), output


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_every_entry_of_a_folder_is_a_row_a_failure_or_passed_over(tmp_path: Path) -> None:
    picture = next(generate(tmp_path / "source", 1).rglob("*.png")).read_bytes()
    folder, out = str(tree.make(tmp_path / "tree", picture)), tmp_path / "out"
    expected = tree.account(folder)
    code, output = finish(start("embed", folder, "-o", out, *FAST))
    assert code == 0, output
    failures = [json.loads(line) for path in (out / "failures").iterdir() for line in path.read_text().splitlines()]
    assert {failure["path"] for failure in failures} == expected.problems
    paths = ds.dataset(out / "rows", partitioning="hive").to_table(columns=["path"])["path"].to_pylist()
    assert sorted(paths) == sorted(Row(path, None, None).text for path in expected.files)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(expected.passed_over.items()))
    assert f"passed over in folders: {reasons}\n" in output
    empty = tmp_path / "empty"
    empty.mkdir()
    code, output = finish(start("embed", empty, "-o", tmp_path / "none", *FAST))
    assert (code, f"there are no images in {empty}" in output) == (1, True), output
