"""Take the picture of the README from the page as it is: `make picture`."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.environment import defined
from tests.page.browser import Page, chromium, resize_window
from tests.server import ROOT, serving

PICTURE = ROOT / "docs" / "images" / "features.png"
VIEW = "#view=features&examples=cat"


def main(picture: Path = PICTURE) -> None:
    """Open the view of the features of the cat, and save what is on the screen."""
    picture.parent.mkdir(exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(defined())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(serving(folder / "log"))
        driver = stack.enter_context(chromium(folder / "profile"))
        resize_window(driver, 1440, 900)
        page = Page(driver, f"{server.url}/{VIEW}")
        page.wait(lambda: "37 × 37" in page("figure .facts").text)
        page.settled()
        if not driver.save_screenshot(str(picture)):
            raise OSError(f"{picture} could not be written")


if __name__ == "__main__":
    main()
