"""docs/architecture.md names paths that exist, every package, and what the rooms import."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from app.telemetry.metrics import Metrics
from tests.server import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PATHS = sorted(set(re.findall(r"`((?:app|models|tests|docs|deploy|benchmarks)/[\w./-]*)`", PAGE)))
PACKAGES: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
ROWS = dict(re.findall(r"^\| `((?:app|models)/[\w/.]+)` \| (.*) \|$", PAGE, re.MULTILINE))
"""The rest of a room's row, by its path."""

ROOMS = {path: path.removesuffix(".py").strip("/").replace("/", ".") for path in ROWS if path.count("/") <= 2}
"""Rooms with rules of their own: packages directly below app/ and models/, and the two modules at the top."""


def imports(room: str) -> set[str]:
    """Return the other rooms that the files of a room import, anywhere in them."""
    start = ROOT / room
    found = set()
    for file in sorted(start.rglob("*.py")) if start.is_dir() else [start]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found |= {other for name in names for other in ROOMS.values() if f"{name}.".startswith(f"{other}.")}
    return found - {ROOMS[room]}


def test_there_are_paths_to_check() -> None:
    assert len(PATHS) > 50
    assert len(ROOMS) > 12


@pytest.mark.parametrize("path", PATHS)
def test_a_path_exists(path: str) -> None:
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path


@pytest.mark.parametrize("package", [package for package in PACKAGES if "." in package])
def test_a_package_is_on_the_page(package: str) -> None:
    """By its path, or by its name in the row of the package around it."""
    path = Path(package.replace(".", "/"))
    in_row_of_parent = path.name in re.findall(r"`?(\w+)/?`?", ROWS.get(f"{path.parent}/", ""))
    assert f"`{path}/`" in PAGE or in_row_of_parent


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_the_page_says(room: str) -> None:
    listed = {name for name in re.split(r"[,\s]+", ROWS[room].rpartition("|")[2]) if name}
    part = room.partition("/")[0]
    within = {name.removeprefix(f"{part}.") for name in imports(room) if name.startswith(f"{part}.")}
    assert within == listed
    assert {f"{part}.{name}" for name in listed} <= set(ROOMS.values())


def test_every_step_of_a_request_is_measured() -> None:
    steps = re.findall(r"^\| (\w+) \| [\d.]+ \|", PAGE, re.MULTILINE)
    assert steps == ["receive", "decode", "queue", "forward", "total"]


def test_the_example_of_a_metric_exists() -> None:
    names = {family.name for family in Metrics().registry.collect()}
    assert set(re.findall(r"`(vitrine_[a-z_]+)`", PAGE)) <= names
