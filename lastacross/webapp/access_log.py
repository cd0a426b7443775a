"""One log line for each request: ``request.answer``.

Without the query string: channel tokens and bookmarkable keys travel there.
"""

from lastacross import logs
from lastacross.clock import SYSTEM, Clock
from lastacross.webapp.environ import (
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

_log = logs.get(__name__)


def layer(clock: Clock = SYSTEM) -> Layer:
    """Log method, path, status and milliseconds when the answer has been sent to its end."""

    def logged_by(application: Wsgi) -> Wsgi:
        def logged(environ: Environ, start_response: Start) -> Body:
            started_at = clock.monotonic()
            answered: list[str] = []
            # Read now: an application may rewrite PATH_INFO (PEP 3333 lets it).
            method, path = str(environ.get("REQUEST_METHOD")), path_of(environ)

            def note(status: str, headers: Headers) -> Headers:
                answered.append(status)
                return headers

            def finish() -> None:
                milliseconds = round((clock.monotonic() - started_at) * 1000, 1)
                status = int(answered[-1].split(" ", 1)[0]) if answered else 500
                _log.info("request.answer", method=method, path=path, status=status, ms=milliseconds)

            return run_and_close(application, environ, intercept(start_response, note), finish)

        return logged

    return logged_by
