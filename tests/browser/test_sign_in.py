"""The administrator signs in, as a person does: a link, a button; scripts off, too."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from lastacross.store import Store
from lastacross.webapp import administrator
from tests.browser.conftest import SCREENSHOTS
from tests.support.raw_server import RawServer
from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.xdist_group("browser")]

MAIL = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}"


def link_of(site: Site) -> str:
    """A new one, as `lastacross admin link` prints it."""
    opened = Store(site.redis_server.url)
    code = administrator.new_code(site.secret_key, opened)
    opened.close()
    return administrator.link(site.url, code)


def leading_to(address: str) -> RawServer:
    """Another site with a link to this address."""
    page = f"<title>mail</title><a href='{address}'>link</a>"
    return RawServer(lambda connection: connection.sendall(MAIL.format(len(page), page).encode()))


def test_a_link_and_a_button_sign_in_and_another_button_signs_out(page: Page, site: Site) -> None:
    link = link_of(site)
    code = link.partition("#")[2]
    sent: list[str] = []
    page.on("request", lambda request: sent.append(f"{request.url} {request.all_headers()}"))

    page.goto(link)
    expect(page.get_by_label("The code")).to_have_value(code)
    assert page.url == f"{site.url}/_ah/sign-in", "nobody reads it off the address bar"
    page.screenshot(path=SCREENSHOTS / "sign-in.png")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{site.url}/")

    page.goto("/errors")
    expect(page.get_by_role("heading", level=1)).to_have_text("Errors")
    page.goto("/_ah/sign-in")
    page.screenshot(path=SCREENSHOTS / "signed-in.png")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    assert page.request.get("/errors").status == 403
    assert not [line for line in sent if code in line], "no address and no Referer has it"
    assert code not in site.processes.text()


def test_with_scripts_off_the_code_is_pasted(new_context: Callable[..., BrowserContext], site: Site) -> None:
    link = link_of(site)
    page = new_context(java_script_enabled=False).new_page()
    page.goto(link)
    page.get_by_label("The code").fill(link.partition("#")[2])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{site.url}/")
    assert page.request.get("/errors").status == 200


def test_a_link_in_a_page_of_another_site_signs_in_and_leads_nowhere_else(page: Page, site: Site) -> None:
    """SameSite=Strict: the cookie is not sent where another site leads, and the page says what to do."""
    mail = leading_to(link_of(site))
    try:
        page.goto(f"http://localhost:{mail.port}/")
        page.get_by_role("link").click()
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{site.url}/")
    finally:
        mail.stop()
    page.get_by_role("link", name="The error collector").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Errors")


# A console error is what a refused page is for a browser; so these pages do without the fixture that minds.
def test_where_another_site_leads_the_administrator_is_nobody_until_the_address_is_opened_anew(
    new_context: Callable[..., BrowserContext], site: Site
) -> None:
    page = new_context().new_page()
    page.goto(link_of(site))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{site.url}/")
    for host in ("localhost", "127.0.0.1"):
        other = leading_to(f"{site.url}/errors")
        try:
            # The second one is the same site for a browser, at another port: its link sends the cookie.
            page.goto(f"http://{host}:{other.port}/")
            page.get_by_role("link").click()
            expect(page.get_by_text("sent you here")).to_be_visible()
        finally:
            other.stop()
    page.goto("/errors")
    expect(page.get_by_role("heading", level=1)).to_have_text("Errors")
