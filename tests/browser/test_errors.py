"""The error collector in a real browser: groups, chart, one error; scripts off, by keyboard, in the dark."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import SCREENSHOTS, Contexts, signed_in
from tests.support.processes import wait_until
from tests.support.raw_server import RawServer
from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.xdist_group("browser")]

EVIL = "<script>document.title='taken over'</script><img src=x onerror=\"document.title='taken over'\">"

SHOP = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 19\r\nConnection: close\r\n\r\n"
    b"<title>shop</title>"
)

BEACON = """(url) => navigator.sendBeacon(url, JSON.stringify({
  account: "beacon", url: location.href, status: 500, type: "TypeError", msg: "x is undefined",
  user_agent: navigator.userAgent}))"""


@pytest.fixture
def new_context(new_context: Contexts, site: Site) -> Contexts:
    """The administrator's browsers."""
    return signed_in(new_context, site)


def post(site: Site, **changes: object) -> str:
    """Post an error that differs so from the usual one; answers its path when its task has run."""
    given = {
        "account": "browser",
        "url": "https://shop.example/basket",
        "status": 500,
        "type": "KeyError",
        "msg": "no article 7",
        "server": "web-1",
        **changes,
    }
    path = f"/{site.post('/errors', **given)['name']}"
    wait_until(lambda: site.administrator.json(path)["done"], 30, "its task")
    return path


def test_a_made_up_error_is_sent_and_found_in_its_group(page: Page, site: Site) -> None:
    """From the front page on, by clicks."""
    page.goto("/")
    page.get_by_role("link", name="The error collector").click()
    page.get_by_role("button", name="Send a sample error").click()
    page.wait_for_url("**/errors/*")
    expect(page.get_by_role("heading", level=1)).to_have_text("KeyError")
    # While its task has not run the page looks again by itself.
    expect(page.locator(".facts")).to_contain_text("Chrome 120", timeout=60_000)
    expect(page.get_by_label("Traceback")).to_contain_text("<script>alert(1)</script>")
    page.screenshot(path=SCREENSHOTS / "error-one.png", full_page=True)

    page.get_by_role("link", name="in its group").click()
    expect(page.locator(".lede")).to_have_text("'article <n>' is not in basket <n>")
    page.get_by_role("link", name="7 days").click()
    expect(page.locator(".chart figcaption")).to_contain_text("in the last 7 days")
    page.screenshot(path=SCREENSHOTS / "error-group.png", full_page=True)
    page.get_by_role("link", name="All groups").click()
    expect(page.locator("#told + p + ul, #told ~ ul")).to_contain_text("New error: KeyError")


def test_markup_in_an_error_is_text(page: Page, site: Site) -> None:
    """In every field that has room for it; the page's fixture sees a refused script."""
    names = ("type", "msg", "server", "traceback", "request", "user_agent", "username", "account")
    path = post(site, url=f"javascript:alert(1)//{EVIL}", **dict.fromkeys(names, EVIL))
    group = f"/errors/groups/{site.administrator.json(path)['response']['group']}"
    for address in (path, group, "/errors"):
        page.goto(address)
        expect(page.locator("main")).to_contain_text("<script>document.title='taken over'</script>")
        assert "taken over" not in page.title().removeprefix(EVIL)
        assert page.locator("main script, main img, main a[href^=javascript]").count() == 0


def test_groups_are_filtered_with_scripts_off(new_context: Callable[..., BrowserContext], site: Site) -> None:
    """Forms and links are all there is."""
    for number in range(27):
        post(site, account="many", type=f"Error{number:02}", status=404)
    page = new_context(java_script_enabled=False).new_page()
    page.goto("/errors")
    page.get_by_label("Account").fill("many")
    page.get_by_label("Order").select_option("Newest group")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("caption")).to_have_text("27 groups, page 1 of 2")
    expect(page.locator("tbody th[scope=row] a").first).to_have_text("Error26")
    page.get_by_role("link", name="Page 2").click()
    expect(page.locator("caption")).to_have_text("27 groups, page 2 of 2")
    page.get_by_label("Status").fill("many")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("alert")).to_contain_text("must be a whole number from 100 to 599, not “many”.")
    expect(page.get_by_label("Status")).to_have_value("many")
    page.get_by_text("View as a table").click()
    expect(page.locator(".chart tbody tr").first).to_be_visible()


def test_a_page_of_another_site_tells_of_its_error(
    new_context: Callable[..., BrowserContext], site: Site
) -> None:
    """As the script of a shop does it: a beacon, with the visitor's browser as it is."""
    page = new_context().new_page()
    shop = RawServer(lambda connection: connection.sendall(SHOP))
    try:
        # Another name of this machine, and so another site: real ones may not ask for loopback addresses.
        page.goto(f"http://localhost:{shop.port}/")
        sent = page.evaluate(BEACON, f"{site.url}/errors")
    finally:
        shop.stop()
    assert sent

    wait_until(lambda: site.administrator.json("/errors?account=beacon")["total"] == 1, 20, "the beacon")
    [group] = site.administrator.json("/errors?account=beacon")["groups"]
    assert (group["domain"], group["type"]) == ("localhost", "TypeError")
