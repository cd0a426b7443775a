"""The five examples in a real browser: a stranger's application to which ten lines add a report page."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import BEHIND_A_PROXY, SCREENSHOTS, Contexts, contexts, listen_for_complaints
from tests.support.processes import ROOT, wait_until
from tests.support.site import Site, running_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.xdist_group("browser")]

END_MS = 60_000
DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Example:
    """An example, and what a visitor does with it.

    Attributes:
        folder: its folder below ``examples``.
        title: its front page's title.
        frame: a text of its own frame that its report page has, too; empty if it gives none.
        name: what follows in its titles.
        label: the label of its report form's field.
        button: the form's button.
        value: what starts a short report.
        endless: what starts a report that the test does not wait for.
        wrong: what starts a report that fails.
        error: how the failure is explained to the visitor.
        result: a text of the report.
    """

    folder: str
    title: str
    frame: str
    name: str
    label: str
    button: str
    value: str
    endless: str
    wrong: str
    error: str
    result: str


# An exception's own words are for the operator; those of a UserError are for the visitor.
EXCEPTION = "Something went wrong while it ran."
EXAMPLES = {
    example.folder: example
    for example in (
        Example(
            folder="flask",
            title="Our books",
            frame="Booksellers since 2010",
            name=f" {DASH} Reed & Daughters",
            label="Month or year",
            button="Sales report",
            value="2025-05",
            endless="2025",
            wrong="1999",
            error=EXCEPTION,
            result="Sales in 2025-05: 12,801.45 €",
        ),
        Example(
            folder="django",
            title="Stations",
            frame="Read every morning at seven",
            name=f" {DASH} Weather",
            label="Since the year",
            button="Report",
            value="2024",
            endless="1920",
            wrong="2030",
            error=EXCEPTION,
            result="Climate since 2024",
        ),
        Example(
            folder="fastapi",
            title="Warehouse",
            frame="",
            name="",
            label="Aisle",
            button="Count",
            value="A",
            endless="high",
            wrong="Z",
            error="There is no aisle Z.",
            result="Stock of aisle A",
        ),
        Example(
            folder="bottle",
            title="Recipes",
            frame="",
            name="",
            label="Days",
            button="Plan",
            value="30",
            endless="1000",
            wrong="0",
            error="A plan needs at least one day.",
            result="day 30: ",
        ),
        Example(
            folder="webapp2",
            title="Guestbook",
            frame="",
            name="",
            label="Volume",
            button="Count the words",
            value="2024",
            endless="all",
            wrong="1970",
            error="There is no volume 1970.",
            result="thank: 30",
        ),
    )
}


@pytest.fixture(scope="module", params=EXAMPLES, ids=str)
def example(request: pytest.FixtureRequest) -> Example:
    """Each of the examples."""
    return EXAMPLES[request.param]


@pytest.fixture(scope="module")
def site(example: Example) -> Iterator[Site]:
    """The example, running as `lastacross dev` runs it."""
    with running_site(ROOT / "examples" / example.folder, BEHIND_A_PROXY) as running:
        yield running


@pytest.fixture
def new_context(chromium: Browser, site: Site) -> Iterator[Contexts]:
    """Opens browser profiles that share nothing."""
    with contexts(chromium, site) as opened:
        yield opened


def start(page: Page, example: Example, value: str) -> str:
    """Fill in the form on the application's own page and send it; returns the report's bookmark."""
    page.goto("/")
    expect(page).to_have_title(re.compile(example.title))
    page.get_by_label(example.label, exact=True).fill(value)
    page.get_by_role("button", name=example.button).click()
    expect(page.locator("#longtask")).to_be_visible()
    return page.url


def test_a_report_is_watched_and_cancelled_and_one_that_fails_says_why(
    example: Example, new_context: Contexts
) -> None:
    page = new_context().new_page()
    complaints = listen_for_complaints(page)

    start(page, example, example.endless)
    expect(page.locator("#longtask[data-mode=stream]")).to_be_visible()
    expect(page.locator("#count")).to_contain_text(re.compile("Step [0-9]+ of"))
    earlier = page.text_content("#count")
    wait_until(lambda: page.text_content("#count") != earlier)
    expect(page).to_have_title(re.compile(f"^[0-9]+ % {DASH} .+{example.name}$"))
    expect(page.locator("body")).to_contain_text(example.frame)
    page.screenshot(path=SCREENSHOTS / f"example-{example.folder}.png", full_page=True)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_have_text("Cancelled.")

    start(page, example, example.wrong)
    expect(page.locator("#error")).to_contain_text(example.error)

    page.goto("/reports")
    rows = page.locator(".longtask-rows > li")
    expect(rows).to_have_count(2)
    expect(rows.last.locator(".state")).to_have_text("cancelled")
    assert complaints == []


def test_a_result_is_found_again_without_scripts_and_as_json(
    example: Example, site: Site, new_context: Contexts
) -> None:
    page = new_context().new_page()
    complaints = listen_for_complaints(page)
    plain = new_context(java_script_enabled=False).new_page()

    start(plain, example, example.value)
    bookmark = start(page, example, example.value)
    for each in (page, plain):
        expect(each.locator("#result")).to_contain_text(example.result, timeout=END_MS)

    stranger = new_context().new_page()
    stranger.goto(bookmark)
    expect(stranger.locator("#result")).to_contain_text(example.result)
    operation = site.json(bookmark.removeprefix(site.url))
    assert (operation["done"], example.result in operation["response"]["result"]) == (True, True)
    assert complaints == []
