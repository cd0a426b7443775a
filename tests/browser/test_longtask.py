"""Long tasks in a real browser: started, watched, left, come back to, whatever happens meanwhile."""

import contextlib
import itertools
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import SCREENSHOTS, Contexts, listen_for_complaints
from tests.browser.watching import report
from tests.support.processes import kill, wait_until
from tests.support.raw_server import raw_server
from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.xdist_group("browser")]

# The product promises 1 s; the machine that runs the tests may be busy with others' work.
LIVE_SECONDS = 30.0
END_MS = 60_000

DASH = "\N{EN DASH}"

# Kept from before the first script runs, over reloads too: what the live region says.
RECORDER = """
document.addEventListener("DOMContentLoaded", () => {
  const region = document.querySelector("[role=status]");
  if (!region) return;
  const keep = () => {
    const said = JSON.parse(sessionStorage.getItem("said") || "[]");
    sessionStorage.setItem("said", JSON.stringify([...said, region.textContent]));
  };
  keep();
  new MutationObserver(keep).observe(region, {childList: true, characterData: true, subtree: true});
});
"""

Open = Callable[..., Page]


@pytest.fixture
def open_page(new_context: Contexts, longtask_site: Site) -> Open:
    """Opens a page of a fresh profile; takes Playwright's own options."""

    def opened(**options: object) -> Page:
        return new_context(base_url=longtask_site.url, **options).new_page()

    return opened


@pytest.fixture
def visitor(open_page: Open) -> Iterator[Page]:
    """A page that must not complain: no console error, no refused script or style."""
    page = open_page()
    complaints = listen_for_complaints(page)
    yield page
    assert complaints == []


def wait_for_percent(page: Page, percent: int, seconds: float = 30.0) -> None:
    """Wait until the page says that so much is done."""
    deadline = time.monotonic() + seconds
    while int((page.text_content("#percent") or "0").split()[0]) < percent:
        assert time.monotonic() < deadline, f"not {percent} % within {seconds} s"
        page.wait_for_timeout(20)


def lines(count: int, who: str) -> str:
    """The result of the lab's work."""
    return "\n".join(f"line {number + 1}: {who}" for number in range(count))


def expect_result(page: Page, text: str) -> None:
    """The page shows this result, now or soon."""
    expect(page.locator("#result")).to_have_text(text, timeout=END_MS)


# --- watching -------------------------------------------------------------------------------


def test_a_task_is_followed_over_the_stream_to_its_result(visitor: Page) -> None:
    visitor.add_init_script(RECORDER)
    visitor.goto("/work?steps=30&pause=0.15&who=Ada")
    expect(visitor.locator("#longtask[data-mode=stream]")).to_be_visible()
    expect(visitor).to_have_title(re.compile(f"^[1-9][0-9]? % {DASH} Some work$"))
    expect(visitor.locator("#what + dl")).to_contain_text("Ada")
    wait_for_percent(visitor, 40)
    expect(visitor.locator("#message")).to_have_text(re.compile(r"Handling \d+ for Ada"))
    expect(visitor.locator("#count")).to_have_text(re.compile(r"Step \d+ of 30"))
    expect(visitor.locator("#remaining")).to_have_text(re.compile("less than 10 seconds|about 10 seconds"))
    visitor.screenshot(path=SCREENSHOTS / "longtask-running.png", full_page=True)

    expect_result(visitor, lines(30, "Ada"))

    expect(visitor).to_have_title(f"Done {DASH} Some work")
    visitor.screenshot(path=SCREENSHOTS / "longtask-result.png", full_page=True)
    said = visitor.evaluate("JSON.parse(sessionStorage.getItem('said'))")
    different = [text for text, before in zip(said, [None, *said], strict=False) if text != before]
    assert len(different) == len(set(different)) <= 6, said
    assert different[-1] == "Done."


# Without scripts the page is drawn anew only every few seconds.
@pytest.mark.parametrize(
    ("has_scripts", "pause"), [(True, 0.12), (False, 0.2)], ids=["scripts", "no scripts"]
)
def test_a_task_left_at_thirty_per_cent_is_found_again_by_its_bookmark(
    open_page: Open, longtask_site: Site, has_scripts: bool, pause: float
) -> None:
    first = open_page(java_script_enabled=has_scripts)
    who = f"Grace{has_scripts}"
    first.goto(f"/work?steps=40&pause={pause}&who={who}&hold_at=14")
    bookmark = first.url
    wait_for_percent(first, 30)
    first.close()

    second = open_page(java_script_enabled=has_scripts)
    opened_at = time.monotonic()
    second.goto(bookmark)
    shown = int(second.inner_text("#percent").split()[0])
    assert 30 <= shown <= 35
    longtask_site.post("/go", who=who)
    if has_scripts:
        wait_for_percent(second, shown + 1)
        seconds = time.monotonic() - opened_at
        report("longtask bookmark", seconds=round(seconds, 2))
        assert seconds < LIVE_SECONDS
    else:
        assert second.locator("noscript").count() > 0
        wait_for_percent(second, shown + 1)
    expect_result(second, lines(40, who))
    assert second.url == bookmark
    assert second.locator("meta[http-equiv=refresh]").count() == 0, "a finished page must stand still"


BLOCKS: dict[str, tuple[str, Callable[[Route], None]]] = {
    "the stream answers 503": (
        "**/_ah/channel/stream*",
        lambda route: route.fulfill(status=503, headers={"Retry-After": "30"}, body="too many streams"),
    ),
    "the stream answers 429": (
        "**/_ah/channel/stream*",
        lambda route: route.fulfill(status=429, headers={"Retry-After": "10"}, body="too many of yours"),
    ),
    "the channel's script is blocked": ("**/_ah/channel/jsapi*", lambda route: route.abort()),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_where_the_stream_is_refused_the_page_asks(open_page: Open, block: str) -> None:
    page = open_page()
    page.route(*BLOCKS[block])
    page.goto("/work?steps=30&pause=0.3&who=Alan")
    expect(page.locator("#longtask[data-mode=poll]")).to_be_visible(timeout=30_000)
    wait_for_percent(page, 20)
    expect_result(page, lines(30, "Alan"))


# By the page's own clock: the events of a request reach the test some time later.
RECORD_ASKING = """
    window.asked = [];
    window.answered = [];
    const fetchAsBefore = window.fetch;
    window.fetch = async (...request) => {
      window.asked.push(Date.now());
      const response = await fetchAsBefore(...request);
      window.answered.push(response.status);
      return response;
    };
"""


def test_a_page_that_nothing_comes_to_asks_less_and_less_often(open_page: Open) -> None:
    """Twelve seconds by the page's own clock, which the test moves."""
    page = open_page()
    page.clock.install(time=0)
    # An installed clock goes on by itself until it is paused.
    page.clock.pause_at(1)
    page.add_init_script(RECORD_ASKING)
    page.route(*BLOCKS["the stream answers 503"])
    page.goto("/mortal?pause=20")
    for _half_second in range(24):
        while not page.evaluate("asked.length > 0 && answered.length === asked.length"):
            page.wait_for_timeout(5)
        page.clock.run_for(500)

    asked, answered = page.evaluate("[asked, answered]")
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked[1:])]
    assert answered[-2:] == [304, 304], answered
    assert max(gaps) > 4_000, gaps
    assert min(gaps) >= 1_000, gaps


def test_a_total_that_nobody_knows_has_a_bar_that_only_moves(visitor: Page, longtask_site: Site) -> None:
    visitor.goto("/endless?steps=25&pause=0.1&who=Mary&hold_at=4")
    expect(visitor.locator("#count")).to_have_text(re.compile(r"^Step \d+$"))
    assert visitor.get_attribute("#bar", "value") is None
    assert visitor.title().startswith("Running ")
    visitor.screenshot(path=SCREENSHOTS / "longtask-unknown.png", full_page=True)
    longtask_site.post("/go", who="Mary")
    expect(visitor.locator("#result")).to_contain_text('"seen": 24', timeout=END_MS)


# --- another site's page --------------------------------------------------------------------

# How a page may ask for an address without leading its reader there.
EMBEDDED = {
    "image": '<img src="{url}">',
    "frame": '<iframe src="{url}"></iframe>',
    "object": '<object data="{url}"></object>',
    "embed": '<embed src="{url}">',
    "script": '<script src="{url}"></script>',
    "stylesheet": '<link rel="stylesheet" href="{url}">',
    "preload": '<link rel="preload" as="fetch" href="{url}">',
    "prefetch": '<link rel="prefetch" href="{url}">',
    "cors": '<script>fetch("{url}").catch(() => null)</script>',
    "no-cors": '<script>fetch("{url}", {{mode: "no-cors", credentials: "include"}})</script>',
    "events": '<script>new EventSource("{url}")</script>',
    "ping": '<a href="#" ping="{url}">ping</a><script>document.querySelector("a").click()</script>',
}


def test_a_page_of_another_site_starts_nothing_but_by_a_link(open_page: Open, longtask_site: Site) -> None:
    def address(who: str) -> str:
        return f"{longtask_site.url}/work?steps=1&pause=0&who=embedded-{who}-"

    parts = [markup.format(url=address(kind)) for kind, markup in EMBEDDED.items()]
    html = f'<!doctype html><title>Elsewhere</title>{"".join(parts)}<a href="{address("link")}">the link</a>'
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(html)}\r\n\r\n"
    page = open_page()
    ended: set[str] = set()
    for event in ("requestfinished", "requestfailed"):
        page.context.on(event, lambda request: ended.update(re.findall("who=embedded-(.*)-", request.url)))
    with raw_server((head + html).encode()) as elsewhere:
        page.goto(f"http://localhost:{elsewhere.port}/")
        page.wait_for_load_state()
        for _tenth in range(300):
            if ended == set(EMBEDDED):
                break
            page.wait_for_timeout(100)
        assert ended == set(EMBEDDED)
        page.get_by_role("link", name="the link").click()
        expect_result(page, "line 1: embedded-link-")

    with contextlib.closing(sqlite3.connect(longtask_site.processes.output.parent / "site.db")) as database:
        started = database.execute("SELECT given FROM lastacross_long_task WHERE given LIKE '%embedded-%'")
        assert ["embedded-link-" in given for (given,) in started] == [True]


# --- ways to an end -------------------------------------------------------------------------


def test_the_worker_killed_in_the_middle_is_said_to_be_replaced_and_the_result_arrives(
    visitor: Page, longtask_site: Site
) -> None:
    # The second attempt has to be seen, too, by a page that may ask every five seconds by now.
    visitor.goto("/mortal?pause=0&who=Frances&hold_at=0")
    expect(visitor.locator("#message")).to_have_text(re.compile(r"pid \d+"))
    pid = int((visitor.text_content("#message") or "").split()[1])

    kill(pid)
    killed_at = time.monotonic()

    expect(visitor.get_by_role("status")).to_contain_text("retry is under way", timeout=30_000)
    report("longtask killed", said_after_seconds=round(time.monotonic() - killed_at, 1))
    visitor.screenshot(path=SCREENSHOTS / "longtask-killed.png", full_page=True)
    expect(visitor.locator("#message")).to_have_text(re.compile(r"pid (?!" + str(pid) + r"$)\d+"))
    expect(visitor.locator("#attempts")).to_have_text("2")
    longtask_site.post("/go", who="Frances")
    expect_result(visitor, "survived")


def test_a_task_that_raises_says_when_it_is_tried_again_and_in_the_end_offers_to_start_again(
    visitor: Page,
) -> None:
    visitor.goto("/broken?who=Edsger")
    expect(visitor.locator("#next")).to_have_text(
        re.compile(r"Retrying: attempt 2 begins at \S+ \d\d:\d\d:\d\d UTC, in [1-4] s\.")
    )
    expect(visitor.locator("#trouble")).to_contain_text("Something went wrong while it ran. Reference: ")
    assert "operator's business" not in visitor.content()
    visitor.reload()
    expect(visitor.locator("#trouble")).to_contain_text("Something went wrong while it ran. Reference: ")
    assert "operator's business" not in visitor.content()
    visitor.screenshot(path=SCREENSHOTS / "longtask-retrying.png", full_page=True)

    expect(visitor.get_by_role("status")).to_have_text("Failed.", timeout=END_MS)
    expect(visitor).to_have_title(f"Failed {DASH} Work that fails")
    expect(visitor.locator("#trouble")).to_contain_text("What went wrong")
    assert visitor.locator("#next").is_hidden()
    visitor.screenshot(path=SCREENSHOTS / "longtask-failed.png", full_page=True)

    failed = visitor.url
    visitor.get_by_role("button", name="Start again").click()
    expect(visitor.locator("#next")).to_be_visible()
    assert visitor.url != failed
    expect(visitor.locator("#what + dl")).to_contain_text("Edsger")


def test_what_a_task_tells_its_user_is_text(visitor: Page) -> None:
    visitor.goto("/refused")
    expect(visitor.locator("#error")).to_have_text("There are no <b>invoices</b> in May.")
    expect(visitor.get_by_role("status")).to_have_text("Failed.")


def test_cancel_stops_the_work_at_its_next_report_and_the_page_says_so(
    visitor: Page, longtask_site: Site
) -> None:
    visitor.goto("/work?steps=1000&pause=0.05")
    expect(visitor.locator("#message")).to_contain_text("Handling")
    task_id = visitor.url.partition("_longtaskid=")[2]
    clicked_at = time.monotonic()

    visitor.get_by_role("button", name="Cancel").click()

    stopped = re.compile(rf'"longtask.stop".*"{task_id}"')
    wait_until(lambda: stopped.search(longtask_site.processes.text()), LIVE_SECONDS, "the attempt stops")
    report("longtask cancel", seconds=round(time.monotonic() - clicked_at, 2))
    expect(visitor.get_by_role("status")).to_have_text("Cancelled.")
    expect(visitor).to_have_title(f"Cancelled {DASH} Some work")
    assert visitor.get_by_role("button", name="Cancel").count() == 0
    expect(visitor.get_by_role("button", name="Start again")).to_be_visible()
    visitor.screenshot(path=SCREENSHOTS / "longtask-cancelled.png", full_page=True)


def test_only_the_first_of_two_may_cancel_and_the_second_sees_it(open_page: Open) -> None:
    # Nobody who comes through a proxy is the administrator of `dev`.
    first, second = open_page(), open_page(extra_http_headers={"X-Forwarded-For": "203.0.113.9"})
    first.goto("/work?steps=1000&pause=0.05")
    second.goto(first.url)
    expect(second.get_by_role("heading", level=1)).to_have_text("Some work")
    assert second.get_by_role("button", name="Cancel").count() == 0
    first.get_by_role("button", name="Cancel").click()
    expect(second.get_by_role("status")).to_have_text("Cancelled.")


def test_another_is_started_with_edited_parameters(visitor: Page) -> None:
    visitor.goto("/work?steps=2&pause=0.05&who=Barbara")
    expect_result(visitor, lines(2, "Barbara"))
    visitor.get_by_text("Start with other parameters").click()
    visitor.get_by_label("who").fill("Kurt & <Gödel>")
    visitor.get_by_label("steps").fill("3")
    visitor.screenshot(path=SCREENSHOTS / "longtask-edit.png", full_page=True)
    visitor.get_by_role("button", name="Start another").click()
    expect_result(visitor, lines(3, "Kurt & <Gödel>"))


def test_a_visitor_who_types_into_the_form_is_not_disturbed_by_the_end(
    visitor: Page, longtask_site: Site
) -> None:
    visitor.goto("/work?steps=20&pause=0.1&who=Rosa&hold_at=2")
    visitor.get_by_text("Start with other parameters").click()
    visitor.get_by_label("who").fill("Luise")
    longtask_site.post("/go", who="Rosa")
    expect(visitor.get_by_role("status")).to_have_text("Done.", timeout=END_MS)
    visitor.wait_for_timeout(2000)  # longer than the page waits before it is drawn anew
    assert visitor.get_by_label("who").input_value() == "Luise"
    expect(visitor.locator("#mode")).to_contain_text("reload the page")


def test_without_scripts_a_task_is_cancelled_and_started_again(open_page: Open) -> None:
    page = open_page(java_script_enabled=False)
    page.goto("/work?steps=1000&pause=0.05&who=Ida")
    assert page.get_by_text("Start with other parameters").is_hidden(), "a reload would take it back"
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_have_text("Cancelled.")
    expect(page.get_by_text("Start with other parameters")).to_be_visible()
    cancelled = page.url
    page.get_by_role("button", name="Start again").click()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    assert page.url != cancelled
    expect(page.locator("#what + dl")).to_contain_text("Ida")
    page.get_by_role("button", name="Cancel").click()


def test_a_result_that_is_a_page_is_shown_and_cannot_act(open_page: Open) -> None:
    page = open_page()
    page.goto("/sheet")
    page.get_by_role("link", name="Open the result").click(timeout=END_MS)

    expect(page.locator("h1")).to_have_css("color", "rgb(1, 2, 3)")
    expect(page).to_have_title("Sheet")
    assert page.evaluate("self.origin") == "null"


def test_a_page_of_the_application_runs_its_inline_script_and_shows_its_picture(visitor: Page) -> None:
    visitor.goto("/inline")

    expect(visitor).to_have_title("scripted")
    assert visitor.evaluate("document.querySelector('img').naturalWidth") == 1


def test_markup_is_text_and_a_result_of_its_own_replaces_the_page(visitor: Page) -> None:
    visitor.goto("/printed?pause=1&note=<img src=x>")
    expect(visitor.locator("#message")).to_have_text("<script>alert(1)</script>")
    expect(visitor.get_by_role("heading", level=1)).to_have_text("A report with <b>markup</b>")
    expect(visitor.locator("#what + dl")).to_contain_text("<img src=x>")
    expect(visitor.locator("body")).to_have_text("printed: a;b;c", timeout=END_MS)


def test_bytes_are_downloaded_under_their_name(visitor: Page, tmp_path: Path) -> None:
    visitor.goto("/picture")
    link = visitor.get_by_role("link", name="Download the result")
    with visitor.expect_download() as download:
        link.click(timeout=END_MS)
    assert download.value.suggested_filename == "picture.bin"
    download.value.save_as(tmp_path / "picture.bin")
    assert (tmp_path / "picture.bin").read_bytes() == bytes(range(256))


def test_while_redis_is_unavailable_the_page_says_so_and_then_goes_on(
    open_page: Open, longtask_site: Site
) -> None:
    page = open_page()
    page.goto("/work?steps=80&pause=0.1&who=Radia")
    wait_for_percent(page, 5)
    longtask_site.redis_server.stop()
    try:
        expect(page.locator("#blind")).to_be_visible(timeout=60_000)
        page.screenshot(path=SCREENSHOTS / "longtask-blind.png", full_page=True)
    finally:
        longtask_site.redis_server.start()
    expect(page.locator("#blind")).to_be_hidden(timeout=60_000)
    expect_result(page, lines(80, "Radia"))


# --- the list -------------------------------------------------------------------------------


def test_the_list_shows_what_this_browser_has_started_and_keeps_itself_fresh(
    visitor: Page, open_page: Open, longtask_site: Site
) -> None:
    visitor.goto("/longtasks")
    expect(visitor.locator("main")).to_contain_text("No tasks yet.")
    visitor.goto("/work?steps=2&pause=0.05&who=Hedy")
    visitor.goto("/work?steps=40&pause=0.1&who=Emmy&hold_at=4")
    visitor.goto("/longtasks")

    rows = visitor.locator(".longtask-rows > li")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("who: Emmy")
    expect(visitor).to_have_title(re.compile("^[12] running "))
    earlier = rows.first.locator("[data-of=text]").text_content() or ""
    longtask_site.post("/go", who="Emmy")
    expect(rows.first.locator("[data-of=text]")).not_to_have_text(earlier, timeout=30_000)
    visitor.screenshot(path=SCREENSHOTS / "longtask-list.png", full_page=True)
    another = visitor.context.new_page()
    another.goto("/work?steps=1&pause=0.05&who=Mary")
    expect(rows.first).to_contain_text("who: Mary", timeout=30_000)
    rows = visitor.locator(".longtask-rows > li:nth-child(n+2)")
    expect(rows.first.locator(".state")).to_have_text("done", timeout=END_MS)
    expect(visitor.get_by_role("status")).to_contain_text("Some work: done.")
    assert rows.first.locator("progress").count() == 0
    rows.first.get_by_role("link").click()
    expect_result(visitor, lines(40, "Emmy"))

    stranger = open_page()
    stranger.goto("/longtasks")
    expect(stranger.locator("main")).to_contain_text("No tasks yet.")


# --- by keyboard ---------------------------------------------------------------------------


def test_everything_is_reached_by_the_keyboard(visitor: Page) -> None:
    visitor.goto("/work?steps=1000&pause=0.05")
    reached: list[str] = []
    while "Cancel" not in reached and len(reached) < 10:
        visitor.keyboard.press("Tab")
        reached.append(visitor.evaluate("document.activeElement.textContent.trim()"))
        assert visitor.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", reached
    visitor.keyboard.press("Tab")
    visitor.keyboard.press("Enter")
    expect(visitor.get_by_label("steps")).to_be_visible()
    visitor.keyboard.press("Shift+Tab")
    visitor.keyboard.press("Enter")
    expect(visitor.get_by_role("status")).to_have_text("Cancelled.")
    assert visitor.locator("[aria-live], [role=status], [role=alert], [role=log]").count() == 1
