"""goog.appengine.Channel in a real browser, under a strict Content-Security-Policy."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from lastacross import channel, store
from lastacross.config import Config
from tests.conftest import SECRET_KEY
from tests.support.channel_site import ChannelSite, running_channel_site

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

# What a page does with the script; what happened is kept in window.heard.
OPEN = """([token, options]) => {
  window.heard = [];
  window.socket = new goog.appengine.Channel(token, options).open({
    onopen: () => heard.push("open"),
    onmessage: (message) => heard.push("message " + message.data),
    onerror: (error) => heard.push("error " + error.code + " " + error.description),
    onretry: (error) => heard.push("retry " + error.code + " " + error.description),
    onreconnect: () => heard.push("reconnect"),
    onclose: () => heard.push("close"),
  });
}"""


@pytest.fixture
def real_store(configuration: Config) -> Iterator[store.Store]:
    """An empty store with Redis's clock, which the site has too."""
    opened = store.Store(configuration.settings.redis_url)
    opened.redis.flushall()
    store.use(opened)
    yield opened
    store.use(None)
    opened.close()


@pytest.fixture
def environ(configuration: Config, tmp_path: Path, streams: dict[str, str]) -> dict[str, str]:
    return {
        "REDIS_URL": configuration.settings.redis_url,
        "SECRET_KEY": SECRET_KEY,
        "LASTACROSS_DATA_DIR": str(tmp_path / "var"),
        **streams,
    }


@pytest.fixture
def streams() -> dict[str, str]:
    """The limits of a site that has one place for a stream."""
    return {"LASTACROSS_STREAMS": "1"}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """An address that outlives a site."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


@pytest.fixture
def channel_site(
    real_store: store.Store, app_root: Path, environ: dict[str, str], listener: socket.socket
) -> Iterator[ChannelSite]:
    """A site with one place for a stream."""
    with running_channel_site(app_root, environ, listener=listener) as running:
        yield running


@pytest.fixture
def tab(chromium: Browser, channel_site: ChannelSite) -> Iterator[Page]:
    with contextlib.closing(chromium.new_page()) as page:
        page.goto(channel_site.url)
        yield page


def heard(page: Page, number: int) -> list[str]:
    """The first things that happened, as soon as there are so many."""
    page.wait_for_function("number => heard.length >= number", arg=number, timeout=30_000)
    return list(page.evaluate("heard"))


def test_a_page_hears_messages_until_it_closes_its_socket(tab: Page) -> None:
    tab.evaluate(OPEN, [channel.create_channel("quilt"), None])
    heard(tab, 1)
    channel.send_message("quilt", "one")
    channel.send_message("quilt", "two\r\nlines")

    assert heard(tab, 3) == ["open", "message one", "message two\r\nlines"]

    tab.evaluate("socket.close()")
    tab.evaluate("socket.close()")
    assert heard(tab, 4)[3:] == ["close"]


def test_a_page_that_names_its_last_message_hears_the_later_ones(tab: Page) -> None:
    channel.send_message("quilt", "shown already")
    last = channel.last_id("quilt")
    channel.send_message("quilt", "new")

    tab.evaluate(OPEN, [channel.create_channel("quilt"), {"last": last}])

    assert heard(tab, 2) == ["open", "message new"]


def test_handlers_may_be_set_on_the_socket_and_new_left_out(tab: Page) -> None:
    token = channel.create_channel("quilt")
    tab.evaluate(
        """token => {
          window.heard = [];
          const socket = goog.appengine.Channel(token).open();
          socket.onmessage = (message) => heard.push(message.data);
        }""",
        token,
    )
    channel.send_message("quilt", "hello")

    assert heard(tab, 1) == ["hello"]


def test_a_wrong_token_is_an_error_and_the_end(tab: Page) -> None:
    tab.evaluate(OPEN, ["forged", None])

    assert heard(tab, 2) == ["error 401 Invalid+token.", "close"]


@pytest.mark.parametrize(
    ("streams", "error"),
    [
        ({"LASTACROSS_STREAMS": "1"}, "retry 503 Service Unavailable"),
        ({"LASTACROSS_STREAMS_PER_CLIENT": "1"}, "retry 429 Too Many Requests"),
    ],
    ids=["the process has no more", "the client has its share"],
)
def test_a_page_without_a_place_hears_why_and_gets_one_when_it_is_free(
    tab: Page, chromium: Browser, error: str
) -> None:
    tab.evaluate(OPEN, [channel.create_channel("quilt"), None])
    heard(tab, 1)
    with contextlib.closing(chromium.new_page()) as second:
        second.goto(tab.url)
        second.evaluate(OPEN, [channel.create_channel("quilt"), None])
        assert heard(second, 1) == [error]
        channel.send_message("quilt", "while there was no place")

        tab.evaluate("socket.close()")

        second.wait_for_function("() => heard.includes('open')", timeout=30_000)
        second.wait_for_function("() => heard.includes('message while there was no place')")


def test_a_page_survives_a_restart_of_the_server_without_a_gap(
    real_store: store.Store,
    app_root: Path,
    environ: dict[str, str],
    listener: socket.socket,
    chromium: Browser,
) -> None:
    with contextlib.closing(chromium.new_page()) as page:
        with running_channel_site(app_root, environ, listener=listener) as first:
            page.goto(first.url)
            page.evaluate(OPEN, [channel.create_channel("quilt"), None])
            channel.send_message("quilt", "0")
            assert heard(page, 2) == ["open", "message 0"]
        channel.send_message("quilt", "1")
        with running_channel_site(app_root, environ, listener=listener):
            page.wait_for_function("() => heard.includes('message 1')", timeout=30_000)
            channel.send_message("quilt", "2")
            page.wait_for_function("() => heard.includes('message 2')")

        lines = page.evaluate("heard")
        # App Engine's handlers hear nothing of the restart: a page starts its work once, in onopen.
        own = [line for line in lines if not line.startswith(("retry", "reconnect"))]
        assert own == ["open", "message 0", "message 1", "message 2"]
        assert "reconnect" in lines
