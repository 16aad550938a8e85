"""The view of dense features: colours that pictures share, and what is like a chosen patch."""

import base64
import io
import re

import httpx
import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.api.test_features import ask
from tests.page.browser import Page
from tests.page.test_page import CAT, ESPRESSO, ROCKET, pixels

SIDE = 12
DRAWN = "return [...document.querySelectorAll('figure canvas')].map((canvas) => canvas.toDataURL())"


def features(page: Page, side: int = SIDE) -> None:
    page("#tab-features").click()
    page.settled()
    page.slide("side", side)


def colours(result: object) -> np.ndarray:
    content = base64.b64decode(result["picture"].split(",")[1])  # type: ignore[index]
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.int16)


def test_it_opens_at_a_resolution_that_is_worth_looking_at(page: Page) -> None:
    page.example("rocket")
    page("#tab-features").click()
    page.settled()
    assert page("#side-value").text == "37 × 37 patches"
    assert "518 × 518" in page("figure .facts").text
    assert page.bars()  # the answers stay, at their own resolution


def test_two_pictures_have_the_colours_of_one_basis(page: Page, client: httpx.Client) -> None:
    page.add("drop", CAT, ESPRESSO)
    features(page)
    page.slide("opacity", 100)
    page("#smooth").click()
    results = ask(client, CAT.read_bytes(), ESPRESSO.read_bytes(), size=str(SIDE * 14))["results"]
    for url, result in zip(page.run(DRAWN), results, strict=True):
        drawn = pixels(url)
        step = drawn.shape[0] / SIDE
        centres = ((np.arange(SIDE) + 0.5) * step).astype(int)
        assert np.abs(drawn[np.ix_(centres, centres)] - colours(result)).max() <= 3
    page("#smooth").click()
    assert page.run(DRAWN)[0] != url


def test_a_click_and_the_arrow_keys_choose_a_patch_and_its_like_in_both_pictures(
    page: Page, client: httpx.Client
) -> None:
    page.add("drop", CAT, ROCKET)
    features(page)
    before = page.run(DRAWN)
    first, second = page.all("figure canvas")
    width = first.size["width"]
    ActionChains(page.driver).move_to_element_with_offset(first, -width // 2 + width // 4, 0).click().perform()
    page.settled()
    after = page.run(DRAWN)
    assert after[0] != before[0]
    assert after[1] != before[1]
    place = re.findall(r"row (\d+), column (\d+)", page("#patch").text)[0]
    row, column = (int(number) - 1 for number in place)
    assert row == 6
    assert column in (2, 3)
    first.send_keys(Keys.ARROW_RIGHT)
    page.settled()
    assert page("#patch").text == f"A, row {row + 1}, column {column + 2}: cosine 1.000 to the chosen patch"
    files = CAT.read_bytes(), ROCKET.read_bytes()
    query = {"output": "similarity", "patch": f"{row},{column + 1}", "size": str(SIDE * 14)}
    expected = ask(client, *files, **query)["results"][1]["similarity"]
    ActionChains(page.driver).move_to_element(second).perform()
    page.wait(lambda: page("#patch").text.startswith("B, row"))
    there = [int(number) - 1 for number in re.findall(r"row (\d+), column (\d+)", page("#patch").text)[0]]
    shown = float(re.findall(r"cosine (-?[\d.]+)", page("#patch").text)[0])
    assert shown == pytest.approx(expected[there[0]][there[1]], abs=2e-3)  # the page has the tokens as float16
    first.send_keys(Keys.ESCAPE)
    page.settled()
    assert page("#clear-patch").get_attribute("disabled")
    assert page.run(DRAWN)[1] == before[1]


def test_a_touch_chooses_a_patch(page: Page) -> None:
    page.example("cat")
    features(page)
    page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        x, y = page.run(
            "const box = document.querySelector('figure canvas').getBoundingClientRect();"
            "return [box.left + box.width * 0.9, box.top + box.height * 0.1]"
        )
        point = [{"x": x, "y": y}]
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": point})
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait(lambda: page("#patch").text.startswith("Row "), 5)
        assert page("#patch").text == "Row 2, column 11: cosine 1.000 to the chosen patch"
    finally:
        page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_one_side_of_the_first_component_is_left_out(page: Page) -> None:
    page.example("espresso")
    features(page)
    drawn = [page.drawn()]
    for side in ("positive", "negative"):
        page.choose("mask", side)
        drawn.append(page.drawn())
        assert "one side of the first component" in page("#mask-note").text or side == "negative"
    assert len(set(drawn)) == 3


def test_a_link_brings_a_view_back(page: Page) -> None:
    for name in ("cat", "rocket"):
        page.example(name)
    page("#images li:not(.shown) .compare").click()
    page.settled()
    features(page)
    page.choose("mask", "positive")
    page("figure canvas").send_keys(Keys.ARROW_DOWN)
    page.settled()
    page.wait(lambda: "patch=" in page.driver.current_url)
    seen, link = page.run(DRAWN), page.driver.current_url
    fragment = link.partition("#")[2].split("&")
    assert {"view=features", "side=12", "mask=positive", "patch=0,6,6", "examples=rocket,cat"} == set(fragment)
    page.driver.get("about:blank")
    again = Page(page.driver, link)
    again.wait(lambda: again.titles() == ["A. rocket", "B. cat"])
    again.settled()
    assert again("#tab-features").get_attribute("aria-selected") == "true"
    assert again("#mask :checked").get_attribute("value") == "positive"
    assert again.run(DRAWN) == seen
    again("#copy-link").click()
    again.wait(lambda: again("#copy-link").text == "Copied")


def test_a_link_that_names_what_this_model_does_not_have_is_told(page: Page) -> None:
    page.driver.get("about:blank")
    told = Page(page.driver, f"{page.url}#layer=30&view=nonsense&examples=cat,dog&opacity=50")
    told.wait(lambda: told("#problem").is_displayed())
    assert told("#problem-title").text == "This link names what is not here"
    detail = told("#problem-detail").text
    assert "Layer=30 (here it is 0 to 11)" in detail
    assert "view=nonsense" in detail
    assert "example dog" in detail
    assert told("#opacity-value").text == "50 percent"
    told.wait(lambda: told.titles() == ["cat"])
    told.settled()


def test_what_is_seen_is_saved_with_a_caption(page: Page) -> None:
    page.add("drop", CAT, ROCKET)
    features(page)
    saved = Image.open(io.BytesIO(page.downloaded("#save-png", "vitrine.png"))).convert("RGB")
    assert saved.width == 2 * 900 + 3 * 24
    picture, caption = np.asarray(saved)[24:924, 24:924], np.asarray(saved)[960:, 24:]
    shown = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(page.drawn().split(",")[1]))).convert("RGB").resize((900, 900))
    )
    assert np.abs(picture.astype(np.int16) - shown).mean() < 4  # drawn again at another size
    assert (caption.min(-1) < 100).any()
