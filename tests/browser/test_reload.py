"""The batch reload in a real browser: accounts are added and changed, a run is watched and retried."""

import re
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from programs.reload import feed
from tests.browser.conftest import Contexts, signed_in
from tests.support.accounts import active_accounts, wait_until_no_reload_runs
from tests.support.processes import wait_until
from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.xdist_group("browser")]

IS_OVER = "#run.is-done, #run.is-failed, #run.is-cancelled"


@pytest.fixture
def new_context(new_context: Contexts, site: Site) -> Contexts:
    """The administrator's browsers."""
    return signed_in(new_context, site)


@pytest.fixture
def keys(site: Site) -> Iterator[list[str]]:
    """Accounts that no other test has; no other reload runs."""
    with active_accounts(site) as made:
        yield made


def start(page: Page) -> str:
    """Begin a run by its button; the path of its page."""
    page.goto("/reloads")
    page.get_by_role("button", name="Reload now").click()
    page.wait_for_url(re.compile(r"/reloads/[^/]+$"))
    return page.url.partition("/reloads/")[2]


def shown(page: Page) -> dict[str, str]:
    """The numbers of the panel."""
    return {name: page.locator(f"#{name}").inner_text() for name in ("done", "failed", "remaining")}


def test_a_run_is_watched_to_its_end_and_what_failed_is_retried(
    page: Page, site: Site, keys: list[str]
) -> None:
    run_id = start(page)
    expect(page.locator("#headline")).not_to_have_text("")

    page.locator(IS_OVER).wait_for(timeout=60_000)

    assert shown(page) == {"done": "90", "failed": "10", "remaining": "0"}
    expect(page).to_have_title(re.compile("^Failed . Reload "))
    expect(page.locator("#headline")).to_have_text("Finished, but 10 of 100 accounts failed.")
    failing = page.locator("#failing th").all_inner_texts()
    assert sorted(failing) == sorted(key for key in keys if feed.is_failing(key))
    slowest = page.locator("#slowest th").all_inner_texts()
    assert {key for key in keys if feed.is_slow(key)} <= set(slowest)
    assert page.locator("#mode").inner_text().startswith("This reload is kept")

    page.get_by_role("button", name="Retry failed").click()
    page.wait_for_url(lambda url: "/reloads/" in url and run_id not in url)
    page.locator(IS_OVER).wait_for(timeout=60_000)

    assert shown(page) == {"done": "0", "failed": "10", "remaining": "0"}
    page.get_by_role("link", name="another reload").click()
    page.get_by_role("link", name="The retry of the failed accounts").wait_for()
    assert shown(page) == {"done": "90", "failed": "10", "remaining": "0"}


def test_without_a_stream_the_page_asks(
    new_context: Callable[..., BrowserContext], site: Site, keys: list[str]
) -> None:
    page = new_context().new_page()

    def refuse(route: Route) -> None:
        route.abort()

    page.route("**/_ah/channel/**", refuse)
    start(page)

    page.locator(IS_OVER).wait_for(timeout=60_000)

    assert shown(page) == {"done": "90", "failed": "10", "remaining": "0"}


def test_without_scripts_the_pages_do_the_same(
    new_context: Callable[..., BrowserContext], site: Site, keys: list[str]
) -> None:
    page = new_context(java_script_enabled=False).new_page()
    run_id = start(page)
    wait_until(lambda: site.json(f"/reloads/{run_id}.json")["done"], 60)

    page.goto(f"/reloads/{run_id}")

    assert shown(page) == {"done": "90", "failed": "10", "remaining": "0"}
    page.get_by_role("button", name="Retry failed").click()
    page.wait_for_url(lambda url: "/reloads/" in url and run_id not in url)
    assert page.locator("meta[http-equiv=refresh]").count() == 1, "it reloads itself"


def test_accounts_are_added_found_and_deactivated(page: Page) -> None:
    page.goto("/accounts")
    page.get_by_label("Keys", exact=True).fill("zebra-1\nzebra-2")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_label("Keys starting with").fill("zebra")
    page.get_by_role("button", name="Show").click()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(2)

    page.get_by_role("button", name="Deactivate zebra-1").click()
    page.get_by_role("button", name="Activate zebra-1").wait_for()

    assert "start=zebra" in page.url, "the browser is back where it was in the list"
    assert rows.nth(0).locator("td").nth(2).inner_text() == "no"
    page.get_by_role("button", name="Deactivate zebra-2").click()
    page.get_by_role("button", name="Activate zebra-2").wait_for()


def test_failing_accounts_beyond_the_first_page_are_a_link_away(page: Page, site: Site) -> None:
    """It comes while the run goes on; the page that it leads to goes on with its own accounts."""
    wait_until_no_reload_runs(site)
    names = [name for name in (f"paged-{number:04}" for number in range(3000)) if feed.is_failing(name)][:60]
    site.administrator.post("/accounts", keys=" ".join(names))
    run_id = start(page)
    page.get_by_role("link", name="Next page").click(timeout=60_000)
    page.locator(IS_OVER).wait_for(timeout=60_000)

    # The page begins after the fiftieth failure so far, which need not be the fiftieth in the end.
    after = parse_qs(urlsplit(page.url).query)["after"][0]
    assert after in names[49:]
    expect(page.locator("#failing th")).to_have_text([name for name in names if name > after])
    assert page.get_by_role("link", name="Next page").is_hidden()
    page.get_by_role("link", name="First page").click()
    expect(page.locator("#failing th")).to_have_text(names[:50])
    assert page.url.endswith(f"/reloads/{run_id}#failing-name")
    for name in names:
        site.administrator.post(f"/accounts/{name}/deactivate")


def test_who_asks_for_a_second_run_is_told_why_there_is_none(page: Page, site: Site, keys: list[str]) -> None:
    run_id = start(page)

    again = start(page)

    assert again == f"{run_id}?instead=1"
    expect(page.locator("#instead")).to_contain_text("only one runs at a time")
    page.locator(IS_OVER).wait_for(timeout=60_000)


def test_a_mistake_is_told_at_its_field(new_context: Callable[..., BrowserContext]) -> None:
    page = new_context().new_page()
    page.goto("/accounts")
    page.get_by_label("Keys", exact=True).fill("fine not/fine")
    page.get_by_role("button", name="Add", exact=True).click()

    expect(page.get_by_role("alert")).to_contain_text("Nothing was added.")
    expect(page.locator("#keys-mistake")).to_contain_text("not “not/fine”")
    assert page.get_by_label("Keys", exact=True).input_value() == "fine not/fine"


def test_a_run_has_one_live_region_from_the_beginning(page: Page, keys: list[str]) -> None:
    run_id = start(page)

    html = page.request.get(f"/reloads/{run_id}").text()

    assert html.count('role="status"') == 1
