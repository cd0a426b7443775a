"""The counting program in a real browser: what a visitor sees of queues, intervals and the backend."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser.conftest import SCREENSHOTS
from tests.support.backend import instances
from tests.support.processes import kill
from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.xdist_group("browser")]

IS_OVER = "#run.is-done, #run.is-failed, #run.is-cancelled"

# Kept from before the first script runs: what the live region says.
RECORDER = """
window.said = [];
document.addEventListener("DOMContentLoaded", () => {
  const region = document.getElementById("said");
  if (!region) return;
  window.said.push(region.textContent);
  new MutationObserver(() => window.said.push(region.textContent))
    .observe(region, {childList: true, characterData: true, subtree: true});
});
"""

_names = iter(range(1000))


def new_name(prefix: str = "run") -> str:
    """A name that no other test of this site uses."""
    return f"{prefix}-{next(_names)}"


def fill_in(page: Page, name: str, intervals: str, delay_ms: object = 0) -> None:
    """Open the form and fill it in."""
    page.goto("/count")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Intervals").fill(intervals)
    page.get_by_label("Work per number").fill(str(delay_ms))


def start(page: Page, intervals: str, delay_ms: int = 0, name: str = "") -> str:
    """Start a run through the form; answers its path."""
    name = name or new_name()
    fill_in(page, name, intervals, delay_ms)
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(f"**/count/{name}")
    return f"/count/{name}"


def wait_for_the_end(page: Page, seconds: float = 60.0) -> None:
    """Wait until the page says that the run is over."""
    page.locator(IS_OVER).wait_for(timeout=seconds * 1000)
    expect(page).to_have_title(re.compile("^(Done|Failed|Cancelled) "))


def shown(page: Page) -> list[str]:
    """The result of each interval as the page has it; of a long one, all of it."""
    return [
        element.locator("p").text_content() or ""
        if element.evaluate("element => element.tagName") == "DETAILS"
        else element.text_content() or ""
        for element in page.locator("#intervals .result").all()
    ]


def counted(site: Site, path: str) -> list[str]:
    """The result of each interval as the datastore has it."""
    intervals: list[dict[str, Any]] = site.json(path)["response"]["intervals"]
    return [", ".join(str(number) for number in interval["numbers"]) for interval in intervals]


def logged(page: Page) -> list[str]:
    """The lines of the log, as the page has them."""
    return page.locator("#log li span:last-child").all_text_contents()


def check_against(site: Site, page: Page, path: str) -> None:
    """The page shows what the datastore has: every result, every line, each once."""
    assert shown(page) == counted(site, path)
    assert logged(page) == [line["text"] for line in site.json(path)["response"]["log"]]


def test_intervals_are_counted_while_one_looks_and_the_log_tells_of_it(page: Page, site: Site) -> None:
    """From the front page to the end, over the stream; a reload shows the same."""
    page.add_init_script(RECORDER)
    page.goto("/")
    page.get_by_role("link", name="Counting").last.click()
    path = start(page, "1-10, 11-20, 21-30, 1-100", 45)
    expect(page.locator("#run[data-mode=stream]")).to_be_visible()
    expect(page.locator("#intervals .is-counting").first).to_contain_text("counter")
    expect(page.locator("[data-queue=subtasks] [data-of=in_flight]")).not_to_have_text("0")
    page.screenshot(path=SCREENSHOTS / "count-running.png", full_page=True)
    wait_for_the_end(page)

    assert shown(page)[:3] == [", ".join(str(n) for n in range(a, a + 10)) for a in (1, 11, 21)]
    check_against(site, page, path)
    said = page.evaluate("window.said")
    assert said[-1] == "All 4 intervals are counted, so the master task is done."
    assert len(said) == len(set(said)) <= 6, said
    assert page.locator("#percent").text_content() == "100 %"
    page.screenshot(path=SCREENSHOTS / "count-done.png", full_page=True)
    page.reload()
    check_against(site, page, path)
    assert page.locator("#cancel").count() == 0


@pytest.mark.parametrize(
    "block",
    [
        ("**/_ah/channel/stream*", lambda route: route.fulfill(status=503, body="too many")),
        ("**/_ah/channel/jsapi*", lambda route: route.abort()),
    ],
    ids=["the stream answers 503", "the script is blocked"],
)
def test_a_run_is_followed_by_asking_where_the_stream_is_refused(
    new_context: Callable[..., BrowserContext], site: Site, block: tuple[str, Callable[[Route], None]]
) -> None:
    page = new_context().new_page()
    page.route(*block)
    path = start(page, "1-30, 31-60", 100)
    expect(page.locator("#run[data-mode=poll]")).to_be_visible(timeout=30_000)
    wait_for_the_end(page)
    check_against(site, page, path)


def test_a_run_is_followed_with_scripts_off(new_context: Callable[..., BrowserContext], site: Site) -> None:
    page = new_context(java_script_enabled=False).new_page()
    path = start(page, "1-10, 5-60", 60)
    expect(page.get_by_role("status")).to_have_text(
        "All 2 intervals are counted, so the master task is done.", timeout=60_000
    )
    check_against(site, page, path)


def test_a_name_that_is_taken_is_said_at_its_field_and_leads_to_its_run(
    new_context: Callable[..., BrowserContext], site: Site
) -> None:
    page = new_context().new_page()
    with site.paused("subtasks"):
        see_that_a_name_is_taken(page)


def see_that_a_name_is_taken(page: Page) -> None:
    """While the run of this name waits, and after it was cancelled."""
    path = start(page, "1-10", 1000)
    name = path.removeprefix("/count/")
    fill_in(page, name, "5-6")
    page.get_by_role("button", name="Start").click()

    expect(page.get_by_role("alert")).to_contain_text(
        "The name is in use: the run with this name is still running."
    )
    expect(page.get_by_label("Name")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Intervals")).to_have_value("5-6")
    page.screenshot(path=SCREENSHOTS / "count-taken.png", full_page=True)
    page.get_by_role("link", name=f"Look at {name}").click()
    page.get_by_role("button", name="Cancel").click()
    wait_for_the_end(page)
    expect(page.get_by_role("status")).to_contain_text("Cancelled with")
    fill_in(page, name, "5-6")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("alert")).to_contain_text("is tombstoned: a run with this name has ended")


def test_the_backend_killed_while_one_looks_goes_on_and_the_log_says_so(page: Page, site: Site) -> None:
    """kill -9 of every instance: nothing is lost, nothing is there twice, and no reload is needed."""
    path = start(page, "1-60, 101-160, 201-260", 60)
    expect(page.locator("#intervals .is-counting")).to_have_count(3)
    page.wait_for_timeout(1000)
    for pid in instances(site):
        kill(pid)
    expect(page.locator("#log")).to_contain_text("did not finish it", timeout=60_000)
    page.screenshot(path=SCREENSHOTS / "count-killed.png", full_page=True)
    wait_for_the_end(page, 90)
    check_against(site, page, path)
    assert shown(page) == [", ".join(str(n) for n in range(a, a + 60)) for a in (1, 101, 201)]


def test_a_long_result_is_behind_a_click(page: Page, site: Site) -> None:
    path = start(page, "1-1000")
    wait_for_the_end(page)
    check_against(site, page, path)
    summary = page.locator("#intervals summary")
    assert summary.text_content() == "1, 2, 3, 4, 5, 6, 7, 8, …, 999, 1000"
    summary.click()
    expect(page.locator("#intervals .result p")).to_be_visible()


def test_a_page_that_redis_leaves_says_so_and_comes_back(
    new_context: Callable[..., BrowserContext], site: Site
) -> None:
    page = new_context().new_page()
    path = start(page, "1-2")
    wait_for_the_end(page)
    site.redis_server.stop()
    try:
        page.goto(path)
        expect(page.locator("#queues-away")).to_be_visible()
        expect(page.locator("#intervals .result").first).to_have_text("1, 2")
    finally:
        site.redis_server.start()
    page.goto(path)
    expect(page.locator("#queues-away")).to_be_hidden()
    start(page, "1-2")
    wait_for_the_end(page)


def test_everything_is_reached_by_the_keyboard(page: Page) -> None:
    page.goto("/count")
    page.get_by_label("Name").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type(new_name())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "intervals"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Control+A")
    page.keyboard.type("1-3")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/count/*")
    wait_for_the_end(page)
    assert page.locator("[aria-live], [role=status], [role=alert], [role=log]").count() == 1
