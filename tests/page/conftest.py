"""A browser for all tests of the page, and a fresh page for each."""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from tests.page.browser import Page, chromium, resize_window
from tests.server import Address

AXE_VERSION = "4.14.1"


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def page(driver: webdriver.Chrome, server: Address) -> Iterator[Page]:
    """At the usual size of a window; at the end of a test the console has no error."""
    resize_window(driver, 1440, 900)
    opened = Page(driver, server.url)
    opened.errors()
    yield opened
    assert opened.errors() == []


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core (MPL-2.0): of the file that VITRINE_TEST_AXE names, else from the npm registry."""
    if named := os.environ.get("VITRINE_TEST_AXE"):
        return Path(named).read_text(encoding="utf-8")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("axe-core needs npm, or VITRINE_TEST_AXE with the path of axe.min.js")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "pack", f"axe-core@{AXE_VERSION}", "--silent"]
    try:
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
        with tarfile.open(folder / ended.stdout.split()[-1]) as archive:
            script = archive.extractfile("package/axe.min.js")
            assert script is not None, "it is no file"
            return script.read().decode()
    except (subprocess.SubprocessError, OSError, IndexError) as error:
        pytest.skip(f"axe-core could not be fetched from the npm registry: {type(error).__name__}")
