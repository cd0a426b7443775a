"""Everybody can use the pages: each one in each state, by axe's rules, light and dark, narrow and wide."""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from programs.intrastat.pages import MAX_DELAY_MS
from tests.browser import watching
from tests.browser.conftest import SCREENSHOTS, Contexts, contexts, signed_in
from tests.support.accounts import active_accounts
from tests.support.processes import wait_until
from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.xdist_group("browser")]

WIDTHS = (320, 1280)
SCHEMES = ("light", "dark")
LONG_WORD = "AVeryLongNameOfAnErrorThatHasNoPlaceToBreakInIt" * 4

_numbers = itertools.count()

# Brings something on the site into a state, yields its path, and keeps it there until the end.
Make = Callable[[Site], Iterator[str]]


# --- states of the demo application -----------------------------------------------------------


def at(path: str) -> Make:
    """A page that needs no preparation."""

    def make(_site: Site) -> Iterator[str]:
        yield path

    return make


def quilt(rows: int, columns: int, delay_ms: int, *, runs: bool) -> Make:
    """A quilt that has some squares, or all of them."""

    def make(site: Site) -> Iterator[str]:
        path = f"/{site.post('/quilt', rows=rows, columns=columns, delay_ms=delay_ms)['name']}"
        wait_until(lambda: (found := site.json(path))["done"] or (runs and found["metadata"]["step"] >= 8))
        with site.paused("quilt") if runs else contextlib.nullcontext():
            yield path

    return make


def count(intervals: str, delay_ms: int, *, runs: bool) -> Make:
    """A counting run whose intervals are being counted, or have been."""

    def make(site: Site) -> Iterator[str]:
        name = f"a-rather-long-name-for-a-small-screen-{next(_numbers)}"
        site.post("/count", name=name, intervals=intervals, delay_ms=delay_ms)
        path = f"/count/{name}"
        wait_until(lambda: (found := site.json(path))["done"] or (runs and _is_counting(found)), 60)
        yield path
        if runs:
            site.post(f"{path}/cancel")

    return make


def _is_counting(operation: dict[str, dict[str, list[dict[str, object]]]]) -> bool:
    return any(each["instance"] for each in operation.get("response", {}).get("intervals", []))


def errors(page_of: Callable[[str, str], str]) -> Make:
    """An error whose texts offer no line break; the page is chosen from its own path and its group's."""

    def make(site: Site) -> Iterator[str]:
        given = {"type": LONG_WORD, "msg": "/a/path/without/blanks" * 20, "traceback": f"{LONG_WORD}\n" * 40}
        error = {"account": "access", "url": "https://shop.example/", "status": 500, "server": "web-1"}
        path = f"/{site.post('/errors', **error, **given)['name']}"
        wait_until(lambda: site.json(path)["done"], 30, "the error's task")
        yield page_of(path, f"/errors/groups/{site.json(path)['response']['group']}")

    return make


def report(site: Site) -> Iterator[str]:
    """A finished INTRASTAT report."""
    path = site.post("/intrastat", delay_ms=0)["metadata"]["status_url"]
    wait_until(lambda: site.json(path)["done"], 60, "the report")
    yield path


def cancelled_report(site: Site) -> Iterator[str]:
    """A report in the application's own frame that was cancelled on its way."""
    path = site.post("/intrastat", delay_ms=MAX_DELAY_MS - next(_numbers))["metadata"]["status_url"]
    wait_until(lambda: site.json(path)["metadata"]["step"] >= 1, 30, "the first day")
    site.post(path.replace("=query", "=cancel"))
    yield path


def reload(page_of: Callable[[str], str], *, runs: bool) -> Make:
    """A reload with some accounts done and some failed; the queue is paused to keep it running."""

    def make(site: Site) -> Iterator[str]:
        with active_accounts(site), contextlib.ExitStack() as stack:
            site.json("/taskloader/")
            path = f"/{site.json('/reloads')['reloads'][0]['name']}"
            if runs:
                wait_until(lambda: site.json(path)["metadata"]["numbers"]["done"] >= 20, 30)
                stack.enter_context(site.paused("reload"))
            else:
                wait_until(lambda: site.json(path)["done"], 60, "the reload")
            yield page_of(path)

    return make


# --- states of long tasks --------------------------------------------------------------------


def longtask(path: str, state: str, **fields: object) -> Make:
    """A long task in this state; one that does not end by itself is cancelled afterwards."""

    def make(site: Site) -> Iterator[str]:
        bookmark = site.post(path, **fields)["metadata"]["status_url"]
        cancel = bookmark.replace("=query", "=cancel")
        first = "running" if state == "cancelled" else state
        wait_until(lambda: _has_come_to(site, bookmark, first), 60, f"{path} {first}")
        if state == "cancelled":
            site.post(cancel)
        yield bookmark
        if state not in ("done", "cancelled"):
            site.post(cancel)

    return make


def _has_come_to(site: Site, bookmark: str, state: str) -> bool:
    metadata = site.json(bookmark)["metadata"]
    return bool(metadata["state"] == state and (state != "running" or metadata["step"] >= 1))


# --- what a visitor does on the page -----------------------------------------------------------


def stay(_page: Page) -> None:
    """Nothing."""


def start_with_mistakes(**fields: str) -> Callable[[Page], None]:
    """Fill in a form wrongly and send it."""

    def act(page: Page) -> None:
        for label, text in fields.items():
            page.get_by_label(label.replace("_", " ")).fill(text)
        page.get_by_role("button", name=re.compile("^(Start|Add)$")).click()
        page.get_by_role("alert").wait_for()

    return act


def open_table(page: Page) -> None:
    """Unfold the chart's table."""
    page.get_by_text("View as a table").click()


def expect_alert(page: Page) -> None:
    """The mistakes are named."""
    expect(page.get_by_role("alert")).to_be_visible()


def expect_state(state: str) -> Callable[[Page], None]:
    """The page says that it shows this state."""
    return lambda page: expect(page.locator(f".is-{state}").first).to_be_visible()


def expect_squares(page: Page) -> None:
    """Some squares are on the canvas."""
    watching.wait_for_squares(page, 8)


def expect_counting(page: Page) -> None:
    """An interval is being counted."""
    page.locator("#intervals .is-counting").first.wait_for()


def expect_text(selector: str, pattern: str) -> Callable[[Page], None]:
    """The text of this element matches."""
    return lambda page: expect(page.locator(selector)).to_have_text(re.compile(pattern))


def open_other_parameters(page: Page) -> None:
    """Unfold the form that starts another."""
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    page.get_by_text("Start with other parameters").click()


def start_some_and_list_them(page: Page) -> None:
    """Start tasks that come to several states, and list them."""
    for path in ("/work?steps=2&pause=0", "/refused", "/stubborn", "/endless?steps=20&pause=0.5"):
        page.goto(path)
    page.goto("/longtasks")
    expect(page.locator(".longtask-rows > li")).to_have_count(4)


def start_a_report_and_list_it(page: Page) -> None:
    """The list in the application's own frame."""
    page.goto("/intrastat?delay_ms=100")
    page.get_by_role("link", name="Your tasks").click()
    expect(page.locator(".longtask-rows > li")).to_have_count(1)


def be_a_visitor(page: Page) -> None:
    """Without signing out: the other tests go on with the same cookie."""
    page.context.clear_cookies()
    page.reload()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


_left_running: list[str] = []


def start_a_report_and_watch_it(page: Page) -> None:
    """A slow one in the application's own frame, for each view anew: none runs as long as all views take."""
    while _left_running:
        page.request.post(_left_running.pop().replace("=query", "=cancel"))
    page.goto(f"/intrastat?delay_ms={MAX_DELAY_MS - next(_numbers)}")
    _left_running.append(page.url)
    expect(page.get_by_role("navigation", name="Programs")).to_be_visible()
    expect_state("running")(page)


@dataclass(frozen=True)
class Case:
    """A page in a state.

    Attributes:
        name: of the test and of the picture.
        make: brings the site into the state.
        act: what the visitor does, or what the page must show before it is checked.
    """

    name: str
    make: Make
    act: Callable[[Page], object] = stay


def sew_in_place(page: Page) -> None:
    """Start the front page's quilt, and see its end."""
    page.get_by_role("button", name="Sew this quilt now").click()
    expect(page.locator("#live-status")).to_contain_text("Last across the finish line")


def visit(page: Page) -> None:
    """As a stranger, without signing out."""
    page.context.clear_cookies()
    page.reload()


def cancelled_quilt(site: Site) -> Iterator[str]:
    """A quilt that was cancelled on its way."""
    path = f"/{site.post('/quilt', rows=12, columns=12, delay_ms=600)['name']}"
    wait_until(lambda: site.json(path)["metadata"]["step"] >= 1)
    site.post(f"{path}/cancel")
    wait_until(lambda: site.json(path)["done"], 60, "the quilt's end")
    yield path


DEMO = [
    # Before other cases fill them.
    Case("reloads-empty", at("/reloads"), visit),
    Case("accounts-empty", at("/accounts"), visit),
    Case("errors-empty", at("/errors?account=nobody")),
    Case("errors-refused", at("/errors"), visit),
    Case("longtasks-empty", at("/longtasks"), visit),
    Case("home", at("/")),
    Case("home-sewn", at("/"), sew_in_place),
    Case("cancelled", cancelled_quilt, expect_state("cancelled")),
    Case("signed-in", at("/_ah/sign-in")),
    Case("sign-in", at("/_ah/sign-in"), be_a_visitor),
    Case("form", at("/quilt")),
    Case("missing", at("/quilt/nobody-has-it")),
    Case("mistakes", at("/quilt"), start_with_mistakes(Rows="0", Columns="101")),
    Case("running", quilt(12, 12, 400, runs=True), expect_squares),
    Case("done", quilt(8, 8, 0, runs=False), expect_state("done")),
    Case("count-form", at("/count")),
    Case(
        "count-mistakes",
        at("/count"),
        start_with_mistakes(Name="a name", Intervals="20-1", Work_per_number="x"),
    ),
    Case("count-running", count("1-10, 999999000-999999100, 5-5", 1000, runs=True), expect_counting),
    Case("count-done", count("1-10, 11-20, 999999000-999999100, 5-5", 0, runs=False), expect_state("done")),
    Case("errors", errors(lambda _path, _group: "/errors")),
    Case("errors-table", errors(lambda _path, _group: "/errors"), open_table),
    Case("errors-mistakes", at("/errors?status=x&sort=y"), expect_alert),
    Case("error", errors(lambda path, _group: path)),
    Case("error-group", errors(lambda _path, group: group)),
    Case("intrastat-form", at("/intrastat/form")),
    Case("intrastat-mistakes", at("/intrastat?month=soon&delay_ms=-1"), expect_alert),
    Case("intrastat", report, lambda page: expect(page).to_have_title(re.compile("^INTRASTAT "))),
    Case("reload-running", reload(str, runs=True), expect_state("running")),
    Case("reload-over", reload(str, runs=False), expect_state("failed")),
    Case("reloads", reload(lambda _path: "/reloads", runs=True)),
    Case("accounts", reload(lambda _path: "/accounts", runs=True)),
    Case("accounts-mistake", at("/accounts"), start_with_mistakes()),
    Case("longtask-ours-running", at("/intrastat/form"), start_a_report_and_watch_it),
    Case("longtask-ours-cancelled", cancelled_report, expect_state("cancelled")),
    Case("longtask-ours-list", at("/intrastat/form"), start_a_report_and_list_it),
]

LONG_TASKS = [
    Case(
        "longtask-running",
        longtask("/work", "running", steps=1000, pause=1, who=60 * "a-long-name-", note=""),
        open_other_parameters,
    ),
    Case(
        "longtask-cancelled", longtask("/work", "cancelled", steps=1000, pause=1), expect_state("cancelled")
    ),
    Case(
        "longtask-retrying", longtask("/stubborn", "retrying"), expect_text("#next", "^Retrying: attempt 2")
    ),
    Case(
        "longtask-unknown",
        longtask("/endless", "running", steps=1000, pause=1),
        expect_text("#count", "Step [1-9]"),
    ),
    Case(
        "longtask-result",
        longtask("/work", "done", steps=100, pause=0, who=30 * "wide "),
        expect_text("#result", "line 100: wide"),
    ),
    Case("longtask-list", at("/longtasks"), start_some_and_list_them),
    Case("longtask-missing", at("/work?_longtaskjob=query&_longtaskid=nobody-has-it")),
]


# --- the checks ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A case on a page of its own, which stays open for all four views."""

    name: str
    page: Page


@contextlib.contextmanager
def shown(case: Case, asked: Site, chromium: Browser) -> Iterator[Shown]:
    """The page of a case, in the browser of the administrator of this site."""
    with (
        contextlib.contextmanager(case.make)(asked.administrator) as path,
        contexts(chromium, asked) as opened,
    ):
        page = signed_in(opened, asked)().new_page()
        page.goto(path)
        case.act(page)
        page.evaluate(Axe().axe_script)
        yield Shown(case.name, page)


@pytest.fixture(scope="module", params=DEMO, ids=lambda case: case.name)
def demo_page(request: pytest.FixtureRequest, site: Site, chromium: Browser) -> Iterator[Shown]:
    """A page of the demo application in its state."""
    with shown(request.param, site, chromium) as found:
        yield found


@pytest.fixture(scope="module", params=LONG_TASKS, ids=lambda case: case.name)
def longtask_page(request: pytest.FixtureRequest, longtask_site: Site, chromium: Browser) -> Iterator[Shown]:
    """A page of long tasks in an application without a template of its own."""
    with shown(request.param, longtask_site, chromium) as found:
        yield found


VIEWS = [
    # No rule asks for both, so two views show each scheme and each width.
    pytest.param((scheme, width), marks=() if (scheme == "light") == (width == 320) else pytest.mark.long)
    for scheme in SCHEMES
    for width in WIDTHS
]


@pytest.fixture(params=VIEWS, ids=str)
def view(request: pytest.FixtureRequest) -> tuple[str, int]:
    """The colour scheme and the width of the window."""
    scheme, width = request.param
    return scheme, width


def test_a_page_has_no_finding(demo_page: Shown, view: tuple[str, int]) -> None:
    check(demo_page, view)


def test_a_page_of_long_tasks_has_no_finding(longtask_page: Shown, view: tuple[str, int]) -> None:
    check(longtask_page, view)


def check(shown: Shown, view: tuple[str, int]) -> None:
    """No finding of any impact, and nothing wider than the window; keeps a picture.

    Only stylesheets ask for scheme and width, so the page need not be loaded anew for each view.
    """
    (scheme, width), page = view, shown.page
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 800})
    page.screenshot(path=SCREENSHOTS / f"{shown.name}-{scheme}-{width}.png", full_page=True)
    found = page.evaluate("axe.run({resultTypes: ['violations']}).then(({violations}) => violations)")
    assert [(item["id"], item["help"]) for item in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"


@pytest.fixture
def new_context(new_context: Contexts, site: Site) -> Contexts:
    """The administrator's browsers."""
    return signed_in(new_context, site)


def test_the_page_has_one_live_region_from_the_beginning(page: Page) -> None:
    """A region that appears later is not announced by all readers."""
    path = watching.start(page, 2, 2)
    html = page.request.get(path).text()
    assert html.count('role="status"') == 1
    assert page.locator("[aria-live], [role=status], [role=alert], [role=log]").count() == 1


def test_everything_is_reached_by_the_keyboard(page: Page) -> None:
    """From the address bar to a running quilt without a mouse, the focus visible all the way."""
    page.goto("/quilt")
    reached: list[str] = []
    while "rows" not in reached and len(reached) < 20:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", reached
    assert reached[-1] == "rows", reached
    page.keyboard.press("Control+A")
    page.keyboard.type("2")
    page.keyboard.press("Enter")
    page.wait_for_url("**/quilt/*")
