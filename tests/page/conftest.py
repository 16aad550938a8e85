"""A browser for all tests of the page, and a fresh page for each."""

from collections.abc import Iterator

import pytest
from selenium import webdriver

from tests.page.browser import Page, chromium, resize_window
from tests.server import Address


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
