"""Limits per client over both processes of ``lastacross web``: starts, streams, and cookies over HTTP."""

import contextlib
import http.client
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from lastacross import channel, config, store
from tests.support.redis_server import RedisServer
from tests.support.web_server import WebServer, running_web

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MAIN = """
import os

import webapp2

import longtask


class Report(longtask.LongRunningTaskHandler):
    start_limit = "8/minute"

    def prepare_task(self, parameters):
        self.response.headers["X-Process"] = str(os.getpid())

    def execute_task(self, parameters):
        return "done"


class Other(Report):
    pass


app = webapp2.WSGIApplication([("/report", Report), ("/other", Other)])
"""
JSON = {"Accept": "application/json"}


class Web:
    """Two processes behind one port; no worker runs what is started."""

    def __init__(self, server: WebServer) -> None:
        self.port = server.port
        self.environ = server.environ
        self.root = server.root

    @contextlib.contextmanager
    def ask(
        self, method: str, path: str, headers: dict[str, str], source: str = "127.0.0.1"
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to one request, on a connection from this address that lasts as long as the block."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=20, source_address=(source, 0)
        )
        try:
            connection.request(method, path, headers=headers)
            yield connection.getresponse()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def web(redis_server: RedisServer) -> Iterator[Web]:
    """The server, once for the tests of this file."""
    redis_server.flush()
    variables = {"LASTACROSS_STREAMS_PER_CLIENT": "3", "WEB_CONCURRENCY": "2"}
    with running_web(redis_server.url, {"main.py": MAIN}, variables) as server:
        yield Web(server)


def test_a_client_has_one_limit_at_both_processes_whatever_its_headers_say(web: Web) -> None:
    statuses: Counter[int] = Counter()
    processes = set()
    for number in range(16):
        # Held together, the connections go to both processes.
        with contextlib.ExitStack() as held:
            for turn in range(2):
                forged = {"X-Forwarded-For": f"198.51.100.{number}", "Forwarded": f"for=192.0.2.{turn}"}
                answer = held.enter_context(web.ask("GET", "/report?a=1", {**JSON, **forged}))
                statuses[answer.status] += 1
                processes.add(answer.headers["X-Process"])

    # With the headers of a proxy that is not declared, all clients have one limit together.
    assert statuses == {202: 8, 429: 24}
    assert len(processes - {None}) == 2


def test_another_address_may_start_and_hears_when_it_may_again(web: Web) -> None:
    answers: list[tuple[int, Any]] = []
    for _ in range(9):
        with web.ask("POST", "/other", {**JSON, "Content-Length": "0"}, source="127.0.0.9") as answer:
            answers.append((answer.status, answer.headers["Retry-After"]))

    assert [status for status, _ in answers] == [202] * 8 + [429]
    assert 50 <= int(answers[-1][1]) <= 60
    with web.ask("POST", "/other", {**JSON, "Content-Length": "0"}, source="127.0.0.10") as answer:
        assert answer.status == 202


def test_the_cookie_of_the_start_is_what_a_cancel_needs(web: Web) -> None:
    with web.ask("GET", "/report", JSON, source="127.0.0.11") as answer:
        operation = json.load(answer)
        cookies = [value.partition(";")[0] for value in answer.headers.get_all("Set-Cookie") or []]
    cancel = operation["metadata"]["status_url"].replace("=query", "=cancel")

    with web.ask("POST", cancel, {**JSON, "Content-Length": "0"}, source="127.0.0.11") as answer:
        assert answer.status == 403
    own = {**JSON, "Content-Length": "0", "Cookie": "; ".join(cookies)}
    with web.ask("POST", cancel, own, source="127.0.0.12") as answer:
        assert (answer.status, json.load(answer)["metadata"]["state"]) == (200, "cancelled")


def test_a_client_has_so_many_streams_at_each_process(web: Web) -> None:
    config.use(config.load(web.root, web.environ))
    opened = store.Store(web.environ["REDIS_URL"])
    store.use(opened)
    try:
        tokens = [channel.create_channel(f"client {number}") for number in range(12)]
    finally:
        store.use(None)
        opened.close()
        config.use(None)
    with contextlib.ExitStack() as held:
        statuses = []
        for token in tokens:
            path = "/_ah/channel/stream?" + urlencode({"token": token})
            answer = held.enter_context(web.ask("GET", path, {}, source="127.0.0.21"))
            statuses.append(answer.status)
        refused = answer.headers["Retry-After"]
        other = held.enter_context(web.ask("GET", path, {}, source="127.0.0.22"))

        assert (statuses.count(200), statuses.count(429)) == (6, 6)
        assert (refused, other.status) == ("10", 200)
