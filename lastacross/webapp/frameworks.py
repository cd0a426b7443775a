"""Learns which exception a framework has turned into an error page.

Flask and Django answer an exception with a page of their own and announce it by a signal. The engine connects
to the signals of the frameworks that the application has imported, and imports neither itself. Starlette
raises the exception again after its page, where ``asgi`` sees it.
"""

import contextlib
import sys
from typing import Any

from lastacross.webapp.environ import FRAMEWORK_ERRORS, Environ


def watch() -> None:
    """Connect to the frameworks that have been imported by now; may be called any number of times."""
    # Both libraries keep one connection per receiver.
    flask = sys.modules.get("flask.signals")
    # Before 2.3, Flask has signals only if blinker is installed.
    if flask is not None and getattr(flask, "signals_available", True):
        flask.got_request_exception.connect(_note_error_of_flask)
    django = sys.modules.get("django.core.signals")
    if django is not None:
        django.got_request_exception.connect(_note_error_of_django)


def note(environ: Environ | None, error: BaseException | None) -> None:
    """Record the exception for the layer that reports failures; without a request of ours, do nothing."""
    noted = (environ or {}).get(FRAMEWORK_ERRORS)
    if noted is not None and error is not None:
        noted.append(error)


def context_of(application: Any, environ: Environ) -> contextlib.AbstractContextManager[Any]:
    """Flask's context for this request, in which its templates and sessions work; nothing for others."""
    flask = sys.modules.get("flask")
    if flask is not None and isinstance(application, flask.Flask):
        context: contextlib.AbstractContextManager[Any] = application.request_context(environ)
        return context
    return contextlib.nullcontext()


def _note_error_of_flask(_sender: Any, exception: BaseException | None = None, **_rest: Any) -> None:
    flask = sys.modules["flask"]
    if flask.has_request_context():
        note(flask.request.environ, exception)


def _note_error_of_django(request: Any = None, **_rest: Any) -> None:
    scope = getattr(request, "scope", None) or {}
    # Django sends the signal while it handles the exception.
    note(getattr(request, "environ", None) or scope.get("wsgi_environ"), sys.exc_info()[1])
