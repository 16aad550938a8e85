"""The playground, in a real browser against a real server."""

import asyncio
import base64
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from app.main import create_app
from app.settings import Settings
from tests.api.test_api import NPY, array
from tests.browser import Page, chromium, resize_window
from tests.server import ROOT, Server, serving

CAT, ESPRESSO = ROOT / "examples" / "cat.png", ROOT / "examples" / "espresso.jpg"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def page(driver: webdriver.Chrome, server: Server) -> Iterator[Page]:
    resize_window(driver, 1280, 900)
    opened = Page(driver, server.url)
    opened.errors()
    yield opened
    assert opened.errors() == []


def test_a_dropped_image_shows_the_answers_of_the_service(page: Page, client: httpx.Client) -> None:
    page.add("drop", CAT)
    served = client.post("/classify", content=CAT.read_bytes()).json()["results"][0]
    for (label, score), expected in zip(page.bars(), served["predictions"], strict=True):
        assert label == expected["label"]
        assert score == pytest.approx(expected["score"], abs=1e-3)
    assert "451 × 300 PNG → 112 × 112 (crop) · 8 × 8 patches, 65 tokens" in page("figure .facts").text
    assert "interpolated from 37 × 37 to 8 × 8" in page("#interpolation").text
    assert [name.text for name in page.all("#timings .name")] == ["classes", "attention", "image"]
    assert all(float(ms.text.split()[0]) > 0 for ms in page.all("#timings .ms"))


def test_every_way_to_add_images(page: Page) -> None:
    page.add("paste", ESPRESSO)
    assert page.bars()[0][0] == "espresso"
    page("#pick").send_keys(str(CAT))
    page.wait(lambda: page.bars() and page.bars()[0][0] == "Egyptian cat")
    page.settled()
    page.example("espresso")
    assert page.bars()[0][0] == "espresso"
    assert len(page.all("#images > li")) == 3
    page.all("#images > li > button:first-child")[1].click()
    page.wait(lambda: page("figcaption").text == "cat.png")
    page.settled()
    assert page("#photograph").get_attribute("capture") == "environment"


def test_the_image_is_drawn_as_the_network_sees_it(page: Page, client: httpx.Client, tmp_path: Path) -> None:
    page.example("cat")
    with_everything = page.drawn()
    page("#heat").click()
    with_the_grid = page.drawn()
    page("#grid").click()
    bare = page.drawn()
    assert len({with_everything, with_the_grid, bare}) == 3

    (tmp_path / "drawn.png").write_bytes(base64.b64decode(bare.split(",")[1]))
    (tmp_path / "seen.png").write_bytes(client.post("/preprocess", content=CAT.read_bytes()).content)
    drawn, seen = (Image.open(tmp_path / name).convert("RGB") for name in ("drawn.png", "seen.png"))
    enlarged = np.asarray(seen.resize(drawn.size, Image.Resampling.NEAREST), np.int16)
    # A canvas and Pillow may round differently, so that some pixels come from a neighbour.
    assert (np.abs(np.asarray(drawn, np.int16) - enlarged).max(-1) > 2).mean() < 0.05


def test_the_resolution_slider_changes_the_answer_live(page: Page, client: httpx.Client) -> None:
    page.example("cat")
    before, drawn = page.bars(), page.drawn()
    page.slide("size", 3)
    small = client.post("/classify?size=42", content=CAT.read_bytes()).json()["results"][0]["predictions"]
    assert [label for label, _ in page.bars()] == [one["label"] for one in small]
    assert page.bars() != before
    assert page.drawn() != drawn
    assert page("#size-value").text == "42 px"
    assert "to 3 × 3" in page("#interpolation").text
    page.slide("size", 37)
    assert "not interpolated" in page("#interpolation").text
    dots = [dot.get_attribute("textContent") for dot in page.all("#chart .dot title")]
    assert [dot.split(":")[0] for dot in dots if dot] == ["42 px", "112 px", "518 px"]
    page.choose("resize", "fit")
    page.slide("size", 8)
    assert "112 × 70 (fit) · 5 × 8 patches" in page("figure .facts").text
    assert page("#curls code").text.endswith("/classify?resize=fit'")


def test_the_keyboard_moves_the_sliders(page: Page) -> None:
    page.example("espresso")
    page("#size").send_keys(Keys.ARROW_RIGHT)
    page.wait(lambda: page("#size-value").text == "126 px")
    page.settled()
    assert "9 × 9 patches" in page("figure .facts").text
    page("#head input").send_keys(Keys.ARROW_RIGHT)
    page.settled()
    assert page("#head :checked").get_attribute("value") == "0"
    page("body").send_keys(Keys.TAB)
    reached = page.driver.switch_to.active_element
    assert reached.tag_name in ("a", "input", "button", "code")


def test_heads_layers_and_methods_draw_different_maps(page: Page) -> None:
    page.example("cat")
    maps = [page.drawn()]
    for group, value in (("head", "2"), ("head", "5"), ("method", "rollout")):
        page.choose(group, value)
        maps.append(page.drawn())
    page.choose("method", "raw")
    page.slide("layer", 3)
    maps.append(page.drawn())
    assert "layer=3&head=5" in page.all("#curls code")[1].text
    page.slide("opacity", 20)
    maps.append(page.drawn())
    assert len(set(maps)) == len(maps)


def test_two_images_side_by_side(page: Page, client: httpx.Client) -> None:
    page.add("drop", CAT, ESPRESSO)
    assert (page.bars(0)[0][0], page.bars(1)[0][0]) == ("Egyptian cat", "espresso")
    page.wait(lambda: page("#cosine").text != "–")
    files = [("image", CAT.read_bytes()), ("image", ESPRESSO.read_bytes())]
    a, b = array(client.post("/embed?normalize=true", files=files, headers=NPY))
    assert float(page("#cosine").text) == pytest.approx(a @ b, abs=1e-3)
    page.all("#images > li > button:first-child")[0].click()
    page.wait(lambda: len(page.all("figure.image-view")) == 1)
    page.settled()
    assert not page("#similarity").is_displayed()
    page("#images .compare").click()
    page.wait(lambda: len(page.all("figure.image-view")) == 2)
    page.settled()


def test_the_curl_commands_reproduce_what_is_on_screen(page: Page, tmp_path: Path) -> None:
    page.example("cat")
    page.slide("size", 5)
    page.choose("head", "1")
    commands = [code.text for code in page.all("#curls code")]
    assert [name.text for name in page.all("#curls span")] == ["classes", "attention", "image"]
    for command in commands:
        there = command.replace("@examples/", f"@{ROOT}/examples/")
        ended = subprocess.run(
            ["bash", "-c", f"{there} -sS --fail"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        if "-o" not in command:
            assert f'"label":"{page.bars()[0][0]}"' in ended.stdout
    assert (tmp_path / "attention.png").read_bytes()[:4] == b"\x89PNG"
    with Image.open(tmp_path / "network.png") as seen:
        assert seen.size == (70, 70)
    page("#curls button").click()
    page.wait(lambda: page("#curls button").text == "Copied")


def test_a_file_that_is_not_an_image_shows_an_error(page: Page) -> None:
    page.example("cat")
    page.add("drop", ROOT / "README.md")
    page.wait(lambda: page("#problem").is_displayed() and page("figcaption").text == "cat")
    page.settled()
    assert page("#problem-title").text == "This file is not an image"
    assert "allowed formats are JPEG" in page("#problem-detail").text
    assert re.search(r"415 not_an_image · request [0-9a-f]{32}", page("#problem-code").text)
    assert page.bars()[0][0] == "Egyptian cat"
    assert len(page.all("#images > li")) == 1
    # The browser logs each failed request to the console.
    assert all("status of 415" in message for message in page.errors())
    page.slide("size", 9)
    assert not page("#problem").is_displayed()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_phone_everything_fits_the_screen(
    driver: webdriver.Chrome, server: Server, tmp_path: Path, dark: bool
) -> None:
    resize_window(driver, 390, 844, dark=dark)
    page = Page(driver, server.url)
    page.add("drop", CAT, ESPRESSO)
    for _ in range(2):
        width = driver.execute_script("return document.documentElement.scrollWidth")
        assert width == 390
        page.all("#images > li > button:first-child")[0].click()
        page.wait(lambda: len(page.all("figure.image-view")) == 1)
        page.settled()
    red, green, blue = map(int, re.findall(r"\d+", page("body").value_of_css_property("background-color"))[:3])
    assert (red + green + blue < 120) == dark
    assert (driver.execute_script("return getComputedStyle(document.querySelector('.camera')).display") != "none") or (
        not driver.execute_script("return matchMedia('(pointer: coarse)').matches")
    )
    assert page.errors() == []
    driver.save_screenshot(str(tmp_path / "phone.png"))


def test_the_page_asks_for_a_key_and_uses_it(driver: webdriver.Chrome, tmp_path: Path) -> None:
    with serving(tmp_path / "log", api_keys="open-sesame", docs="false") as server:
        resize_window(driver, 1280, 900)
        page = Page(driver, server.url)
        assert page("#problem-title").text == "This service requires an API key"
        page("#key").send_keys("open-sesame", Keys.ENTER)
        page.wait(lambda: "parameters" in page("#model").text)
        assert not page("#problem").is_displayed()
        page.example("espresso")
        assert page.bars()[0][0] == "espresso"
        assert 'Authorization: Bearer $VITRINE_KEY"' in page("#curls code").text
        assert "open-sesame" not in page("#curls").text
        assert not page.all("nav a")
        assert all("status of 401" in message for message in page.errors())


def test_the_content_security_policy_allows_only_the_pages_own_files(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    files = re.findall(r'(?:src|href)="([^"]+\.\w+)"', page.text)
    assert {"static/style.css", "static/main.js", "static/examples/cat.png"} <= set(files)
    for path in ("/", *(f"/{file}" for file in files)):
        answer = client.get(path)
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    assert not re.search(r"https?://", page.text)
    assert client.get("/static/nothing.js").json()["code"] == "not_found"
    for path in (
        "/static/../main.py",
        "/static/%2e%2e/main.py",
        "/static//etc/passwd",
        "/static/examples/../README.md",
    ):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("prefix", ["", "/vit"], ids=["prefix stripped", "prefix kept"])
@pytest.mark.filterwarnings("ignore:The `root_path` parameter")
def test_behind_a_proxy_the_page_finds_its_files(prefix: str) -> None:
    app = create_app(Settings.model_validate({"root_path": "/vit"}))

    async def get(path: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://proxy") as client:
            return await client.get(prefix + path)

    assert '<base href="/vit/">' in asyncio.run(get("/")).text
    for file in ("main.js", "style.css", "examples/cat.png"):
        assert asyncio.run(get(f"/static/{file}")).status_code == 200
