"""gunicorn is as we rely on it in these versions. Look at another one before you name it here.

tests/integration/test_slow_clients.py shows what it does.
"""

import inspect
from importlib.metadata import version
from typing import Any

import pytest
from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.http import body, message, unreader, wsgi
from gunicorn.workers import base, gthread

from lastacross.processes import gunicorn_compat

# `make test-versions` runs these tests with the first and the last of each.
VERSIONS = ("27.0.0", "27.0.1")

# Whose code uses or sets what: ours overrides it, puts something else in its place, or reads it.
USED: list[tuple[Any, str]] = [
    (gthread.ThreadWorker.accept, "TConn(self.cfg, client_sock, client_addr, listener.getsockname())"),
    (gthread.ThreadWorker.accept, "self.nr_conns += 1"),
    (gthread.ThreadWorker.handle, "conn.wait_for_data("),
    (gthread.ThreadWorker.handle, "conn.init()"),
    (gthread.ThreadWorker.handle, "self.handle_request(req, conn)"),
    (gthread.ThreadWorker.handle, "self.handle_error("),
    (gthread.ThreadWorker.run, "self.notify()"),
    (gthread.ThreadWorker.run, "self.wait_for_and_dispatch_events(timeout=timeout)"),
    (gthread.ThreadWorker.run, "time.monotonic() + STOP_KEEPALIVE_LINGER"),
    (gthread.ThreadWorker.finish_request, "self.pending_conns.append(conn)"),
    (gthread.ThreadWorker.murder_pending, "conn.timeout - now"),
    (base.Worker.init_process, "self.init_signals()"),
    (Arbiter.start, "self.init_signals()"),
    (Arbiter.run, '"handle_%s" % signame'),
    (gthread.ThreadWorker.__init__, "self.method_queue = "),
    (gthread.PollableMethodQueue, "def defer(self, callback, *args)"),
    (gthread.TConn.__init__, "self.data_ready = "),
    (gthread.TConn.__init__, "self.parser = "),
    (gthread.TConn.__init__, "self.sock = "),
    (gthread.TConn.__init__, "self.client = "),
    (gthread.TConn.init, "self.parser = http.get_parser(self.cfg, self.sock, self.client)"),
    (gthread.TConn.close, "util.close(self.sock)"),
    (base.Worker.handle_error, "util.write_error(client, status_int, reason, mesg)"),
    (wsgi.create, "response_class = Response\n"),
    (wsgi.Response.__init__, "self.req = req"),
    (wsgi.Response.__init__, "self.headers = "),
    (wsgi.Response.default_headers, '"Server: %s'),
    (wsgi.Response._emit_body, "util.write(self.sock, "),
    (wsgi.Response.close, "util.write_chunk(self.sock, "),
    (unreader.SocketUnreader.__init__, "self.sock = sock"),
    (unreader.SocketUnreader.__init__, "self.mxchunk = "),
    (unreader.SocketUnreader, "max_body_chunk = "),
    (unreader.Unreader.__init__, "self.buf = "),
    (unreader.Unreader.read, "self.chunk("),
    (body.Body.__init__, "self.reader = reader"),
    (body.Body.__init__, "self.failed = "),
    (body.LengthReader.__init__, "self.length = length"),
    (body.ChunkedReader.__init__, "self.parser = "),
    (message.Message.__init__, "self.unreader = unreader"),
    (Logger, "self._access_log_enabled = "),
]


def test_the_version_is_one_that_was_looked_at() -> None:
    assert version("gunicorn") in VERSIONS


@pytest.mark.parametrize(("code", "part"), USED)
def test_gunicorn_still_uses_the_parts_that_ours_change_or_read(code: Any, part: str) -> None:
    assert part in inspect.getsource(code)


@pytest.mark.parametrize("name", ["write", "write_chunk", "write_error"])
def test_a_function_in_the_place_of_gunicorns_takes_its_arguments(name: str) -> None:
    theirs, ours = (inspect.signature(getattr(module, name)) for module in (util, gunicorn_compat))

    assert len(theirs.parameters) == len(ours.parameters)


@pytest.mark.parametrize(
    "ours",
    [
        gunicorn_compat.Connection,
        gunicorn_compat.GunicornLogger,
        gunicorn_compat.GunicornWorker,
        gunicorn_compat.Input,
    ],
)
def test_a_method_that_ours_override_is_still_there_with_its_parameters(ours: type) -> None:
    stock = ours.__mro__[1]
    overridden = [
        name for name in vars(ours) if inspect.isfunction(vars(ours)[name]) and hasattr(stock, name)
    ]

    assert overridden
    for name in set(overridden) - {"__init__"}:
        theirs = inspect.signature(getattr(stock, name)).parameters
        assert len(inspect.signature(getattr(ours, name)).parameters) == len(theirs), name
