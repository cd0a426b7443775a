"""Writes one log line per request, ``request.answer``, and sets the request id in every log line.

The line omits the query string, because that is where channel tokens and bookmarkable keys travel.
"""

import re
import secrets

from lastacross import log_context, logs
from lastacross.clock import SYSTEM, Clock
from lastacross.webapp.boundary import PROBES
from lastacross.webapp.environ import (
    REQUEST_ID,
    Body,
    Environ,
    Headers,
    Layer,
    Start,
    Wsgi,
    intercept,
    path_of,
    run_and_close,
)

REQUEST_ID_HEADER = "X-Request-Id"
# Keep a proxy's well-formed id, so that its log can be matched with ours; replace anything else.
_WELL_FORMED = re.compile(r"[A-Za-z0-9_-]{16,64}")


def give_request_id(application: Wsgi) -> Wsgi:
    """Give the request an id, and put the id in the environ, each log line and the X-Request-Id header."""

    def identified(environ: Environ, start_response: Start) -> Body:
        request_id = choose_request_id(environ.get("HTTP_X_REQUEST_ID"))
        environ[REQUEST_ID] = environ["HTTP_X_REQUEST_ID"] = request_id
        log_context.web_request_id.set(request_id)

        def with_id(_status: str, headers: Headers) -> Headers:
            others = [(name, value) for name, value in headers if name.lower() != REQUEST_ID_HEADER.lower()]
            return [*others, (REQUEST_ID_HEADER, request_id)]

        def forget() -> None:
            log_context.web_request_id.set("")

        return run_and_close(application, environ, intercept(start_response, with_id), forget)

    return identified


def choose_request_id(offered: str | None) -> str:
    """The id sent by the client or a proxy if it is well-formed, otherwise a new one."""
    return offered if offered and _WELL_FORMED.fullmatch(offered) else secrets.token_urlsafe(16)


_log = logs.get(__name__)


def log_answers(clock: Clock = SYSTEM, *, is_dev: bool = False) -> Layer:
    """Log the method, path, status and duration in milliseconds once the whole response has been sent.

    Under ``is_dev``, successful probes are left out, because they would hide the requests of the developer.
    """

    def logged_by(application: Wsgi) -> Wsgi:
        def logged(environ: Environ, start_response: Start) -> Body:
            started_at = clock.monotonic()
            answered: list[str] = []
            # Read the path now, because an application may rewrite PATH_INFO (PEP 3333 allows it).
            method, path = str(environ.get("REQUEST_METHOD")), path_of(environ)

            def note(status: str, headers: Headers) -> Headers:
                answered.append(status)
                return headers

            def finish() -> None:
                milliseconds = round((clock.monotonic() - started_at) * 1000, 1)
                status = int(answered[-1].split(" ", 1)[0]) if answered else 500
                if is_dev and status < 400 and path in PROBES:
                    return
                _log.info("request.answer", method=method, path=path, status=status, ms=milliseconds)

            return run_and_close(application, environ, intercept(start_response, note), finish)

        return logged

    return logged_by
