"""Everybody can use the pages: axe's rules, light and dark, on a phone and on a desk."""

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page

from tests.browser import watching
from tests.browser.conftest import SCREENSHOTS
from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

WIDTHS = (320, 1280)
SCHEMES = ("light", "dark")


@pytest.fixture(params=[(scheme, width) for scheme in SCHEMES for width in WIDTHS], ids=str)
def view(request: pytest.FixtureRequest, new_context: Callable[..., BrowserContext]) -> tuple[Page, str]:
    """A page in one scheme and of one width, and the two as a name."""
    scheme, width = request.param
    context = new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    return context.new_page(), f"{scheme}-{width}"


def check(page: Page, name: str) -> None:
    """No serious or critical finding, nothing wider than the window; keeps a picture."""
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    found = Axe().run(page).response["violations"]
    serious = [(item["id"], item["help"]) for item in found if item["impact"] in ("serious", "critical")]
    assert serious == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"


@pytest.mark.parametrize(
    ("path", "name"), [("/", "home"), ("/quilt", "form"), ("/quilt/nobody-has-it", "missing")]
)
def test_pages_have_no_serious_finding(view: tuple[Page, str], path: str, name: str) -> None:
    """The front page, the form, the page for an address that is not there."""
    page, kind = view
    page.goto(path)
    check(page, f"{name}-{kind}")


def test_a_form_with_mistakes_has_no_serious_finding(view: tuple[Page, str]) -> None:
    """Errors are tied to their fields."""
    page, kind = view
    watching.fill_in(page, 0, 101)
    page.get_by_role("button", name="Start").click()
    page.get_by_role("alert").wait_for()
    check(page, f"mistakes-{kind}")


def test_a_quilt_has_no_serious_finding_running_and_done(view: tuple[Page, str], site: Site) -> None:
    """Both faces of the page."""
    page, kind = view
    watching.start(page, 8, 8, delay_ms=300)
    watching.wait_for_squares(page, 8)
    check(page, f"running-{kind}")
    watching.wait_for_the_end(page)
    check(page, f"done-{kind}")


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
