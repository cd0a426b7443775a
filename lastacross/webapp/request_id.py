"""The id under which everything about one request is found in the logs."""

import re
import secrets

import structlog

from lastacross.webapp.environ import (
    REQUEST_ID,
    Body,
    Environ,
    Headers,
    Start,
    Wsgi,
    intercept,
    run_and_close,
)

HEADER = "X-Request-Id"
# A proxy's id is kept, so that its log and ours meet; anything that is not plainly one is not.
_WELL_FORMED = re.compile(r"[A-Za-z0-9_-]{16,64}")


def layer(application: Wsgi) -> Wsgi:
    """Give the request an id: in the environ, in each log line, and in the answer's X-Request-Id."""

    def identified(environ: Environ, start_response: Start) -> Body:
        request_id = choose(environ.get("HTTP_X_REQUEST_ID"))
        environ[REQUEST_ID] = environ["HTTP_X_REQUEST_ID"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)

        def with_id(_status: str, headers: Headers) -> Headers:
            others = [(name, value) for name, value in headers if name.lower() != HEADER.lower()]
            return [*others, (HEADER, request_id)]

        def forget() -> None:
            structlog.contextvars.unbind_contextvars("request_id")

        return run_and_close(application, environ, intercept(start_response, with_id), forget)

    return identified


def choose(offered: str | None) -> str:
    """The id that the client or a proxy offers if it is well-formed, else a new one."""
    return offered if offered and _WELL_FORMED.fullmatch(offered) else secrets.token_urlsafe(16)
