"""The playground, in a real browser against a real server: adding images, the answers, attention, resolution."""

import asyncio
import base64
import io
import re
import shlex
import subprocess
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
from tests.page.browser import Page, resize_window
from tests.server import ROOT, serving, spawn

CAT, ESPRESSO, ROCKET = (ROOT / "examples" / name for name in ("cat.png", "espresso.jpg", "rocket.jpg"))
README = ROOT / "README.md"


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
    assert "A small demonstration model of 200 classes." in page("#answers").text
    assert "vitrine serve --model owner/name" in page("#answers").text


def test_every_way_to_add_images(page: Page) -> None:
    page.add("paste", ESPRESSO)
    assert page.bars()[0][0] == "espresso"
    page("#pick").send_keys(str(CAT))
    page.wait(lambda: page.bars() and page.bars()[0][0] == "Egyptian cat")
    page.settled()
    page.example("espresso")
    assert page.bars()[0][0] == "espresso"
    assert len(page.all("#images > li")) == 3
    page.all("#images .show")[1].click()
    page.wait(lambda: page.titles() == ["cat.png"])
    page.settled()
    assert page("#photograph").get_attribute("capture") == "environment"
    page("#pick-folder").send_keys(str(ROOT / "examples"))
    page.wait(lambda: page.count() == 7)
    page.answered()
    assert page("#gallery-note").text == "1 file of the folder is no image and was passed over."


def test_the_image_is_drawn_as_the_network_sees_it(page: Page, client: httpx.Client, tmp_path: Path) -> None:
    page.example("cat")
    page("#grid").click()
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


def test_the_picture_shows_through_where_attention_is_low(page: Page, tmp_path: Path) -> None:
    page.example("rocket")
    heated = pixels(page.drawn())
    page("#heat").click()
    bare = pixels(page.drawn())
    changed = np.abs(heated - bare).max(-1)
    assert (changed <= 3).mean() > 0.05
    assert (changed > 100).any()


def pixels(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"), np.int16)


def test_the_resolution_slider_changes_the_answer_live(page: Page, client: httpx.Client) -> None:
    page.example("cat")
    before, drawn = page.bars(), page.drawn()
    page.slide("size", 3)
    small = client.post("/classify?size=42", content=CAT.read_bytes()).json()["results"][0]["predictions"]
    assert [label for label, _ in page.bars()] == [one["label"] for one in small]
    assert page.bars() != before
    assert page.drawn() != drawn
    assert page("#size-value").text == "42 pixels"
    assert page("#size").get_attribute("aria-valuetext") == "42 pixels"
    assert "to 3 × 3" in page("#interpolation").text
    page.slide("size", 37)
    assert "not interpolated" in page("#interpolation").text
    dots = [dot.get_attribute("textContent") for dot in page.all("#chart .dot title")]
    assert [dot.split(":")[0] for dot in dots if dot] == ["42 px", "112 px", "518 px"]
    page.choose("resize", "fit")
    assert page("#resize-note").text == "Fit: the shape is kept and nothing is cut."
    page.slide("size", 8)
    assert "112 × 70 (fit) · 5 × 8 patches" in page("figure .facts").text
    assert page("#curls code").text.endswith("/classify?resize=fit'")


def test_all_sizes_are_tried_two_at_a_time_and_stopped(page: Page) -> None:
    page.example("cat")
    page.run(COUNT_REQUESTS)
    page("#sweep").click()
    page.wait(lambda: re.fullmatch(r"\d+ of 13", page("#sweep-text").text))
    page.wait(lambda: page("#sweep").text == "Try all sizes")
    assert page.run("return [window.most, window.asked]") == [2, 13]
    page("#chart-table summary").click()
    rows = [row.text for row in page.all("#chart-table tr")]
    assert rows[0] == "Pixels cat"
    assert len(rows) == 14
    assert re.fullmatch(r"28 [\w -]+, \d+\.\d%", rows[1])
    assert [text.text for text in page.all("#chart text")] == [
        "0%",
        "50%",
        "100%",
        "28",
        "273",
        "518",
        "side in pixels",
    ]
    page("#sweep").click()
    page.wait(lambda: page("#sweep").text == "Stop")
    page("#sweep").click()
    page.wait(lambda: re.fullmatch(r"stopped after \d+ of 13", page("#sweep-text").text))


COUNT_REQUESTS = """
const fetched = window.fetch;
let now = 0;
[window.most, window.asked] = [0, 0];
window.fetch = async (...words) => {
  window.asked += 1;
  window.most = Math.max(window.most, ++now);
  try { return await fetched(...words); } finally { now -= 1; }
};
"""


def test_the_keyboard_moves_the_sliders_and_the_patches(page: Page) -> None:
    page.example("espresso")
    page("#size").send_keys(Keys.ARROW_RIGHT)
    page.wait(lambda: page("#size-value").text == "126 pixels")
    page.settled()
    assert "9 × 9 patches" in page("figure .facts").text
    page("#head input").send_keys(Keys.ARROW_RIGHT)
    page.settled()
    assert page("#head :checked").get_attribute("value") == "0"
    page("figure canvas").send_keys(Keys.ARROW_RIGHT)
    assert re.fullmatch(r"Row 5, column 5: \d+\.\d+% of the \[CLS\] attention", page("#patch").text)
    page("figure canvas").send_keys(Keys.ARROW_UP, Keys.ARROW_RIGHT)
    assert page("#patch").text.startswith("Row 4, column 6: ")
    assert "Row 4, column 6" in (page("#announcement").get_attribute("textContent") or "")
    page("#tab-attention").send_keys(Keys.ARROW_RIGHT)
    page.wait(lambda: page("#panel-features").is_displayed())
    page.settled()
    page("body").send_keys(Keys.TAB)
    reached = page.driver.switch_to.active_element
    assert reached.tag_name in ("a", "input", "button", "code", "canvas")


def test_heads_layers_and_methods_draw_different_maps(page: Page, client: httpx.Client) -> None:
    page.example("cat")
    assert page("#layer-value").text == "layer 9 of 12"
    assert len(page.all("#head canvas")) == 7
    small = page.run("return [...document.querySelectorAll('#head canvas')].map((canvas) => canvas.toDataURL())")
    assert len(set(small)) == 7
    maps = [page.drawn()]
    for group, value in (("head", "2"), ("head", "5"), ("method", "rollout")):
        page.choose(group, value)
        maps.append(page.drawn())
    assert page("#method-note").text.startswith("Rollout: what reaches [CLS]")
    page.choose("method", "raw")
    page.slide("layer", 3)
    maps.append(page.drawn())
    assert page("#layer-value").text == "layer 4 of 12"
    assert "layer=3&head=5" in page.all("#curls code")[1].text
    page("figure canvas").send_keys(Keys.ARROW_RIGHT)
    query = "/attention?layer=3&head=5&output=json"
    weights = client.post(query, content=CAT.read_bytes()).json()["results"][0]["attention"]
    shown = re.findall(r"[\d.]+%", page("#patch").text)[0]
    assert float(shown.rstrip("%")) == pytest.approx(100 * weights[4][4], abs=0.06)
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
    page("figure .remove").click()
    page.wait(lambda: page.titles() == ["espresso.jpg"])
    page.settled()
    assert not page("#similarity").is_displayed()
    assert page.count() == 1


def test_images_are_compared_and_removed(page: Page) -> None:
    for name in ("cat", "espresso"):
        page.example(name)
    page("#images li:not(.shown) .compare").click()
    page.wait(lambda: page.titles() == ["A. espresso", "B. cat"])
    page.settled()
    page.example("rocket")
    assert page.titles() == ["A. espresso", "B. rocket"]
    page("#images [aria-label='Remove espresso']").click()
    page.wait(lambda: page.titles() == ["rocket"])
    page.settled()
    page("#remove-all").click()
    assert page.count() == 0
    assert page(".prompt").is_displayed()


def test_a_bad_file_is_said_beside_its_name_and_the_others_stay(page: Page) -> None:
    """The files come one after another, and together with good ones."""
    page.add("drop", CAT, ROCKET)
    page.add("drop", README)
    page.wait(lambda: page.titles() == ["A. cat.png", "B. rocket.jpg"])
    page.settled()
    bad = page("#images .bad")
    assert bad.text.startswith("README.md\nThis file is not an image. ")
    assert "allowed formats are JPEG" in bad.text
    assert page.count() == 3
    assert not page("#problem").is_displayed()
    assert (page.bars(0)[0][0], page.bars(1)[0][0]) == ("Egyptian cat", page.bars(1)[0][0])
    page("#remove-all").click()
    page.add("drop", CAT, README)
    page.wait(lambda: page.titles() == ["cat.png"])
    page.settled()
    assert page.bars()[0][0] == "Egyptian cat"
    assert len(page.all("#images .bad")) == 1
    page("#images .bad .remove").click()
    page.wait(lambda: page.count() == 1)
    # The browser logs each failed request to the console.
    assert all("status of 415" in message for message in page.errors())


def test_no_old_answer_stands_beside_a_new_setting_after_the_server_is_lost(
    driver: webdriver.Chrome, tmp_path: Path
) -> None:
    with serving(tmp_path / "log") as server:
        resize_window(driver, 1440, 900)
        page = Page(driver, server.url)
        page.example("cat")
    page.slide("size", 3)
    page.wait(lambda: page("#problem").is_displayed())
    assert page("#problem-title").text == "The service cannot be reached"
    assert page.bars() == []
    assert page("figure .facts").text.strip() == ""
    assert page("#interpolation").text.strip() == ""
    assert page.run("return getComputedStyle(document.querySelector('figure canvas')).opacity") == "0"
    assert page("figure .state").text == "No answer"
    with (tmp_path / "again").open("w") as log:
        process = spawn(log, port=server.port)
        try:
            page.wait(page.bars)
            page.wait(lambda: not page("#problem").is_displayed())
            assert "3 × 3 patches" in page("figure .facts").text
        finally:
            process.terminate()
            process.wait(30)
    page.errors()


def test_while_the_model_loads_the_page_claims_nothing(driver: webdriver.Chrome, tmp_path: Path) -> None:
    """The skeletons have the size of the answers: nothing moves when they come."""
    with serving(tmp_path / "log", ready=False) as server:
        resize_window(driver, 1440, 900)
        driver.get(server.url)
        driver.execute_script("document.querySelector(\"[title='cat'][data-path]\").click()")
        early = driver.execute_async_script(EARLY)
        page = Page.__new__(Page)
        page.driver = driver
        page.wait(page.bars)
        page.settled()
        if early["waiting"]:  # a machine may load the model faster than the page
            assert early["interpolation"].strip() == ""
            assert early["bars"] == 5
            late = driver.execute_script(MEASURE)
            assert late["canvas"] == pytest.approx(early["canvas"], abs=2)
            assert late["answers"] == pytest.approx(early["answers"], abs=2)
    assert all("503" in message for message in page.errors())


MEASURE = """
const height = (selector) => document.querySelector(selector).getBoundingClientRect().height;
return {canvas: height("figure .canvas"), answers: height("#answers")};
"""
EARLY = """
const done = arguments[arguments.length - 1];
const look = () => {
  const figure = document.querySelector("figure .canvas");
  if (!figure) return requestAnimationFrame(look);
  const height = (selector) => document.querySelector(selector).getBoundingClientRect().height;
  done({
    waiting: document.querySelector("figure .state").textContent === "Waiting for the model",
    interpolation: document.querySelector("#interpolation").textContent,
    bars: document.querySelectorAll(".bars.skeleton li").length,
    canvas: height("figure .canvas"),
    answers: height("#answers"),
  });
};
look();
"""


def test_the_curl_commands_reproduce_what_is_on_screen(page: Page, tmp_path: Path) -> None:
    page.example("cat")
    page.slide("size", 5)
    page.choose("head", "1")
    commands = [code.text for code in page.all("#curls code")]
    assert [name.text for name in page.all("#curls span")] == ["classes", "attention", "image"]
    page("#tab-features").click()
    page.settled()
    commands += [code.text for code in page.all("#curls code") if "/features" in code.text]
    assert len(commands) == 4
    for command in commands:
        there = re.sub(r"@(examples/\S+)", lambda found: "@" + shlex.quote(str(ROOT / found[1])), command)
        ended = subprocess.run(
            ["bash", "-c", f"{there} -sS --fail"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        if "-o" not in command:
            assert f'"label":"{page.bars()[0][0]}"' in ended.stdout
    assert (tmp_path / "attention.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "features.png").read_bytes()[:4] == b"\x89PNG"
    with Image.open(tmp_path / "network.png") as seen:
        assert seen.size == (70, 70)
    page("#curls button").click()
    page.wait(lambda: page("#curls button").text == "Copied")


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


def test_the_documentation_has_a_way_back(page: Page) -> None:
    page("nav a").click()
    page.wait(lambda: page.all(".swagger-ui .info a"))
    back = next(link for link in page.all(".swagger-ui .info a") if link.text == "Back to the page")
    assert back.get_attribute("href") == page.run("return new URL('./', location.href).href")
    summaries = [summary.text for summary in page.all(".opblock-summary-description")]
    assert "Show what each patch is, as colours, similarities or numbers" in summaries


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
