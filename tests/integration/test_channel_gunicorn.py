"""Streams under a real gunicorn with threads: delivery, vanished browsers, the cap, other requests."""

import contextlib
import http.client
import statistics
import time
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from lastacross import channel, store
from lastacross.config import Config
from tests.conftest import SECRET_KEY
from tests.support.channel_site import WRITES_DIRECTLY, ChannelSite, running_channel_site
from tests.support.processes import wait_until
from tests.support.redis_server import RedisServer
from tests.support.sse import Event, parse

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("real_store")]

STREAMS = 40


@pytest.fixture
def real_store(configuration: Config) -> Iterator[store.Store]:
    """An empty store with Redis's clock, which the site has too."""
    opened = store.Store(configuration.settings.redis_url)
    opened.redis.flushall()
    store.use(opened)
    yield opened
    store.use(None)
    opened.close()


@pytest.fixture(scope="module", params=[False, True], ids=["by its thread", "directly"])
def server(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ChannelSite]:
    """The site, once for the tests of this file."""
    root = tmp_path_factory.mktemp("site")
    (root / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    (root / "queue.yaml").write_text("queue:\n- name: default\n  rate: 500/s\n")
    environ = {
        "REDIS_URL": redis_server.url,
        "SECRET_KEY": SECRET_KEY,
        "LASTACROSS_DATA_DIR": str(root / "var"),
        "LASTACROSS_STREAMS": str(STREAMS),
        "LASTACROSS_STREAMS_PER_CLIENT": str(STREAMS),
        WRITES_DIRECTLY: "1" if request.param else "",
    }
    with running_channel_site(root, environ) as running:
        yield running


@pytest.fixture
def site(server: ChannelSite) -> ChannelSite:
    """The site without a stream; those of the test before end a moment after it."""
    wait_until(lambda: server.open_streams() == 0, what="no stream is open")
    return server


class Connection:
    """A browser's connection to a stream."""

    def __init__(self, site: ChannelSite, **parameters: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
        self._connection.request("GET", "/_ah/channel/stream?" + urlencode(parameters))
        self.response = self._connection.getresponse()
        self.received = bytearray()

    def read(self, number: int) -> list[Event]:
        """Read on until so many events have come in all."""
        while self.received.count(b"\ndata: ") < number or not self.received.endswith(b"\n\n"):
            chunk = self.response.read1(65_536)
            if not chunk:
                raise EOFError(f"{len(parse(bytes(self.received)))} of {number} events")
            self.received += chunk
        return parse(bytes(self.received))

    def close(self) -> None:
        """Vanish."""
        self.response.close()
        self._connection.close()


@pytest.mark.alone
def test_a_message_is_in_the_browser_within_milliseconds(site: ChannelSite) -> None:
    connection = Connection(site, token=channel.create_channel("quilt"))
    lags = []
    for number in range(30):
        sent_at = time.monotonic()
        channel.send_message("quilt", str(number))
        connection.read(number + 1)
        lags.append(time.monotonic() - sent_at)
    connection.close()

    median_ms = statistics.median(lags) * 1000
    print(f"measured channel message: in the browser after {median_ms:.1f} ms (promised: 50)")
    assert median_ms < 3 * 50


def test_a_vanished_browser_gives_its_place_back_without_any_message(site: ChannelSite) -> None:
    connection = Connection(site, token=channel.create_channel("quilt"))
    assert site.open_streams() == 1

    connection.close()

    wait_until(lambda: site.open_streams() == 0, seconds=30, what="the place is free")


@pytest.mark.alone
def test_above_the_cap_streams_are_refused_and_other_requests_are_quick(site: ChannelSite) -> None:
    with contextlib.ExitStack() as stack:
        answers = []
        for number in range(STREAMS + 10):
            connection = Connection(site, token=channel.create_channel(f"client {number}"))
            stack.callback(connection.close)
            answers.append(connection.response.status)
        assert answers == [200] * STREAMS + [503] * 10
        assert connection.response.headers["Retry-After"] == "5"

        seconds = []
        for _ in range(20):
            asked_at = time.monotonic()
            urllib.request.urlopen(f"{site.url}/", timeout=10).close()
            seconds.append(time.monotonic() - asked_at)
        median_ms = statistics.median(seconds) * 1000
        print(f"measured page beside {STREAMS} streams: {median_ms:.1f} ms (promised: 100)")
        assert median_ms < 3 * 100


def test_a_browser_that_does_not_read_costs_no_other_its_messages(site: ChannelSite) -> None:
    token = channel.create_channel("quilt")
    asleep = Connection(site, token=token)
    awake = Connection(site, token=token)
    large = "x" * 30_000
    # More than the sockets between us and the server hold.
    for _ in range(400):
        channel.send_message("quilt", large)

    assert len(awake.read(400)) == 400
    assert len(asleep.read(400)) == 400
    assert [event.id for event in asleep.read(400)] == [event.id for event in awake.read(400)]
    asleep.close()
    awake.close()
