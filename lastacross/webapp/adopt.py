"""webapp2 applications, made to leave their errors to our layers.

webapp2 3.0.0b1 logs an exception itself and answers with WebOb's bare page. Its own table of
error handlers is enough to change that, so the application's code needs no line of ours.
"""

from typing import Any

import webapp2
from webob import exc

from lastacross.webapp.environ import FAILURE, REFUSAL, Refusal, Wsgi

# WebOb's exceptions carry a page of their own; only these headers of theirs say more than ours.
KEPT_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")


def adopt(application: Wsgi) -> Wsgi:
    """The application, its errors left to our layers where it is webapp2's and handles none itself."""
    if isinstance(application, webapp2.WSGIApplication):
        for status in sorted(exc.status_map):
            if status >= 400:
                application.error_handlers.setdefault(status, note_error)
    return application


def note_error(request: Any, response: Any, error: Exception) -> Any:
    """webapp2's error handler: note what happened in the environ, for the layer that answers.

    An ``HTTPException`` whose body the application wrote is its own answer and stays.
    """
    if not isinstance(error, exc.HTTPException):
        request.environ[FAILURE] = error
        return webapp2.Response(status=500)
    if error.has_body:
        return error
    headers = [(name, value) for name, value in error.headerlist if name in KEPT_HEADERS]
    request.environ[REFUSAL] = Refusal(error.code, str(error.detail or "").strip(), headers)
    return webapp2.Response(status=error.code)
