"""Fetching in a fork's child: connections, threads and locks of its parent are not its own."""

import os
import signal
import socket
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lastacross import config, urlfetch
from lastacross.http_client.threads import Threads
from lastacross.urlfetch import calls
from lastacross.urlfetch.fetching import Fetcher
from tests.support.processes import wait_until
from tests.support.raw_server import raw_server
from tests.support.tls import speaking_tls

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(autouse=True)
def parent(app_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fetcher]:
    """A process that has fetched nothing yet, and may from this machine."""
    loaded = config.load(app_root, {"SECRET_KEY": "a secret key of the tests, long enough"})
    settings = replace(loaded.settings, fetch_private_hosts=("127.0.0.1", "localhost"))
    config.use(replace(loaded, settings=settings))
    fetcher = Fetcher()
    monkeypatch.setattr(calls, "_fetcher", fetcher)
    monkeypatch.setattr(calls, "_threads", Threads("urlfetch", calls.CALLS_AT_ONCE))
    yield fetcher
    fetcher.close()
    config.use(None)


def fork(work: Callable[[], object]) -> int:
    """A child that does this and ends, well if it came to the end of it; its process id."""
    with warnings.catch_warnings():
        # Later versions of Python warn of forks beside threads: they are what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        signal.alarm(30)  # who waits for a lock of its parent's waits for ever
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def succeeds_in_child(work: Callable[[], object]) -> bool:
    """Whether this comes to its end in a child."""
    return os.waitpid(fork(work), 0)[1] == 0


def fetch_all(urls: list[str]) -> None:
    """Fetch from each, by itself and by an rpc."""
    for url in urls:
        assert urlfetch.fetch(url).content == b"ok"
        assert urlfetch.make_fetch_call(urlfetch.create_rpc(), url).get_result().content == b"ok"


def test_a_child_has_connections_and_threads_of_its_own_and_leaves_its_parent_s(parent: Fetcher) -> None:
    ports: list[int] = []

    def answer(connection: socket.socket) -> None:
        ports.append(connection.getpeername()[1])
        connection.sendall(OK)

    with raw_server(answer) as server:
        urls = [server.url, server.url.replace("127.0.0.1", "localhost")]
        fetch_all(urls)
        # The threads that a child would wait for are idle.
        wait_until(lambda: parent._connections._names._resolver._threads._idle == calls._threads._idle == 1)

        assert succeeds_in_child(lambda: fetch_all(urls))
        of_parent, of_child = set(ports[:4]), set(ports[4:])
        assert (len(of_parent), len(of_child), of_parent & of_child) == (2, 2, set())

        fetch_all(urls)
        assert set(ports[8:]) == of_parent
        assert server.connected == 4


def test_a_tls_connection_goes_on_when_a_child_has_ended(tmp_path: Path) -> None:
    """Nothing of the child's, its end least of all, is heard on its parent's wire."""

    def fetch() -> None:
        assert urlfetch.fetch(url, validate_certificate=False).content == b"ok"

    with raw_server(OK, speaking_tls(tmp_path)) as server:
        url = server.url.replace("http:", "https:")
        fetch()
        assert succeeds_in_child(fetch)
        assert server.connected == 2
        fetch()
        assert (server.connected, len(server.requests)) == (2, 3)


def test_a_child_does_not_hold_open_what_its_parent_closes(parent: Fetcher) -> None:
    seen: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        connection.sendall(OK)
        seen.append(connection.recv(1))

    told, tell = os.pipe()
    with raw_server(answer) as server:
        urlfetch.fetch(server.url)
        child = fork(lambda: os.read(told, 1))
        try:
            parent.close()
            wait_until(lambda: seen == [b""])
        finally:
            os.write(tell, b"x")
            assert os.waitpid(child, 0)[1] == 0
    os.close(told)
    os.close(tell)


def test_a_lock_that_was_held_at_the_fork_does_not_stop_the_child(parent: Fetcher) -> None:
    with raw_server(OK) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        locks = [
            parent._connections._lock,
            parent._connections._names._resolver._threads._lock,
            calls._threads._lock,
        ]
        for lock in locks:
            lock.acquire()
        try:
            assert succeeds_in_child(lambda: fetch_all([url]))
        finally:
            for lock in locks:
                lock.release()
