"""The site under attack: the application in the root under ``lastacross web``, on a Redis of its own."""

import contextlib
from collections.abc import Iterator, Mapping

from tests.support.processes import ROOT
from tests.support.redis_server import running_server
from tests.support.web_server import WebServer, running_web


@contextlib.contextmanager
def running_target(variables: Mapping[str, str] | None = None) -> Iterator[WebServer]:
    """Start one web process that serves the application to strangers; end it as an operator would."""
    own = {"LASTACROSS_ALLOWED_HOSTS": "localhost,127.0.0.1", **(variables or {})}
    with running_server() as redis_server, running_web(redis_server.url, ROOT, own) as server:
        yield server
