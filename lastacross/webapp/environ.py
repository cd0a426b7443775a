"""The keys under which the layers read and store values in a WSGI environ.

Keys that begin with ``lastacross.`` belong to the engine. No HTTP request can create them, and the outermost
layer drops any that the web server might have set.
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

# Set by the worker and the scheduler to the task or cron entry behind this request.
TASK = "lastacross.task"
CRON = "lastacross.cron"
# Set by a service's process in its request to /_ah/start or /_ah/stop.
SYSTEM = "lastacross.system"
# The address from which App Engine's own requests came.
SOURCE_ADDRESS = "0.1.0.2"
CRON_SOURCE_ADDRESS = "0.1.0.1"
# The header that marks a request as a run of a cron.yaml job; only the engine may send it.
CRON_HEADER = "HTTP_X_APPENGINE_CRON"
# Set by the outermost layers.
REQUEST_ID = "lastacross.request_id"
IS_OUTSIDE = "lastacross.is_outside"
# Set if a request has a proxy's headers, but its sender is not listed in LASTACROSS_TRUSTED_PROXIES.
# REMOTE_ADDR and the scheme are then those of the connecting peer.
HAS_UNDECLARED_PROXY = "lastacross.has_undeclared_proxy"
# Set to the user whom a trusted proxy names in the header that LASTACROSS_USER_HEADER specifies.
PROXY_USER = "lastacross.proxy_user"
# Set by the boundary if another site's page made a browser send this request and the handler accepts it.
IS_CROSS_SITE = "lastacross.is_cross_site"
# Set to the exception that a handler raised, for the log line and the delivery's record.
FAILURE = "lastacross.failure"
# A list of the exceptions that a framework has turned into pages of its own. A copy of the environ shares it.
FRAMEWORK_ERRORS = "lastacross.framework_errors"
# Set while one of app.yaml's handlers answers, so that the response gets the application's security headers.
IS_APPLICATION = "lastacross.is_application"
# Set when a handler aborts (`self.abort(404)`), to the Refusal that our page should show.
REFUSAL = "lastacross.refusal"


@dataclass(frozen=True)
class Refusal:
    """An error response before its page is rendered; an empty message stands for the status's usual one."""

    status: int
    message: str = ""
    headers: Headers = field(default_factory=list)


class Refuse(Protocol):
    """Answers with an error page; this is the ``ErrorPages.refuse`` of the application."""

    def __call__(self, environ: Environ, start_response: Start, refusal: Refusal) -> Body:
        """Start the response and return its body."""


def is_internal(environ: Environ) -> bool:
    """Whether a worker or the scheduler made this request."""
    is_ours = environ.get(TASK) or environ.get(CRON) or environ.get(SYSTEM)
    return not environ.get(IS_OUTSIDE) and bool(is_ours)


def path_of(environ: Environ) -> str:
    """The decoded path. WSGI passes the bytes as Latin-1 (PEP 3333); invalid UTF-8 becomes U+FFFD."""
    raw: str = environ.get("PATH_INFO") or "/"
    return raw if raw.isascii() else raw.encode("latin-1", "replace").decode("utf-8", "replace")


def request_id_of(environ: Environ) -> str | None:
    """The request's id in the logs; None if it did not come through a web server."""
    found: str | None = environ.get(REQUEST_ID)
    return found


def wants_json(environ: Environ) -> bool:
    """Whether the client prefers ``application/json`` to HTML; HTML wins a tie or ``*/*``."""
    accept = environ.get("HTTP_ACCEPT")
    return bool(accept) and _prefers_json(str(accept))


def expect_program(environ: Environ) -> None:
    """Prefer JSON unless the client asks for HTML, because no browser sends a body that is refused unread."""
    if "text/html" not in str(environ.get("HTTP_ACCEPT", "")).lower():
        environ["HTTP_ACCEPT"] = "application/json"


@functools.lru_cache(maxsize=256)
def _prefers_json(accept: str) -> bool:
    offers = create_accept_header(accept).acceptable_offers(["text/html", "application/json"])
    return bool(offers) and offers[0][0] == "application/json"


def is_https(environ: Environ) -> bool:
    """Whether the client uses TLS, according to the server or a proxy that it trusts."""
    return bool(environ.get("wsgi.url_scheme") == "https")


def intercept(start_response: Start, change: Callable[[str, Headers], Headers]) -> Start:
    """A ``start_response`` that first passes the status and headers through ``change``."""

    def start(
        status: str, headers: Headers, exc_info: "OptExcInfo | None" = None, /
    ) -> Callable[[bytes], object]:
        return start_response(status, change(status, headers), exc_info)

    return start


class ClosingBody:
    """A response body that calls ``on_close`` when the server is done with it (PEP 3333)."""

    def __init__(self, body: Body, on_close: Callable[[], None]) -> None:
        self._body = body
        self._on_close = on_close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """Close the inner body, then call ``on_close``."""
        try:
            close(self._body)
        finally:
            self._on_close()


def run_and_close(
    application: Wsgi, environ: Environ, start_response: Start, on_close: Callable[[], None]
) -> Body:
    """The response; ``on_close`` is called after it, or immediately if the application raises."""
    try:
        return ClosingBody(application(environ, start_response), on_close)
    except BaseException:
        on_close()
        raise


def close(body: Any) -> None:
    """Call a response body's ``close``, as PEP 3333 requires of its consumer."""
    closer = getattr(body, "close", None)
    if closer is not None:
        closer()


def note_missing_url(environ: Environ) -> None:
    """Give a task whose URL has no handler a reason that distinguishes a rolling release from a wrong URL."""
    task = environ.get(TASK)
    if task is not None:
        path = path_of(environ)
        task.failure = f"this worker does not have {path}: is it older than the code that enqueued it?"
