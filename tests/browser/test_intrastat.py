"""The INTRASTAT report in a browser: made, bookmarked, saved; on a phone, without scripts, by keyboard."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.xdist_group("browser")]

REPORT = re.compile("^INTRASTAT [0-9]{4}-[0-9]{2} ")


def start(page: Page, delay_ms: int = 0) -> None:
    """Ask for last month's report through the form."""
    page.goto("/intrastat/form")
    page.get_by_label("Work per day").fill(str(delay_ms))
    page.get_by_role("button", name="Make the report").click()
    page.wait_for_url("**/intrastat?_longtaskjob=query*")


def test_a_report_is_watched_left_found_again_and_saved(
    page: Page, new_context: Callable[..., BrowserContext]
) -> None:
    start(page, delay_ms=150)
    expect(page.locator("#message")).to_have_text(
        re.compile(r"^Handling \d{4}-\d\d-\d\d: so far \d+ invoices$")
    )
    bookmark = page.url
    page.goto("about:blank")
    another = new_context().new_page()

    another.goto(bookmark)
    expect(another).to_have_title(re.compile(r"^\d+ % "))
    expect(another).to_have_title(REPORT, timeout=60_000)

    expect(another.locator("tbody tr")).to_have_count(50)
    with another.expect_download() as download:
        another.get_by_role("link", name="Download intrastat-").click()
    assert re.fullmatch(r"intrastat-\d{4}-\d\d\.csv", download.value.suggested_filename)
    saved = download.value.path().read_bytes()
    assert saved.startswith(b"reference_period;flow;commodity_code;")
    count = saved.count(b"\r\n") - 1
    expect(another.locator("caption")).to_contain_text(f"The first 50 of {count:,} rows")


def test_without_scripts_the_page_reloads_until_the_report_is_there(
    new_context: Callable[..., BrowserContext],
) -> None:
    page = new_context(java_script_enabled=False).new_page()

    start(page, delay_ms=100)

    expect(page).to_have_title(REPORT, timeout=60_000)
    expect(page.locator("tbody tr")).to_have_count(50)


def test_each_row_is_a_card_on_a_phone(new_context: Callable[..., BrowserContext]) -> None:
    page = new_context(viewport={"width": 320, "height": 700}).new_page()
    start(page)
    expect(page).to_have_title(REPORT, timeout=60_000)
    page.get_by_role("region", name="The rows").wait_for()

    shown = "getComputedStyle(document.querySelector('.sheet td.number'), '::before').content"
    assert page.evaluate(shown) == '"Net mass, kg"'
    box = "document.querySelector('.sheet-box')"
    assert page.evaluate(f"{box}.scrollWidth <= {box}.clientWidth")


def test_the_table_scrolls_in_its_box_by_keyboard(new_context: Callable[..., BrowserContext]) -> None:
    page = new_context(viewport={"width": 700, "height": 700}).new_page()
    start(page)
    box = page.get_by_role("region", name="The rows")
    # The page of a task that is done just now is drawn anew once more.
    expect(page).to_have_title(REPORT, timeout=60_000)
    box.wait_for()

    box.press("ArrowRight")

    # wait_for_function would evaluate in the page, where the content policy forbids it.
    wait_until(lambda: page.evaluate("document.querySelector('.sheet-box').scrollLeft") > 0)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
