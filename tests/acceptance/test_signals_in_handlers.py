"""A handler cannot handle signals, and learns why and what to do instead."""

from collections.abc import Iterator

import pytest

from lastacross import store, taskqueue
from tests.support.lab import Lab, running_lab
from tests.support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FILES = {
    "app.yaml": """\
handlers:
- url: /page
  script: main.pages
- url: /.*
  script: main.app
""",
    "main.py": '''\
"""Wants to be told of SIGTERM."""

import signal

import webapp2
from handling import handle

from lastacross import deferred


class Page(webapp2.RequestHandler):
    def post(self):
        handle()


def app(environ, start_response):
    if environ["PATH_INFO"] == "/defer":
        deferred.defer(handle, _queue="limited", _name="deferred")
    else:
        handle()
    start_response("200 OK", [])
    return []


pages = webapp2.WSGIApplication([("/page", Page)])
''',
    "handling.py": '''\
"""Handles SIGTERM."""

import signal


def handle():
    signal.signal(signal.SIGTERM, print)
''',
}


@pytest.fixture
def lab() -> Iterator[Lab]:
    """The application, on a Redis of its own."""
    with running_lab(files=FILES) as running:
        yield running


def test_the_error_of_signal_names_the_reason_and_the_remedy(lab: Lab) -> None:
    with lab.workers(1) as worker:
        for name, url in {"plain": "/plain", "page": "/page"}.items():
            taskqueue.add(url=url, name=name, queue_name="limited")
        taskqueue.add(url="/defer")
        wait_until(lambda: len(lab.dead("limited")) == 3, what="three dead letters")
        lines = [line for line in worker.text().splitlines() if '"exception"' in line]

    for name in ("plain", "page", "deferred"):
        reason = str(lab.store.redis.hget(store.record_key(f"limited_{name}"), "error"))
        assert "ValueError: signal only works in main thread" in reason
        assert "handlers run in other threads" in reason
        assert reason.count("use runtime.set_shutdown_hook()") == 1
    # Two attempts of each.
    assert len(lines) == 6
    assert all("runtime.set_shutdown_hook()" in line for line in lines)
