"""Modules stay small enough to read: classes, functions and packages have a limit."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import ROOT

MAX_CLASS_LINES, MAX_FUNCTION_LINES, MAX_MODULES = 200, 40, 10

SOURCES = [path for name in ("app", "models", "deploy/ray") for path in sorted((ROOT / name).rglob("*.py"))]
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(path: Path) -> Iterator[Definition]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Definition):
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_small(path: Path) -> None:
    for node in definitions(path):
        limit = MAX_CLASS_LINES if isinstance(node, ast.ClassDef) else MAX_FUNCTION_LINES
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        assert lines <= limit, f"{node.name} has {lines} lines"


@pytest.mark.parametrize(
    "package", sorted({path.parent for path in SOURCES}), ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_package_has_few_modules_and_says_what_it_does(package: Path) -> None:
    modules = [path for path in package.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MAX_MODULES
    init = package / "__init__.py"
    if init.exists():
        assert ast.get_docstring(ast.parse(init.read_text()))
