"""Heads in a directory are whole at every moment, ordered, bounded, and seen by other processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.heads.file import read_head
from app.heads.fit import fit
from app.heads.head import Head
from app.heads.store import Changed, Full, NotSaved, Store, TooLarge
from tests.heads.labelled import SPACE, clusters
from tests.server import ROOT

KILLS = 12
KILLS_OF_THE_SOAK = 1000


def made(seed: int = 0, count: int = 3) -> Head:
    return fit(clusters({"a": count, "b": count}, seed=seed), SPACE, "mean")[0]


def store(folder: Path | None, max_heads: int = 10, max_bytes: int = 10**9) -> Store:
    return Store(folder, max_heads, max_bytes)


@pytest.fixture(params=["memory", "directory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Store]:
    return lambda **limits: store(tmp_path / "heads" if request.param == "directory" else None, **limits)


def test_each_write_has_the_next_number(opened: Callable[..., Store]) -> None:
    heads = opened()
    assert [heads.put("pets", made(seed)).number for seed in range(3)] == [1, 2, 3]
    kept = heads.kept["pets"].head
    assert kept is not None
    assert kept.number == 3
    assert heads.delete("pets")
    assert not heads.delete("pets")
    assert not heads.kept


def test_a_condition_that_does_not_hold_changes_nothing(opened: Callable[..., Store]) -> None:
    heads = opened()
    version = heads.put("pets", made()).version
    with pytest.raises(Changed, match=f"its version is {version}"):
        heads.put("pets", made(1), lambda there: there is None)
    with pytest.raises(Changed):
        heads.delete("pets", lambda there: there != version)
    kept = heads.kept["pets"].head
    assert kept is not None
    assert kept.version == version


def test_too_many_heads_and_too_large_ones_are_refused(opened: Callable[..., Store]) -> None:
    size = made().held_bytes
    heads = opened(max_heads=2, max_bytes=3 * size)
    heads.put("one", made())
    heads.put("two", made())
    with pytest.raises(Full, match="2 are allowed"):
        heads.put("three", made())
    with pytest.raises(TooLarge, match=f"{3 * size} are allowed"):
        heads.put("two", made(count=40))
    assert heads.put("two", made()).number == 2


def test_another_process_sees_what_was_written(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    version = one.put("pets", made()).version
    assert not other.kept
    other.refresh()
    seen = other.kept["pets"].head
    assert seen is not None
    assert seen.version == version
    other.refresh()
    assert other.kept["pets"].head is seen, "a file that has not changed is not read again"
    second = other.put("pets", made(1))
    assert second.number == 2
    with pytest.raises(Changed):
        one.put("pets", made(2), lambda there: there == version)
    one.delete("pets")
    other.refresh()
    assert not other.kept


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_what_is_no_file_is_listed_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "lost.safetensors").symlink_to(tmp_path / "nothing")
    heads = store(tmp_path)
    heads.put("pets", made())
    problems = {name: kept.problem for name, kept in heads.kept.items()}
    assert problems == {"pipe": "not a file", "folder": "not a file", "pets": ""}


def test_a_file_that_no_request_can_name_is_broken(tmp_path: Path) -> None:
    store(tmp_path).put("pets", made())
    (tmp_path / "pets.safetensors").rename(tmp_path / "My pets.safetensors")
    kept = store(tmp_path).kept["My pets"]
    assert kept.head is None
    assert kept.problem.startswith("no request can name it: the name must be up to 64 lower-case letters")
    assert kept.problem.endswith("; rename its file")


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".pets.1.unfinished"
    leftover.write_bytes(b"half")
    store(tmp_path)
    assert not leftover.exists()


def test_a_disk_that_is_full_leaves_the_old_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = store(tmp_path)
    version = heads.put("pets", made()).version

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotSaved, match="No space left on device"):
        heads.put("pets", made(1))
    assert read_head(tmp_path / "pets.safetensors").version == version
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "pets.safetensors"]


WRITER = """
import sys
from pathlib import Path
from app.heads.file import read_head
from app.heads.store import Store
folder, sources = Path(sys.argv[1]), sys.argv[2:]
store = Store(folder, 10, 10**9)
assert all(kept.head for kept in store.kept.values()), store.kept
print("started", flush=True)
heads = [read_head(Path(source)) for source in sources]
while True:
    for head in heads:
        store.put("pets", head)
"""
"""A process that starts, checks each head that it finds, and then replaces one without end."""


def kill_writers(folder: Path, tmp_path: Path, kills: int) -> None:
    """Kill a writer at a random moment, so many times; each that starts finds the head whole."""
    from app.heads.file import head_bytes

    sources = [tmp_path / f"source-{seed}.safetensors" for seed in range(2)]
    weights = []
    for seed, source in enumerate(sources):
        head = fit(clusters({"a": 200, "b": 200}, dim=256, seed=seed), SPACE, "mean")[0]
        weights.append(head.weight)
        source.write_bytes(head_bytes(head))
    random = np.random.default_rng(0)
    last = 0
    for _ in range(kills):
        command = [sys.executable, "-c", WRITER, str(folder), *map(str, sources)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stderr is not None
            if writer.stdout.readline() != "started\n":
                pytest.fail(writer.stderr.read())
            time.sleep(random.uniform(0.05, 0.3))
            writer.send_signal(signal.SIGKILL)
        head = read_head(folder / "pets.safetensors")
        assert any(np.array_equal(head.weight, one) for one in weights)
        assert head.number >= last, "a write that was finished is lost"
        last = head.number
    assert last > kills


def test_a_writer_that_is_killed_leaves_whole_heads(tmp_path: Path) -> None:
    kill_writers(tmp_path / "heads", tmp_path, KILLS)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_thousand_kills_leave_whole_heads(tmp_path: Path) -> None:
    kill_writers(tmp_path / "heads", tmp_path, KILLS_OF_THE_SOAK)


def write_many(folder: str, count: int) -> None:
    heads = store(Path(folder))
    for seed in range(count):
        heads.put("pets", made(seed))


def test_two_processes_that_write_are_ordered(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(str(tmp_path), 10)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    assert read_head(tmp_path / "pets.safetensors").number == 20
