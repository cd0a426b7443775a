"""People sign in with a name and a password: without scripts, by keyboard, on a phone, light and dark."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from lastacross import accounts, datastore, signin, store
from lastacross.store import Store
from lastacross.webapp import login, sessions
from tests.browser.conftest import SCREENSHOTS
from tests.support import databases, web
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.xdist_group("browser")]

MAIN = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html")])
    return [b"<!doctype html><html lang=en><title>Report</title><h1>Report</h1>"]
"""
APP_YAML = """
handlers:
- {url: /report, script: main.app, login: required}
- {url: /.*, script: main.app}
"""
PASSWORD = "correct horse battery"
NAME = "anna.wintergreen@a-rather-long-name-of-a-shop.example"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@dataclass
class Served:
    """A site with accounts, in this process."""

    url: str
    browser: Browser

    def new_context(self, **options: object) -> BrowserContext:
        """A browser profile."""
        return self.browser.new_context(base_url=self.url, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, chromium: Browser
) -> Iterator[Served]:
    """A site in this process, because only accounts and pages matter; nobody has a password yet."""
    root = tmp_path_factory.mktemp("site")
    variables = {"DATABASE_URL": f"sqlite:///{root}/accounts.db", "LASTACROSS_ALLOWED_HOSTS": "127.0.0.1"}
    builtins = {login.SIGN_IN_PATH: signin.serve}
    with web.site(root, MAIN, APP_YAML, builtins=builtins, variables=variables) as site:
        databases.upgrade()
        opened = Store(redis_server.url)
        opened.redis.flushall()
        store.use(opened)
        server = make_server("127.0.0.1", 0, site.outside, _Server, _Quiet)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Served(f"http://127.0.0.1:{server.server_port}", chromium)
        server.shutdown()
        server.server_close()
        store.use(None)
        opened.close()
        datastore.dispose()


@pytest.fixture
def people(served: Served) -> Served:
    """The site with an administrator and a viewer, neither of whom has tried yet."""
    accounts.set_password(NAME, PASSWORD)
    accounts.set_password("ben", PASSWORD, "viewer")
    sessions.forget_accounts()
    store.current().redis.flushall()
    return served


def fill_in(page: Page, name: str, password: str) -> None:
    """Send the form by the keyboard alone; the name has the focus."""
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    enter(page, password)


def enter(page: Page, password: str) -> None:
    """Send the form by the keyboard alone; the password has the focus."""
    expect(page.get_by_label("Password")).to_be_focused()
    page.keyboard.type(password)
    with page.expect_navigation():
        page.keyboard.press("Enter")


def check(page: Page, name: str) -> None:
    """Take a picture, and find no fault: neither axe's rules nor a page wider than the screen."""
    page.screenshot(path=SCREENSHOTS / f"password-{name}.png", full_page=True)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_until_there_is_a_password_the_page_says_how_to_set_one(served: Served) -> None:
    page = served.new_context(viewport={"width": 320, "height": 640}).new_page()
    answer = page.goto("/_ah/admin/")
    assert answer is not None
    assert answer.status == 403
    page.goto("/_ah/signin")
    expect(page.get_by_text("lastacross admin set-password NAME")).to_be_visible()
    check(page, "none")


def test_without_scripts_a_page_leads_to_the_sign_in_and_back_and_a_button_signs_out(people: Served) -> None:
    page = people.new_context(java_script_enabled=False).new_page()
    page.goto("/report")
    assert page.url.startswith(f"{people.url}/_ah/signin?continue=")

    fill_in(page, NAME, "a wrong password")
    expect(page.get_by_role("alert")).to_have_text(signin.WRONG)
    expect(page.get_by_label("Name")).to_have_value(NAME)
    expect(page.get_by_label("Password")).to_have_value("")

    enter(page, PASSWORD)
    assert page.url == f"{people.url}/report"
    expect(page.get_by_role("heading", level=1)).to_have_text("Report")

    page.goto("/_ah/signin")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.goto("/report")
    assert "/_ah/signin" in page.url


@pytest.mark.parametrize(
    ("width", "scheme"), [(320, "light"), (320, "dark"), (1280, "light"), (1280, "dark")]
)
def test_every_state_of_the_page_is_accessible_and_fits(people: Served, width: int, scheme: str) -> None:
    page = people.new_context(viewport={"width": width, "height": 700}, color_scheme=scheme).new_page()
    page.goto("/_ah/signin")
    page.locator("summary").click()
    check(page, f"form-{width}-{scheme}")
    page.goto("/_ah/signin")
    fill_in(page, "ben", "a wrong password")
    check(page, f"wrong-{width}-{scheme}")
    enter(page, PASSWORD)
    page.goto("/_ah/signin")
    expect(page.get_by_text("May look at everything")).to_be_visible()
    check(page, f"viewer-{width}-{scheme}")


def test_the_password_is_in_no_address_and_scripts_cannot_read_the_cookie(people: Served) -> None:
    context = people.new_context()
    page = context.new_page()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    page.goto("/_ah/signin?continue=/report")
    fill_in(page, NAME, PASSWORD)

    assert page.url == f"{people.url}/report"
    assert PASSWORD not in " ".join(sent)
    assert page.evaluate("document.cookie") == ""
    [cookie] = [each for each in context.cookies() if "session" in each["name"]]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")


def test_a_form_of_another_site_signs_nobody_in(people: Served) -> None:
    page = people.new_context().new_page()
    form = (
        f"<form method=post action='{people.url}/_ah/signin'><input name=name value=ben>"
        f"<input name=password value='{PASSWORD}'><button>Win</button></form>"
    )
    page.route("http://evil.example/", lambda route: route.fulfill(body=form, content_type="text/html"))
    page.goto("http://evil.example/")
    page.get_by_role("button").click()

    expect(page.get_by_text("on another site, so it was refused")).to_be_visible()
    assert page.context.cookies(people.url) == []
