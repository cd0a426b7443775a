"""The scope of a request around the application's code, and the request that the calling code answers.

Services that behave differently within a request ask for it.
"""

import os
from contextvars import ContextVar, Token
from typing import NamedTuple

from lastacross.config import Settings
from lastacross.webapp.environ import Body, Environ, Layer, Start, Wsgi, path_of


class CurrentRequest(NamedTuple):
    """A request under way.

    Args:
        method: such as ``GET``.
        host: as its Host header has it, lower case, with the port if that is given there.
        path: percent-decoded.
    """

    method: str
    host: str
    path: str


_current: ContextVar[CurrentRequest | None] = ContextVar("lastacross_current_request", default=None)


def current_request() -> CurrentRequest | None:
    """The request that the calling code answers, None outside of one."""
    return _current.get()


class answering:
    """Make this the current request within the block."""

    __slots__ = ("_request", "_token")

    def __init__(self, request: CurrentRequest) -> None:
        self._request = request
        self._token: Token[CurrentRequest | None] | None = None

    def __enter__(self) -> None:
        self._token = _current.set(self._request)

    def __exit__(self, *_error: object) -> None:
        if self._token is not None:
            _current.reset(self._token)


SERVER_SOFTWARE = "SERVER_SOFTWARE"


def layer(settings: Settings) -> Layer:
    """Sets SERVER_SOFTWARE as the process's environment has it (docs/appengine.md, "SERVER_SOFTWARE").

    And makes the request the current one while the application is called: a body that is made later, while
    it is sent, is outside of it.
    """

    def wrap(application: Wsgi) -> Wsgi:
        def serve(environ: Environ, start_response: Start) -> Body:
            environ[SERVER_SOFTWARE] = os.environ.get(SERVER_SOFTWARE) or settings.server_software
            request = CurrentRequest(
                method=str(environ.get("REQUEST_METHOD", "GET")),
                host=str(environ.get("HTTP_HOST", "")).lower(),
                path=path_of(environ),
            )
            with answering(request):
                return application(environ, start_response)

        return serve

    return wrap
