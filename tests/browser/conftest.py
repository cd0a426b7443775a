"""Fixtures of the browser tests: two running sites, and Debian's Chromium."""

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.support import longtask_app
from tests.support.site import Site, running_site

# Playwright's own patience, five seconds, is too short on a busy machine.
expect.set_options(timeout=30_000)

SCREENSHOTS = Path(__file__).parent / "screenshots"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

Contexts = Callable[..., BrowserContext]

# One network may start ten runs a minute, and all profiles are on this machine.
BEHIND_A_PROXY = {"LASTACROSS_TRUSTED_PROXIES": "127.0.0.1"}
_addresses = (f"198.18.{number // 250}.{number % 250}" for number in itertools.count())


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The application in the root, running; all browser tests share it. Its profiles come through a proxy."""
    with running_site(variables=BEHIND_A_PROXY) as running:
        yield running


@pytest.fixture(scope="session")
def longtask_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An application that has long tasks and no template, running; all browser tests share it."""
    folder = longtask_app.write(tmp_path_factory.mktemp("longtasks") / "app")
    with running_site(folder, BEHIND_A_PROXY) as running:
        yield running


def chromium_binary() -> str:
    """The path of the installed browser."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert binary, "the browser tests need Chromium: apt install chromium"
    return binary


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A headless browser, shared by the tests of a run."""
    SCREENSHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_binary(), args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def contexts(chromium: Browser, site: Site) -> Iterator[Contexts]:
    """Opens browser profiles that share nothing, not even their address; takes Playwright's own options."""
    opened: list[BrowserContext] = []

    def open_context(**options: object) -> BrowserContext:
        own = {"base_url": site.url, "extra_http_headers": {"X-Forwarded-For": next(_addresses)}}
        context = chromium.new_context(**{**own, **options})  # type: ignore[arg-type]
        context.set_default_timeout(30_000)
        opened.append(context)
        return context

    yield open_context
    for context in opened:
        context.close()


@pytest.fixture
def new_context(chromium: Browser, site: Site) -> Iterator[Contexts]:
    """``contexts`` for one test."""
    with contexts(chromium, site) as opened:
        yield opened


def signed_in(new_context: Contexts, site: Site) -> Contexts:
    """Opens browser profiles in which the administrator of this site is signed in."""

    def open_context(**options: object) -> BrowserContext:
        context = new_context(**options)
        name, _, value = site.administrator.cookie.partition("=")
        context.add_cookies([{"name": name, "value": value, "url": site.url, "sameSite": "Strict"}])
        return context

    return open_context


def listen_for_complaints(page: Page) -> list[str]:
    """The console errors, exceptions and refused scripts of a page, as they come."""
    complaints: list[str] = []

    def keep(message: ConsoleMessage) -> None:
        # A text result has no icon of its own, so the browser asks for the default one.
        if message.type == "error" and not message.location["url"].endswith("/favicon.ico"):
            complaints.append(message.text)

    page.on("console", keep)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints


@pytest.fixture
def page(new_context: Contexts) -> Iterator[Page]:
    """A page of a fresh profile that must not complain: no console error, no refused script or style."""
    page = new_context().new_page()
    complaints = listen_for_complaints(page)
    yield page
    assert complaints == []
