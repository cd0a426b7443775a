"""webapp2 applications, made to leave their errors to our layers, and to find a route sooner.

webapp2 3.0.0b1 logs an exception itself and answers with WebOb's bare page. Its own table of
error handlers is enough to change that, so the application's code needs no line of ours. Each route that
it tries asks the request for its path, which WebOb quotes anew each time. And a form that is in memory, as
each task's is, is read without the machinery that WebOb has for files.
"""

import functools
from typing import Any

import webapp2
from webob import exc
from webob.multidict import NestedMultiDict

from lastacross.webapp import forms, webob_compat
from lastacross.webapp.environ import FAILURE, REFUSAL, Refusal, Wsgi

# WebOb's exceptions carry a page of their own; only these headers of theirs say more than ours.
KEPT_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")
_PARAMS = "lastacross.params"
# Where an application says that its addresses are not UTF-8.
_ENCODING = "webob.url_encoding"


@functools.lru_cache(maxsize=512)
def _quoted(script_name: str, path_info: str) -> str:
    """``Request.path`` as WebOb makes it."""
    return str(webapp2.Request({"SCRIPT_NAME": script_name, "PATH_INFO": path_info}).path)


class _Request(webapp2.Request):  # type: ignore[misc]
    """webapp2's, which quotes a path once, and makes its fields once."""

    @property
    def path(self) -> str:
        """As WebOb's. An application may rewrite what it is made of, so that is looked at."""
        environ = self.environ
        if _ENCODING in environ:
            return str(super().path)
        return _quoted(environ.get("SCRIPT_NAME", ""), environ["PATH_INFO"])

    @property
    def POST(self) -> Any:
        """As WebOb's: the fields of the form, those of a request from outside as they were read before.

        Raises:
            FormError: it cannot be read.
        """
        kept = webob_compat.kept_form(self.environ)
        return forms.read(self.environ, self.make_body_seekable) if kept is None else kept

    @property
    def cookies(self) -> Any:
        """As WebOb's."""
        return webob_compat.Cookies(self.environ)

    @cookies.setter
    def cookies(self, cookies: Any) -> None:
        self.environ.pop("HTTP_COOKIE", None)
        webob_compat.Cookies(self.environ).update(cookies)

    @property
    def params(self) -> Any:
        """As WebOb's: the fields of the address and of the form. It is the same for as long as those are."""
        get, post = self.GET, self.POST
        known = self.environ.get(_PARAMS)
        if known is None or known.dicts[0] is not get or known.dicts[1] is not post:
            known = self.environ[_PARAMS] = NestedMultiDict(get, post)
        return known


def prepare(application: Wsgi) -> Wsgi:
    """The application, its errors left to our layers where it is webapp2's and handles none itself."""
    if isinstance(application, webapp2.WSGIApplication):
        if application.request_class is webapp2.Request:
            application.request_class = _Request
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
