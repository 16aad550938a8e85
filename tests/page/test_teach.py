"""The tab Teach in a real browser: pictures of named classes become a head, and what it answers and refuses."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from app.heads.fit import fit
from app.heads.store import Store
from tests.heads.labelled import SPACE, clusters, write_folder
from tests.heads.service import files, put
from tests.page.browser import HOLD_FILES, PASTE, Page, resize_window
from tests.page.test_access import PHONE, SMALL, WINDOW, audit
from tests.page.test_page import README
from tests.server import ROOT, Address, Server, serving

ASTRONAUT = ROOT / "examples" / "astronaut.jpg"
DROP_ON = """
const transfer = new DataTransfer();
for (const file of document.getElementById("held").files) transfer.items.add(file);
for (const type of ["dragover", "drop"]) {
  arguments[0].dispatchEvent(new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true}));
}
document.getElementById("held").remove();
"""

# The next picture that is added waits until `release` is called.
HOLD_FIT = """
const fetched = window.fetch;
window.held = false;
const until = new Promise((resolve) => { window.release = resolve; });
window.fetch = async (...words) => {
  if (String(words[0]).includes("/examples")) {
    window.held = true;
    await until;
  }
  return await fetched(...words);
};
"""


class Teach:
    """The tab, on a page that is open."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        page.wait(lambda: page("#tab-teach").is_enabled())
        page.run("document.querySelector('#tab-teach').click()")
        page.wait(lambda: page.all("#classes .class"))
        self.settled()
        self.name(name)

    def settled(self) -> None:
        self.page.wait(lambda: self.page("#panel-teach").get_attribute("aria-busy") is None)

    def name(self, name: str) -> None:
        field = self.page("#head-name")
        field.clear()
        field.send_keys(name, Keys.ENTER)
        self.settled()

    def column(self, index: int) -> Any:
        return self.page.all("#classes .class")[index]

    def rename(self, index: int, name: str) -> None:
        field = self.part(index, ".class-name")
        field.clear()
        field.send_keys(name, Keys.ENTER)
        self.settled()

    def part(self, index: int, selector: str) -> Any:
        return self.column(index).find_element("css selector", selector)

    def add(self, index: int, *paths: Path) -> None:
        self.part(index, ".pick").send_keys("\n".join(map(str, paths)))
        self.settled()

    def drop(self, selector: str, *paths: Path) -> None:
        self.page.run(HOLD_FILES)
        self.page("#held").send_keys("\n".join(map(str, paths)))
        self.page.run(DROP_ON, self.page(selector))
        self.page.wait(lambda: not self.page.all("#held"))
        self.settled()

    def attempt(self, path: Path) -> None:
        before = len(self.page.all("#trials > li"))
        self.page("#try-pick").send_keys(str(path))
        self.page.wait(lambda: len(self.page.all("#trials > li")) == before + 1)
        self.settled()

    def says(self, text: str, selector: str = "#teach-status") -> None:
        self.page.wait(lambda: text in self.page(selector).text)

    def two(self, folder: Path, counts: int = 3) -> None:
        """Put pictures into two classes."""
        for index, name in enumerate(("cat", "coffee")):
            self.rename(index, name)
            self.add(index, *sorted((folder / name).iterdir())[:counts])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of each of three classes."""
    return write_folder(tmp_path_factory.mktemp("teach"), 12)


def counts(client: httpx.Client, name: str) -> dict[str, int]:
    return {one["label"]: one["examples"] for one in client.get(f"/heads/{name}").json()["classes"]}


@contextmanager
def opened(
    driver: webdriver.Chrome, server: Address, name: str, size: tuple[int, int] = WINDOW, *, dark: bool = False
) -> Iterator[Teach]:
    resize_window(driver, *size, dark=dark)
    yield Teach(Page(driver, server.url), name)


def test_pictures_in_named_classes_become_a_head_that_answers(page: Page, client: httpx.Client, folder: Path) -> None:
    teach = Teach(page, "first")
    teach.says("at least two classes")
    teach.two(folder)
    teach.says("6 pictures of 2 classes")
    head = client.get("/heads/first").json()
    assert {one["label"]: one["examples"] for one in head["classes"]} == {"cat": 3, "coffee": 3}
    assert f"{100 * head['accuracy']:.0f}% of them" in page("#teach-status").text
    assert "3 pictures here · 3 in the head, " in teach.part(0, ".counts").text
    before = len(page.all("#growth li"))
    page("#add-class").click()
    teach.rename(2, "rocket")
    teach.drop("#classes .class:nth-child(3)", *sorted((folder / "rocket").iterdir())[:4])
    teach.says("10 pictures of 3 classes")
    head = client.get("/heads/first").json()
    assert head["version"].startswith(f"{before + 2}-") or len(page.all("#growth li")) == before + 1
    assert page.all("#growth li")[-1].text.split("\n") == ["10 pictures", f"{100 * head['accuracy']:.0f}%"]
    tried = folder / "rocket" / "9.png"
    teach.attempt(tried)
    answer = client.post("/classify?head=first&explain=3", content=tried.read_bytes()).json()["results"][0]
    shown = page("#trials li").text
    assert page("#trials .verdict").text in ("rocket", "Perhaps none of these")
    assert f"confidence {100 * answer['confidence']:.0f}%" in shown
    assert f"distance {answer['distance']:.2f}" in shown
    assert all(one["name"] in shown for one in answer["nearest"])
    assert [bar.text for bar in page.all("#trials .bars .name")] == [one["label"] for one in answer["predictions"]]


def test_what_lies_far_from_everything_is_none_of_these(page: Page, folder: Path) -> None:
    teach = Teach(page, "far")
    teach.two(folder, 12)
    teach.says("24 pictures of 2 classes")
    teach.attempt(ASTRONAUT)
    assert page("#trials .verdict").text == "None of these"
    assert "distance 0.0" in page("#trials").text
    page("#try-examples [title='cat']").click()
    page.wait(lambda: len(page.all("#trials > li")) == 2)
    teach.settled()
    assert "cat" in page("#trials .verdict").text + page("#trials .facts").text
    assert page.all("#trials .verdict")[1].text == "None of these"


def test_an_answer_follows_the_head(page: Page, client: httpx.Client, folder: Path) -> None:
    """Renaming and removing fit the head anew, and what was tried is asked again."""
    teach = Teach(page, "following")
    teach.two(folder)
    teach.attempt(folder / "cat" / "7.png")
    assert page("#trials .bars .name").text == "cat"
    teach.rename(0, "tabby")
    page.wait(lambda: page("#trials .bars .name").text == "tabby")
    assert counts(client, "following") == {"tabby": 3, "coffee": 3}
    teach.part(1, ".pictures .remove").click()
    teach.says("5 pictures of 2 classes")
    assert counts(client, "following") == {"tabby": 3, "coffee": 2}
    teach.part(0, ".remove-class").click()
    teach.says("It is still as it was: put pictures into a second class.")
    assert counts(client, "following") == {"tabby": 3, "coffee": 2}


def test_names_that_cannot_be_are_refused_in_words(page: Page) -> None:
    teach = Teach(page, "named")
    teach.rename(0, "cat")
    teach.rename(1, "cat")
    assert teach.part(1, ".fault").text == "Another class has this name already. It stays “class 2”."
    teach.rename(1, "   ")
    assert "A class needs a name." in teach.part(1, ".fault").text
    teach.rename(1, 'a="b"')
    assert 'cannot have " or =' in teach.part(1, ".fault").text
    teach.rename(1, "dog")
    assert teach.part(1, ".fault").text == ""
    teach.name("Not A Name")
    assert "up to 64 lower-case letters" in page("#name-fault").text
    assert page("#head-name").get_attribute("aria-invalid") == "true"


def test_a_picture_that_cannot_be_used_is_named_and_the_others_are_fitted(
    page: Page, client: httpx.Client, folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes((folder / "cat" / "0.png").read_bytes()[:200])
    teach = Teach(page, "partly")
    teach.two(folder)
    teach.add(1, README, folder / "coffee" / "5.png", broken)
    teach.says("7 pictures of 2 classes")
    bad = [one.text for one in page.all("#classes .class:nth-child(2) .bad .why")]
    assert [text.split(". ")[0] for text in bad] == [
        "README.md: This file is not an image",
        "broken.png: This image is damaged",
    ]
    assert page.all("#classes .class:nth-child(1) .bad") == []
    assert "4 pictures here · 4 in the head" in teach.part(1, ".counts").text
    assert "2 left out" in teach.part(1, ".counts").text
    assert counts(client, "partly") == {"cat": 3, "coffee": 4}
    teach.part(1, ".bad .remove").click()
    assert "1 left out" in teach.part(1, ".counts").text
    teach.attempt(README)
    assert "This file is not an image" in page("#trials .verdict").text
    assert all("status of 422" in message or "status of 415" in message for message in page.errors())


def test_the_curl_commands_do_the_same(page: Page, client: httpx.Client, folder: Path) -> None:
    odd = folder / "a,b; 'c'.png"
    odd.write_bytes((folder / "cat" / "11.png").read_bytes())
    teach = Teach(page, "curled")
    for index, name in enumerate(("my cat's", "coffee")):
        teach.rename(index, name)
    teach.add(0, odd)
    teach.add(1, folder / "coffee" / "1.png")
    teach.attempt(odd)
    fitted = client.get("/heads/curled").json()
    assert client.delete("/heads/curled").status_code == 200
    (folder / "1.png").write_bytes((folder / "coffee" / "1.png").read_bytes())
    shown = [code.text for code in page.all("#teach-curls code")]
    assert [name.text for name in page.all("#teach-curls span")] == ["fit", "look", "classify", "delete"]
    outputs = [run(command, folder) for command in shown[:3]]
    assert client.get("/heads/curled").json()["version"] == fitted["version"]
    assert '"confidence":' in outputs[2]
    run(shown[3], folder)
    assert client.get("/heads/curled").status_code == 404


def run(command: str, folder: Path) -> str:
    words = ["bash", "-c", f"{command} -sS --fail"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_method_is_chosen(page: Page, client: httpx.Client, folder: Path) -> None:
    """A head that is there is fitted again, the command follows, and a head that only grows keeps its own."""
    teach = Teach(page, "methods")
    teach.two(folder, 1)
    assert client.get("/heads/methods").json()["method"] == "ridge"
    for method in ("mean", "logistic"):
        Select(page("#fit-method")).select_by_value(method)
        teach.settled()
        assert f"/heads/methods?method={method}" in page("#teach-curls code").text
    assert "needs two images of each class" in page("#teach-problem-text").text
    assert client.get("/heads/methods").json()["method"] == "mean"
    for index, name in enumerate(("cat", "coffee")):
        teach.add(index, folder / name / "5.png")
    head = client.get("/heads/methods").json()
    assert (head["method"], head["examples"]) == ("logistic", 4)
    assert "Logistic regression" in page("#fit-method-note").text
    put(client, "grows", {"cat": 2, "coffee": 2}, "?method=mean")
    teach.name("grows")
    page("#adopt").click()
    teach.settled()
    assert page("#fit-method").get_attribute("value") == "mean"
    assert not page("#fit-method").is_enabled()
    assert all("status of 4" in message for message in page.errors())


def test_a_head_is_deleted_by_keyboard_after_a_question(page: Page, client: httpx.Client, folder: Path) -> None:
    def focused() -> str | None:
        return page.driver.switch_to.active_element.get_attribute("id")

    def press(*keys: str) -> None:
        ActionChains(page.driver).send_keys(*keys).perform()

    teach = Teach(page, "doomed")
    assert not page("#delete-head").is_displayed()
    teach.two(folder)
    page("#delete-head").send_keys(Keys.ENTER)
    assert "Delete the head “doomed”?" in page("#delete-sure-text").text
    assert focused() == "delete-no"
    for way in (Keys.ENTER, Keys.ESCAPE):
        press(way)
        assert not page("#delete-sure").is_displayed()
        assert focused() == "delete-head"
        press(Keys.ENTER)
    assert client.get("/heads/doomed").status_code == 200
    ActionChains(page.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert focused() == "delete-yes"
    press(Keys.ENTER)
    page.wait(lambda: not page("#delete-head").is_displayed())
    assert client.get("/heads/doomed").status_code == 404
    assert not page.all("#classes .pictures > *")
    assert focused() == "head-name"
    # The columns are there for the next pictures, and one that is there already is deleted without being added to.
    teach.two(folder)
    assert counts(client, "doomed") == {"cat": 3, "coffee": 3}
    put(client, "stranger", {"cat": 2, "coffee": 2})
    teach.name("stranger")
    page("#delete-head").click()
    page("#delete-yes").click()
    page.wait(lambda: not page("#delete-head").is_displayed())
    assert client.get("/heads/stranger").status_code == 404
    assert page.errors() == []


@pytest.mark.parametrize("renamed", [False, True])
def test_a_head_is_deleted_after_a_fit_that_runs_and_never_another_one(
    renamed: bool, page: Page, client: httpx.Client, folder: Path
) -> None:
    """Who takes the name of another head while the fit runs has not said yes to deleting that one."""
    put(client, "precious", {"cat": 2, "coffee": 2})
    teach = Teach(page, "hasty")
    teach.two(folder)
    page.run(HOLD_FIT)
    teach.part(0, ".pick").send_keys(str(folder / "cat" / "5.png"))
    page.wait(lambda: page.run("return window.held"))
    page("#delete-head").click()
    page("#delete-yes").click()
    if renamed:
        page("#head-name").clear()
        page("#head-name").send_keys("precious", Keys.ENTER)
        page.wait(lambda: page("#teach-found").is_displayed())
    page.run("window.release()")
    teach.settled()
    page.wait(lambda: client.get("/heads/hasty").status_code == (200 if renamed else 404))
    time.sleep(0.5)  # time for what must not come
    assert counts(client, "precious") == {"cat": 2, "coffee": 2}
    assert len(page.all("#classes .pictures > *")) == (7 if renamed else 0)
    client.delete("/heads/hasty")
    client.delete("/heads/precious")


def test_a_head_that_is_there_is_added_to_or_replaced(page: Page, client: httpx.Client, folder: Path) -> None:
    put(client, "there", {"cat": 2, "coffee": 2})
    teach = Teach(page, "there")
    assert "There is a head “there” already, with 2 classes: cat 2, coffee 2." in page("#teach-found-text").text
    teach.two(folder)
    assert counts(client, "there") == {"cat": 2, "coffee": 2}
    page("#adopt").click()
    teach.settled()
    # The two pictures that it has of each class are among the three.
    assert counts(client, "there") == {"cat": 3, "coffee": 3}
    assert not teach.part(0, ".class-name").is_enabled()
    assert "/heads/there/examples" in page("#teach-curls code").text
    teach.add(0, folder / "cat" / "8.png")
    assert counts(client, "there") == {"cat": 4, "coffee": 3}
    # Somebody else comes between.
    assert client.post("/heads/there/examples", files=files({"rocket": 1})).status_code == 200
    teach.add(1, folder / "coffee" / "8.png")
    assert "already, with 3 classes" in page("#teach-found-text").text
    assert counts(client, "there") == {"cat": 4, "coffee": 3, "rocket": 1}
    page("#replace").click()
    teach.settled()
    assert counts(client, "there") == {"cat": 4, "coffee": 4}
    assert all("status of 412" in message for message in page.errors())


def test_by_keyboard_alone(page: Page, client: httpx.Client, folder: Path) -> None:
    """A file dialog is the only thing that a test opens in another way than by its keys."""

    def press(*keys: str) -> None:
        ActionChains(page.driver).send_keys(*keys).perform()

    def focused() -> Any:
        return page.driver.switch_to.active_element

    page("#tab-look").send_keys(Keys.ARROW_RIGHT)
    page.wait(lambda: page.all("#classes .class"))
    assert focused().get_attribute("id") == "tab-teach"
    reached: list[str] = []
    for _ in range(40):
        press(Keys.TAB)
        stop = focused()
        if stop.tag_name == "body":
            break
        reached.append(stop.get_attribute("id") or stop.get_attribute("aria-label") or stop.text)
        if reached[-1] == "head-name":
            stop.send_keys(Keys.CONTROL, "a", Keys.NULL, "by-keys", Keys.ENTER)
        if reached[-1].startswith("Add pictures of class "):
            name = "cat" if reached[-1].endswith("1") else "coffee"
            stop.send_keys("\n".join(str(folder / name / f"{number}.png") for number in range(2)))
            page.wait(lambda: page("#panel-teach").get_attribute("aria-busy") is None)
    order = ["head-name", "fit-method", "Name of the class", "Remove the class class 1", "Add pictures of class 1"]
    order += ["Remove 0.png from class 1", "Add pictures of class 2", "add-class", "try-pick"]
    assert [reached.index(stop) for stop in order] == sorted(reached.index(stop) for stop in order)
    assert counts(client, "by-keys") == {"class 1": 2, "class 2": 2}
    page("[aria-label='Remove 0.png from class 1']").send_keys(Keys.ENTER)
    page.wait(lambda: "3 pictures of 2 classes" in page("#teach-status").text)
    assert focused().get_attribute("aria-label") == "Remove 1.png from class 1"
    page("#add-class").send_keys(Keys.ENTER)
    press("rocket", Keys.ENTER)
    page.wait(lambda: page.all("[aria-label='Class rocket']"))
    press(Keys.TAB, Keys.SPACE)
    page.wait(lambda: not page.all("[aria-label='Class rocket']"))
    assert focused().get_attribute("id") == "add-class"


@pytest.mark.parametrize("size", [WINDOW, PHONE], ids=["window", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everybody_can_teach(
    driver: webdriver.Chrome, server: Address, axe: str, folder: Path, size: tuple[int, int], dark: bool
) -> None:
    """axe-core finds nothing serious, everything fits the screen, and a finger meets 44 pixels."""
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": size == PHONE})
    try:
        with opened(driver, server, f"everybody-{size[0]}-{dark}".lower(), size, dark=dark) as teach:
            page = teach.page
            assert audit(page, axe) == []
            teach.two(folder)
            teach.add(0, README)
            teach.attempt(folder / "cat" / "6.png")
            assert audit(page, axe) == []
            assert page.run("return document.documentElement.scrollWidth") == size[0]
            if size == PHONE:
                assert page.run(SMALL) == []
            assert all("status of 422" in message for message in page.errors())
    finally:
        driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_where_writing_is_off_the_page_says_how_to_turn_it_on(driver: webdriver.Chrome, half: Server) -> None:
    with opened(driver, half, "off") as teach:
        teach.says("Teaching is off on this service.", "#teach-refusal-text")
        assert "heads, allow_heads or admin_keys turn it on" in teach.page("#teach-refusal-text").text
        assert not teach.page("#enter-key").is_displayed()
        assert teach.page.errors() == []


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with keys, low limits, and a head of another model."""
    folder = tmp_path_factory.mktemp("strict")
    limits: dict[str, Any] = {
        "max_head_examples": 5,
        "max_head_classes": 2,
        "max_heads": 2,
        "max_upload_bytes": 200_000,
    }
    with serving(
        folder / "log", heads=str(folder / "heads"), api_keys="user", admin_keys="admin", allow_heads=True, **limits
    ) as server:
        yield server


def test_an_admins_key_is_asked_for(driver: webdriver.Chrome, strict: Server, folder: Path) -> None:
    resize_window(driver, *WINDOW)
    page = Page(driver, strict.url)
    page("#key").send_keys("user", Keys.ENTER)
    page.wait(lambda: "parameters" in page("#model").text)
    teach = Teach(page, "guarded")
    teach.says("This needs an admin's key", "#teach-refusal-text")
    teach.two(folder, 2)
    assert not page.all("#growth li")
    page("#enter-key").click()
    page("#key").clear()
    page("#key").send_keys("admin", Keys.ENTER)
    teach.says("4 pictures of 2 classes")
    assert not page("#teach-refusal").is_displayed()
    assert 'Authorization: Bearer $VITRINE_KEY"' in page("#teach-curls code").text
    assert "admin" not in page("#teach-curls").text
    # The limits, each in words, and each healed by taking out what is too much.
    teach.add(0, *(folder / "cat" / f"{number}.png" for number in (5, 6)))
    teach.says("There are too many examples.", "#teach-problem-text")
    assert "5 are allowed" in page("#teach-problem-text").text
    teach.part(0, ".pictures li:last-child .remove").click()
    teach.says("5 pictures of 2 classes")
    assert not page("#teach-problem").is_displayed()
    page("#add-class").click()
    teach.add(2, folder / "rocket" / "1.png")
    teach.says("There are too many classes.", "#teach-problem-text")
    teach.part(2, ".remove-class").click()
    teach.settled()
    assert not page("#teach-problem").is_displayed()
    large = folder / "large.png"
    large.write_bytes(b"\x89PNG" + bytes(300_000))
    teach.add(0, large)
    assert "large.png: This file is too large." in teach.part(0, ".bad .why").text
    page.run("sessionStorage.clear()")
    assert all(any(f"status of {code}" in message for code in (401, 413)) for message in page.errors())


def test_a_head_of_another_model_is_called_so(driver: webdriver.Chrome, tmp_path: Path, folder: Path) -> None:
    kept = tmp_path / "heads"
    Store(kept, 10, 10**9).put("old", fit(clusters({"a": 3, "b": 3}, dim=384), SPACE)[0])
    with serving(tmp_path / "log", heads=str(kept)) as server, opened(driver, server, "old") as teach:
        teach.says("cannot be used: it was fitted on vectors of model in float32", "#teach-found-text")
        assert not teach.page("#adopt").is_displayed()
        teach.two(folder, 2)
        teach.page("#replace").click()
        teach.says("4 pictures of 2 classes")
        assert teach.page.errors() == []


def test_a_service_that_starts_anew_gets_the_head_again(
    driver: webdriver.Chrome, server: Address, folder: Path
) -> None:
    """Heads in memory are gone with the process, and the pictures are here."""
    with opened(driver, server, "again") as teach, httpx.Client(base_url=server.url) as client:
        teach.two(folder)
        assert client.delete("/heads/again").status_code == 200
        teach.add(0, folder / "cat" / "9.png")
        teach.says("7 pictures of 2 classes")
        assert counts(client, "again") == {"cat": 4, "coffee": 3}
        assert all("status of 404" in message for message in teach.page.errors())


def test_a_link_opens_the_tab_and_a_drop_beside_the_classes_adds_nothing(page: Page, folder: Path) -> None:
    page.driver.get("about:blank")
    page.driver.get(f"{page.url}/#tab=teach")
    page.wait(lambda: page.all("#classes .class"))
    assert page("#tab-teach").get_attribute("aria-selected") == "true"
    teach = Teach(page, "linked")
    teach.drop("#teach-title", folder / "cat" / "1.png")
    assert page("#teach-status").text.startswith("Drop pictures on a class")
    assert page.count() == 0
    assert not page.all(".pictures li")
    teach.drop("[data-zone='try']", folder / "cat" / "1.png")
    assert len(page.all("#trials > li")) == 1
    teach.part(1, ".class-name").click()
    page.run(HOLD_FILES)
    page("#held").send_keys(str(folder / "cat" / "2.png"))
    page.run(f"{PASTE} arguments[0].remove();", page("#held"))
    page.wait(lambda: "1 picture here" in teach.part(1, ".counts").text)
    page("#tab-look").click()
    assert page("#upload").is_displayed()
    assert not page("#classes").is_displayed()
