"""What the layers read from, and leave in, a WSGI environ.

Keys that begin with ``lastacross.`` are the engine's own: no HTTP request can make them, and
the outermost layer drops those that a server in front might have set.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from webob.acceptparse import create_accept_header

if TYPE_CHECKING:
    from _typeshed import OptExcInfo

Wsgi = WSGIApplication
Environ = WSGIEnvironment
Start = StartResponse
Headers = list[tuple[str, str]]
Body = Iterable[bytes]
Layer = Callable[[WSGIApplication], WSGIApplication]

# Put there by the worker and the scheduler: the task or the cron entry that this request is.
TASK = "lastacross.task"
CRON = "lastacross.cron"
# Put there by a process of a service that starts or ends: its request to /_ah/start or /_ah/stop.
SYSTEM = "lastacross.system"
# Whence App Engine's own requests came.
SOURCE_ADDRESS = "0.1.0.2"
CRON_SOURCE_ADDRESS = "0.1.0.1"
# The header of a run of cron.yaml, which only the engine may send.
CRON_HEADER = "HTTP_X_APPENGINE_CRON"
# Put there by the outermost layers.
REQUEST_ID = "lastacross.request_id"
IS_OUTSIDE = "lastacross.is_outside"
# Put there where a proxy that LASTACROSS_TRUSTED_PROXIES does not list has passed the request on, or a client
# says that one has: REMOTE_ADDR and the scheme are of whoever connected.
HAS_UNDECLARED_PROXY = "lastacross.has_undeclared_proxy"
# Put there by the boundary: a page of another site made a browser send this, and its handler takes it.
IS_CROSS_SITE = "lastacross.is_cross_site"
# Put there when a handler raised: the exception, for the log line and for the delivery's record.
FAILURE = "lastacross.failure"
# Put there when a handler said no (`self.abort(404)`): the Refusal that our page should show.
REFUSAL = "lastacross.refusal"


@dataclass(frozen=True)
class Refusal:
    """An error answer before it has a page; an empty message means the usual one of its status."""

    status: int
    message: str = ""
    headers: Headers = field(default_factory=list)


class Refuse(Protocol):
    """How a layer answers with an error page: ``ErrorPages.refuse`` of the application."""

    def __call__(self, environ: Environ, start_response: Start, refusal: Refusal) -> Body:
        """Start the response and return its body."""


def is_internal(environ: Environ) -> bool:
    """Whether a worker or the scheduler made this request."""
    is_ours = environ.get(TASK) or environ.get(CRON) or environ.get(SYSTEM)
    return not environ.get(IS_OUTSIDE) and bool(is_ours)


def path_of(environ: Environ) -> str:
    """The decoded path. WSGI carries its bytes as Latin-1 (PEP 3333); bad UTF-8 becomes U+FFFD."""
    raw: str = environ.get("PATH_INFO") or "/"
    return raw.encode("latin-1", "replace").decode("utf-8", "replace")


def request_id_of(environ: Environ) -> str | None:
    """The id that this request has in the logs, None for one that no web server took in."""
    found: str | None = environ.get(REQUEST_ID)
    return found


def wants_json(environ: Environ) -> bool:
    """Whether the client prefers ``application/json`` to HTML; a tie or ``*/*`` means HTML."""
    accept = environ.get("HTTP_ACCEPT")
    return bool(accept) and _prefers_json(str(accept))


def expect_program(environ: Environ) -> None:
    """Let who does not ask for a page by name get JSON: no browser sends a body that is refused unread."""
    if "text/html" not in str(environ.get("HTTP_ACCEPT", "")).lower():
        environ["HTTP_ACCEPT"] = "application/json"


@functools.lru_cache(maxsize=256)
def _prefers_json(accept: str) -> bool:
    offers = create_accept_header(accept).acceptable_offers(["text/html", "application/json"])
    return bool(offers) and offers[0][0] == "application/json"


def is_https(environ: Environ) -> bool:
    """Whether the client speaks TLS, as the server (or a proxy it trusts) says."""
    return bool(environ.get("wsgi.url_scheme") == "https")


def intercept(start_response: Start, change: Callable[[str, Headers], Headers]) -> Start:
    """A ``start_response`` that sends what ``change`` makes of status and headers."""

    def start(
        status: str, headers: Headers, exc_info: "OptExcInfo | None" = None, /
    ) -> Callable[[bytes], object]:
        return start_response(status, change(status, headers), exc_info)

    return start


class ClosingBody:
    """A response body that calls ``on_close`` after the server is done with it (PEP 3333)."""

    def __init__(self, body: Body, on_close: Callable[[], None]) -> None:
        self._body = body
        self._on_close = on_close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """Close the body below, then do ours."""
        try:
            close(self._body)
        finally:
            self._on_close()


def run_and_close(
    application: Wsgi, environ: Environ, start_response: Start, on_close: Callable[[], None]
) -> Body:
    """The application's answer; ``on_close`` is called after it, or at once if the application raises."""
    try:
        return ClosingBody(application(environ, start_response), on_close)
    except BaseException:
        on_close()
        raise


def close(body: Any) -> None:
    """Call ``close`` of a response body, as PEP 3333 asks of whoever consumes one."""
    closer = getattr(body, "close", None)
    if closer is not None:
        closer()
