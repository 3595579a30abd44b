"""The page in a real browser: what people do with it, and what a passage must not do to them."""

import os
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.serving.conftest import KEY, with_report
from tests.serving.local import Server, serving

pytestmark = pytest.mark.browser
SHOTS = Path(os.environ.get("RAYRIEVER_SCREENSHOTS", "screenshots"))
NAMESPACE = "http://www.w3.org/2000/svg"  # a name: nothing is loaded from there
HOSTILE = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script> harbour & <b>bold</b>'


@pytest.fixture(scope="module")
def chrome() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options)
    yield driver
    driver.quit()


class Page:
    """The page as somebody sees it."""

    def __init__(self, driver: webdriver.Chrome, server: Server) -> None:
        self.driver = driver
        driver.get_log("browser")  # what a test before has left
        driver.get(server.url)
        driver.execute_script("sessionStorage.clear()")
        driver.refresh()

    def __getattr__(self, name: str):
        return self.driver.find_element(By.ID, name)

    def until(self, wanted) -> None:
        WebDriverWait(self.driver, 20).until(lambda _: wanted())

    def ready(self) -> None:
        self.until(lambda: self.left.find_elements(By.TAG_NAME, "option"))

    def ask(self, query: str) -> None:
        self.query.clear()
        self.query.send_keys(query, Keys.ENTER)

    def hits(self) -> list[list[str]]:
        """The texts of the hits, column by column."""
        columns = self.results.find_elements(By.TAG_NAME, "section")
        return [[item.text for item in column.find_elements(By.TAG_NAME, "li")] for column in columns]

    def shoot(self, name: str) -> None:
        SHOTS.mkdir(exist_ok=True)
        self.driver.save_screenshot(str(SHOTS / f"{name}.png"))

    def complaints(self) -> list[str]:
        """Errors in the browser's console."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def unlocked(published) -> Iterator[Server]:
    with serving(published) as running:
        yield running


@pytest.fixture
def page(chrome: webdriver.Chrome, unlocked: Server) -> Page:
    opened = Page(chrome, unlocked)
    opened.ready()
    return opened


def test_a_question_gives_passages_with_scores_and_its_words_marked(page: Page):
    page.ask("oven number 3")
    page.until(lambda: page.hits() and page.hits()[0])
    (column,) = page.hits()
    assert len(column) == 10 and any("oven number 3" in hit for hit in column)
    assert "rerank" in column[0] and "fused" in column[0]
    assert {mark.text for mark in page.results.find_elements(By.TAG_NAME, "mark")} >= {"oven", "number"}
    page.shoot("search")
    assert page.complaints() == []


def test_two_configurations_stand_side_by_side(page: Page):
    choices = [option.text for option in Select(page.left).options]
    assert choices[0] == "BM25 and encoder, reranked" and "encoder (base)" in choices and "BM25" in choices
    Select(page.left).select_by_visible_text("BM25")
    Select(page.right).select_by_visible_text("encoder (base)")
    page.ask("oven number 3")
    page.until(lambda: len(page.hits()) == 2)
    assert [title.text for title in page.results.find_elements(By.TAG_NAME, "h2")] == ["BM25", "encoder (base)"]
    assert page.results.find_elements(By.CSS_SELECTOR, "li.only"), "what only one of them finds is marked"
    page.shoot("compare")
    assert page.complaints() == []


def test_nothing_found_is_said(page: Page):
    Select(page.left).select_by_visible_text("BM25")
    page.ask("xylophone")
    page.until(lambda: "No passage found." in page.results.text)
    page.shoot("empty")
    assert page.complaints() == []


def test_ten_thousand_characters_are_searched(page: Page):
    page.driver.execute_script("arguments[0].value = arguments[1]", page.query, "oven " * 2000)
    page.query.send_keys(Keys.ENTER)
    page.until(lambda: page.hits() and page.hits()[0])
    assert page.complaints() == []


def test_without_a_key_there_is_a_field_for_it_and_a_wrong_one_is_said(chrome: webdriver.Chrome, server: Server):
    page = Page(chrome, server)
    page.until(lambda: page.keyfield.is_displayed())
    assert page.complaints() == []
    page.key.send_keys("wrong-key-wrong-key")
    page.ask("oven")
    page.until(lambda: "not accepted" in page.message.text)
    page.shoot("wrong-key")
    assert all("401" in each for each in page.complaints()), "the browser itself notes a refused request"
    page.key.clear()
    page.key.send_keys(KEY)
    page.ask("oven")
    page.until(lambda: page.hits() and page.hits()[0])
    assert not page.keyfield.is_displayed()
    assert page.complaints() == []


def test_a_passage_s_markup_is_shown_and_never_run(chrome: webdriver.Chrome, own):
    with serving(own()) as server:
        change = server.call(server.documents.ask("live", [row(HOSTILE)], ()))
        page = Page(chrome, server)
        page.ready()
        page.until(lambda: server.documents.known(change.id).status == "done")
        Select(page.left).select_by_visible_text("BM25")
        page.ask("harbour")
        page.until(lambda: page.hits() and page.hits()[0])
        assert HOSTILE in page.hits()[0][0]
        assert chrome.title == "Rayriever" and not page.results.find_elements(By.CSS_SELECTOR, "img, script, b")
        page.shoot("hostile")
        assert page.complaints() == []


def test_the_report_of_the_run_is_there_with_its_plots(chrome: webdriver.Chrome, own):
    with serving(with_report(own())) as server:
        page = Page(chrome, server)
        page.ready()
        page.report.find_element(By.TAG_NAME, "summary").click()
        page.until(lambda: page.report.find_elements(By.TAG_NAME, "table"))
        text = page.report.text
        assert "Tuned is above base." in text and "BM25 + tuned (RRF)" in text and "0.612" in text
        dev, test, training = page.report.find_elements(By.TAG_NAME, "svg")
        assert len(dev.find_elements(By.TAG_NAME, "rect")) == 2 and len(test.find_elements(By.TAG_NAME, "rect")) == 1
        base, tuned = (float(each.get_attribute("width")) for each in dev.find_elements(By.TAG_NAME, "rect"))
        assert tuned / base == pytest.approx(0.6999 / 0.6123)
        assert len(training.find_elements(By.TAG_NAME, "circle")) == 2
        assert serious_faults(page) == []
        page.shoot("report")
        assert page.complaints() == []


def row(text: str) -> dict[str, object]:
    return {"passage_id": "<i>id</i>", "title": "<h1>t</h1>", "text": text, "source": "", "start": None, "end": None}


def test_it_can_be_used_with_the_keyboard_alone(page: Page):
    assert page.driver.switch_to.active_element == page.query
    page.driver.switch_to.active_element.send_keys("oven number 3", Keys.TAB)
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)  # the button
    page.until(lambda: page.hits() and page.hits()[0])


def test_it_fits_a_phone(page: Page):
    page.driver.set_window_size(390, 800)
    try:
        Select(page.right).select_by_visible_text("BM25")
        page.ask("oven number 3")
        page.until(lambda: len(page.hits()) == 2)
        wide, there = page.driver.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide <= there
        page.shoot("phone")
    finally:
        page.driver.set_window_size(1200, 900)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_axe_finds_no_serious_fault(page: Page, unlocked: Server, path: str):
    if path == "/":
        Select(page.right).select_by_visible_text("BM25")
        page.ask("oven number 3")
        page.until(lambda: len(page.hits()) == 2)
    else:
        page.driver.get(unlocked.url + path)
        page.until(lambda: page.routes.find_elements(By.TAG_NAME, "h2"))
        page.shoot("docs")
    assert serious_faults(page) == []


def serious_faults(page: Page) -> list[str]:
    """Of what is shown, as axe sees it."""
    axe = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    page.driver.execute_script(axe)
    found = page.driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert len(found["passes"]) > 10
    return [
        f"{each['id']}: {each['nodes'][0]['html']}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


def test_nothing_is_loaded_from_elsewhere():
    for each in files("serving.web").iterdir():
        if each.name.endswith((".html", ".js", ".css")):
            assert not re.search(
                r"(https?:)?//[a-z]", each.read_text(encoding="utf-8").replace("// ", "").replace(NAMESPACE, "")
            )
