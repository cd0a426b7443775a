"""Provides a request scope around the application's code, and access to the current request.

It is used by services that behave differently within a request.
"""

import os
from contextvars import ContextVar, Token
from typing import NamedTuple

from lastacross import namespace_manager
from lastacross.config import Settings
from lastacross.webapp.environ import Body, Environ, Layer, Start, Wsgi, path_of


class CurrentRequest(NamedTuple):
    """A request in progress.

    Args:
        method: such as ``GET``.
        host: the host from the request's Host header, in lower case, with the port if the header has one.
        path: percent-decoded.
    """

    method: str
    host: str
    path: str


_current: ContextVar[CurrentRequest | None] = ContextVar("lastacross_current_request", default=None)


def current_request() -> CurrentRequest | None:
    """The request that the calling code is answering; None outside a request."""
    return _current.get()


class answering:
    """Make this the current request within the block."""

    __slots__ = ("_request", "_token")

    def __init__(self, request: CurrentRequest) -> None:
        self._request = request
        self._token: Token[CurrentRequest | None] | None = None

    def __enter__(self) -> None:
        self._token = _current.set(self._request)
        # The namespace stays for a body that is produced later; the thread's next request begins without it.
        namespace_manager.begin_request()

    def __exit__(self, *_error: object) -> None:
        if self._token is not None:
            _current.reset(self._token)


SERVER_SOFTWARE = "SERVER_SOFTWARE"


def layer(settings: Settings) -> Layer:
    """Set SERVER_SOFTWARE from the process's environment (docs/appengine.md, "SERVER_SOFTWARE").

    Also make this request the current one while the application is called. A body that is produced later,
    while it is being sent, is outside the scope.
    """

    def wrap(application: Wsgi) -> Wsgi:
        def serve(environ: Environ, start_response: Start) -> Body:
            environ[SERVER_SOFTWARE] = os.environ.get(SERVER_SOFTWARE) or settings.server_software
            method, host = str(environ.get("REQUEST_METHOD", "GET")), str(environ.get("HTTP_HOST", ""))
            with answering(CurrentRequest(method, host.lower(), path_of(environ))):
                return application(environ, start_response)

        return serve

    return wrap
