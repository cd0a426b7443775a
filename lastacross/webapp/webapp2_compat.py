"""Makes webapp2 applications find routes faster and leave errors to our layers.

webapp2 3.0.0b1 logs an exception itself and answers with WebOb's bare page. That can be changed through
webapp2's own table of error handlers, so applications need no changes. Each route that webapp2 tries asks the
request for its path, and WebOb quotes the path anew each time. We read a form
that is in memory, such as a task's, without WebOb's code for uploaded files. ``webapp2_extras.jinja2`` loads
two extensions that Jinja2 3.1 has built in and no longer names.
"""

import functools
from typing import Any

import webapp2
from webob import exc
from webob.multidict import NestedMultiDict

from lastacross.webapp import forms, webob_compat
from lastacross.webapp.environ import FAILURE, REFUSAL, Refusal, Wsgi, note_missing_url

# Our error pages replace the pages of WebOb's exceptions but keep these of their headers.
KEPT_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")
_PARAMS = "lastacross.params"
_JINJA2 = "webapp2_extras.jinja2"
_BUILT_IN_EXTENSIONS = ("jinja2.ext.autoescape", "jinja2.ext.with_")
# The environ key for the encoding of addresses, for applications that do not use UTF-8.
_ENCODING = "webob.url_encoding"


@functools.lru_cache(maxsize=512)
def _quoted(script_name: str, path_info: str) -> str:
    """``Request.path`` as WebOb computes it."""
    return str(webapp2.Request({"SCRIPT_NAME": script_name, "PATH_INFO": path_info}).path)


class _Request(webapp2.Request):  # type: ignore[misc]
    """webapp2's request class, except that it quotes its path and builds its fields only once."""

    @property
    def path(self) -> str:
        """Same as WebOb's, but recomputed only if the application has rewritten its parts."""
        environ = self.environ
        if _ENCODING in environ:
            return str(super().path)
        return _quoted(environ.get("SCRIPT_NAME", ""), environ["PATH_INFO"])

    @property
    def POST(self) -> Any:
        """Same as WebOb's: the form's fields, which have already been read for requests from outside.

        Raises:
            FormError: the form cannot be read.
        """
        kept = webob_compat.kept_form(self.environ)
        return forms.read(self.environ, self.make_body_seekable) if kept is None else kept

    @property
    def cookies(self) -> Any:
        """Same as WebOb's."""
        return webob_compat.Cookies(self.environ)

    @cookies.setter
    def cookies(self, cookies: Any) -> None:
        self.environ.pop("HTTP_COOKIE", None)
        webob_compat.Cookies(self.environ).update(cookies)

    @property
    def params(self) -> Any:
        """Same as WebOb's: the fields of the query and the form, rebuilt only when one of them changes."""
        get, post = self.GET, self.POST
        known = self.environ.get(_PARAMS)
        if known is None or known.dicts[0] is not get or known.dicts[1] is not post:
            known = self.environ[_PARAMS] = NestedMultiDict(get, post)
        return known


def prepare(application: Wsgi) -> Wsgi:
    """Leave a webapp2 application's errors to our layers unless it handles them itself."""
    if isinstance(application, webapp2.WSGIApplication):
        _leave_out_built_in_extensions(application.config)
        if application.request_class is webapp2.Request:
            application.request_class = _Request
        for status in sorted(exc.status_map):
            if status >= 400:
                application.error_handlers.setdefault(status, note_error)
    return application


def _leave_out_built_in_extensions(settings: Any) -> None:
    """Keep ``webapp2_extras.jinja2`` from loading the extensions that Jinja2 3.1 has built in."""
    given = settings.get(_JINJA2) or {}
    arguments = given.get("environment_args", {"autoescape": True})
    wanted = [name for name in arguments.get("extensions", ()) if name not in _BUILT_IN_EXTENSIONS]
    settings[_JINJA2] = {**given, "environment_args": {**arguments, "extensions": wanted}}


def note_error(request: Any, response: Any, error: Exception) -> Any:
    """Store the error in the environ for the layer that answers it; this is webapp2's error handler.

    An ``HTTPException`` with a body written by the application is sent unchanged.
    """
    if not isinstance(error, exc.HTTPException):
        request.environ[FAILURE] = error
        return webapp2.Response(status=500)
    if error.has_body:
        return error
    if error.code == 404 and getattr(request, "route", None) is None:
        note_missing_url(request.environ)
    headers = [(name, value) for name, value in error.headerlist if name in KEPT_HEADERS]
    request.environ[REFUSAL] = Refusal(error.code, str(error.detail or "").strip(), headers)
    return webapp2.Response(status=error.code)
