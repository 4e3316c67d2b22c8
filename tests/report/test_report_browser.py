"""The page in a real browser: from disk, without a network, by keyboard, on a phone, in the dark, on paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import faults, lay_out, open_browser, visible
from report_folders import CLASSES, certification, full_result, write_run

from hedgerow.report import write_report

BAD = Path(__file__).with_name("bad_page.html")
ROBUST, BROKEN = 5, 8  # of a gallery's 14 pictures
PLANTED = {
    "lang",
    "title",
    "duplicate id",
    "one h1",
    "heading order",
    "empty heading",
    "image text",
    "label",
    "name",
    "region name",
    "table caption",
    "table width",
    "row header",
    "table header",
    "reference",
    "link target",
    "one main",
    "landmark",
    "focus order",
    "nested",
    "scroll by key",
    "contrast",
}


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    opened = open_browser()
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def page(driver: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The page of two runs that have everything, opened from disk."""
    place = tmp_path_factory.mktemp("browser")
    runs = [
        write_run(place / name, full_result(name, sparsity=sparsity))
        for name, sparsity in (("dense", 0.0), ("hydra-97", 0.97))
    ]
    (runs[1] / "certify.json").write_text(certification().model_dump_json())
    written = write_report(runs, place / "report.html", command="hedgerow report dense hydra-97")
    driver.get(written.as_uri())
    return driver


def test_it_opens_from_disk_without_network_scripts_or_complaints(page: Any) -> None:
    assert page.title.startswith("Comparison of 2 runs")
    assert page.get_log("browser") == []
    loaded = "return performance.getEntriesByType('resource').map(e => e.name)"
    assert all(name.startswith("data:") for name in page.execute_script(loaded))
    assert page.execute_script("return document.scripts.length") == 0
    broken = "return [...document.images].filter(i => i.checkVisibility() && !i.naturalWidth).length"
    assert page.execute_script(broken) == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_sticks_out_and_everything_is_accessible(page: Any, width: int, dark: bool) -> None:
    lay_out(page, width, dark=dark)
    page.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    dark_paper = "return getComputedStyle(document.body).backgroundColor"
    assert (page.execute_script(dark_paper) == "rgb(21, 24, 27)") == dark
    assert faults(page) == []


def test_the_checks_find_every_planted_fault(driver: Any, page: Any) -> None:
    here = page.current_url
    driver.get(BAD.as_uri())
    rules = {fault.partition(":")[0] for fault in faults(driver)}
    driver.get(here)
    assert rules == PLANTED


def test_the_gallery_is_filtered_by_class_and_verdict(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    lay_out(page, 1440)
    page.execute_script("document.querySelectorAll('details.run').forEach(d => d.open = true)")
    shown = "#gallery details:first-of-type .picture"
    classes, verdicts = (page.find_element("id", name) for name in ("by-class", "by-verdict"))
    assert visible(page, shown) == 14
    verdicts.send_keys(Keys.HOME, Keys.DOWN)
    assert (visible(page, shown), visible(page, f"{shown}.robust")) == (ROBUST, ROBUST)
    verdicts.send_keys(Keys.DOWN)
    assert (visible(page, shown), visible(page, f"{shown}.broken")) == (BROKEN, BROKEN)
    assert visible(page, "#gallery .none") == 0
    classes.send_keys(Keys.DOWN)
    assert visible(page, shown) == 1, "the first and the eleventh picture are of the first class, one is robust"
    assert page.find_element("css selector", f"{shown}.broken.class-1 b").text == CLASSES[0]
    verdicts.send_keys(Keys.END)
    assert (visible(page, shown), visible(page, "#gallery .none")) == (0, 2)
    verdicts.send_keys(Keys.HOME)
    assert (visible(page, shown), visible(page, "#gallery .none")) == (2, 0)
    classes.send_keys(Keys.HOME)
    assert visible(page, shown) == ROBUST + BROKEN + 1


def test_a_number_says_how_it_was_obtained_by_keyboard_and_by_mouse(page: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    lay_out(page, 390)
    page.get(page.current_url)
    ActionChains(page).send_keys(Keys.TAB).perform()
    assert page.switch_to.active_element.text == "Skip to the content"
    assert visible(page, ".skip:focus") == 1
    ActionChains(page).send_keys(Keys.ENTER, Keys.TAB, Keys.TAB, Keys.TAB, Keys.TAB).perform()
    assert page.switch_to.active_element.text == "0.0 %", "past the skip link, the region and the run's name"
    assert visible(page, ".how") == 1
    described = page.switch_to.active_element.get_attribute("aria-describedby")
    hint = page.find_element("id", described)
    assert hint.text == "as asked in the recipe"
    assert hint.rect["x"] >= 0
    assert hint.rect["x"] + hint.rect["width"] <= 390
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.execute_script(outline) != "none"
    lay_out(page, 1440)
    page.execute_script("document.activeElement.blur()")
    cell = next(c for c in page.find_elements("class name", "said") if c.text.startswith("31.1 %"))
    ActionChains(page).move_to_element(cell).perform()
    hint = page.find_element("id", cell.get_attribute("aria-describedby"))
    assert hint.is_displayed()
    assert "112 of 360 images correct, seed 0" in hint.text


def test_on_paper_tables_that_are_folded_are_there_and_controls_are_not(page: Any) -> None:
    lay_out(page, 800)
    page.execute_script("document.querySelectorAll('details').forEach(d => d.open = false)")
    assert visible(page, "#layers table") == 0
    lay_out(page, 800, medium="print")
    assert visible(page, "#layers table") == 3
    assert visible(page, ".filters, nav, .skip, .how") == 0
    paper = "return getComputedStyle(document.body).backgroundColor"
    assert page.execute_script(paper) == "rgb(255, 255, 255)"
    lay_out(page, 1440)
