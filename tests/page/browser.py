"""Drive a real browser, Debian's Chromium, over the playground."""

import base64
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # No other host resolves: a request to one would fail and show up as an error in the console.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

# The events of dropping files from the desktop, because a WebDriver can only use the file dialog.
DROP = """
const transfer = new DataTransfer();
for (const file of arguments[0].files) transfer.items.add(file);
for (const type of ["dragover", "drop"]) {
  document.body.dispatchEvent(new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true}));
}
"""
PASTE = """
const transfer = new DataTransfer();
for (const file of arguments[0].files) transfer.items.add(file);
document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true}));
"""
HOLD_FILES = """
const input = document.createElement("input");
input.type = "file"; input.multiple = true; input.id = "held";
document.getElementById("held")?.remove();
document.body.append(input);
"""
# What the page would save: a headless browser has no place for it.
CATCH = """
window.caught = [];
const blobs = new Map();
const create = URL.createObjectURL;
URL.createObjectURL = (blob) => {
  const url = create(blob);
  blobs.set(url, blob);
  return url;
};
HTMLAnchorElement.prototype.click = function () {
  const blob = blobs.get(this.href);
  const reader = new FileReader();
  reader.onload = () => window.caught.push({name: this.download, content: reader.result});
  reader.readAsDataURL(blob);
};
"""
# In one script, because the page may replace the bars at any time.
BARS = """
const list = document.querySelectorAll("#answer-lists .bars:not(.skeleton)")[arguments[0]];
return [...(list?.children ?? [])].map((bar) => [".name", ".score"].map((part) => bar.querySelector(part).textContent));
"""


class Page:
    """The page in a browser's tab."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver, self.url = driver, url
        driver.get(url)
        self.wait(lambda: "parameters" in self("#model").text or self("#problem").is_displayed())

    def __call__(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, until: Callable[[], Any], deadline_s: float = 30) -> None:
        end = time.monotonic() + deadline_s
        while not _holds(until):
            assert time.monotonic() < end, self.driver.find_element(By.TAG_NAME, "main").text
            time.sleep(0.05)

    def settled(self) -> None:
        """Wait until the page has no request in progress."""
        self.wait(lambda: self("body").get_attribute("aria-busy") is None)

    def example(self, name: str) -> None:
        self(f"[title='{name}'][data-path]").click()
        self.wait(lambda: self.all("figure.image-view"))
        self.settled()

    def add(self, way: Literal["drop", "paste"], *files: Path) -> None:
        before = self.count()
        self.driver.execute_script(HOLD_FILES)
        self("#held").send_keys("\n".join(map(str, files)))
        self.driver.execute_script(f"{DROP if way == 'drop' else PASTE} arguments[0].remove();", self("#held"))
        self.wait(lambda: self.count() == before + len(files))
        self.settled()

    def count(self) -> int:
        """Return how many images were added, with those that are bad."""
        number: int = self.driver.execute_script("return document.querySelectorAll('#images > li').length")
        return number

    def answered(self) -> None:
        """Wait until every image of the gallery has its answer or its problem."""
        self.wait(lambda: "idle" in (self("#work").get_attribute("class") or "").split(), 600)

    def titles(self) -> list[str]:
        return [title.text for title in self.all("figcaption .title")]

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def downloaded(self, selector: str, name: str) -> bytes:
        """Click, and return the file that the page then gives."""
        self.driver.execute_script(CATCH)
        self(selector).click()
        self.wait(lambda: self.run("return window.caught?.length"))
        (found,) = self.run("return window.caught")
        assert found["name"] == name
        return base64.b64decode(found["content"].split(",")[1])

    def slide(self, name: str, value: int) -> None:
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.driver.execute_script(script, self(f"#{name}"), value)
        self.settled()

    def choose(self, group: str, value: str) -> None:
        self(f"#{group} label:has([value='{value}'])").click()
        self.settled()

    def bars(self, index: int = 0) -> list[tuple[str, float]]:
        bars = self.driver.execute_script(BARS, index)
        return [(name, float(score.rstrip("%")) / 100) for name, score in bars]

    def drawn(self) -> str:
        """Return the first canvas as a data: URI."""
        picture: str = self.driver.execute_script("return document.querySelector('canvas').toDataURL()")
        return picture

    def errors(self) -> list[str]:
        """Return the console's errors since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]


def _holds(until: Callable[[], Any]) -> bool:
    """Return whether the condition holds; false while the page is replacing an element."""
    try:
        return bool(until())
    except (NoSuchElementException, StaleElementReferenceException):
        return False


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """Start a browser; skip the test if none is installed."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield running
    finally:
        running.quit()


def resize_window(driver: webdriver.Chrome, width: int, height: int, *, dark: bool = False) -> None:
    """Emulate a window or a phone of this size, in light or dark mode."""
    phone = width < 500
    size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
