"""The report in a real browser, from a file, at desktop and phone width."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reported import make_run

from dpforge.experiment.report.page import Page, Section, Table, write_page
from dpforge.experiment.report.run_page import write_run

pytestmark = pytest.mark.integration
WIDTHS = (1280, 390)
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def _absent(reason: str) -> None:
    if os.environ.get("DPFORGE_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _absent("the Python package playwright is not installed")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        _absent(f"no browser is installed; looked for {', '.join(BROWSERS)}")
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=list(QUIET))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write_run(make_run(tmp_path_factory.mktemp("run")), public=False)


class Visit:
    """A page opened from its file, with everything it said and asked for."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str = "light") -> None:
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.resolve().as_uri())
        self.page.wait_for_load_state("load")

    def keys(self, column: int) -> list[str]:
        code = "(rows, i) => rows.map(row => row.cells[i].dataset.value)"
        return self.page.locator("table").first.locator("tbody tr").evaluate_all(code, column)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_opens_without_error_request_or_overflow(browser, report, width, scheme):
    visit = Visit(browser, report, width, scheme)
    assert visit.said == []
    assert [url for url in visit.requests if not url.startswith(("file://", "data:"))] == []
    assert sum(url.startswith("file://") for url in visit.requests) == 1
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_picture_loads_and_fits(browser, report, width):
    visit = Visit(browser, report, width)
    code = "images => images.map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().right, i.alt])"
    found = visit.page.locator("img").evaluate_all(code)
    assert len(found) > 8
    for complete, natural, right, alt in found:
        assert complete
        assert natural > 0
        assert right <= width
        assert alt
    visit.page.close()


def test_a_picture_at_full_size_scrolls_in_its_card_and_not_the_page(browser, report):
    visit = Visit(browser, report, 390)
    button = visit.page.locator("figure button.zoom:visible").first
    button.click()
    shown = visit.page.locator("figure.full img")
    assert shown.evaluate("image => image.clientWidth") > 390
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    button.click()
    assert shown.count() == 0
    visit.page.close()


@pytest.fixture
def table(browser, tmp_path) -> Iterator[Visit]:
    rows = [["b", 10.0, "2.5 ± 0.1"], ["a10", -1.5, "11 ± 3"], ["a9", None, None], ["c", 9.0, "−3 ± 1"]]
    made = Table("t", ["name", "number", "interval"], rows)
    write_page(Page("p", "s", [Section("x", [made])]), tmp_path / "table.html")
    visit = Visit(browser, tmp_path / "table.html", 1280)
    yield visit
    assert visit.said == []
    visit.page.close()


def test_a_heading_sorts_by_value_and_again_reverses_with_missing_values_last(table):
    heading = table.page.locator("th").nth(1)
    heading.locator("button").click()
    assert table.keys(1) == ["-1.5", "9.0", "10.0", ""]
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").click()
    assert table.keys(1) == ["10.0", "9.0", "-1.5", ""]
    assert heading.get_attribute("aria-sort") == "descending"


def test_intervals_sort_by_their_number_and_names_by_their_digits(table):
    table.page.locator("th button").nth(2).click()
    assert table.keys(2) == ["-3", "2.5", "11", ""]
    table.page.locator("th button").nth(0).click()
    assert table.keys(0) == ["a9", "a10", "b", "c"]
    assert table.page.locator("th[aria-sort]").count() == 1


def test_the_enter_key_sorts_and_the_focus_is_seen(table):
    table.page.locator("th button").nth(1).focus()
    table.page.keyboard.press("Enter")
    assert table.keys(1)[0] == "-1.5"
    style = "button => getComputedStyle(button).outlineStyle"
    table.page.keyboard.press("Tab")
    assert table.page.locator("th button").nth(2).evaluate(style) == "solid"


def test_every_table_of_the_report_sorts(browser, report):
    visit = Visit(browser, report, 1280)
    for each in visit.page.locator("table.sortable").all():
        for i, heading in enumerate(each.locator("th").all()):
            number = "number" in (heading.get_attribute("class") or "")
            heading.locator("button").click()
            code = "(rows, i) => rows.map(row => row.cells[i].dataset.value).filter(key => key)"
            keys = each.locator("tbody tr").evaluate_all(code, i)
            if number:
                values = [float(key) for key in keys]
                assert values == sorted(values)
    assert visit.said == []
    visit.page.close()
