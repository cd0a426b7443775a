"""Makes webapp2 applications find routes faster and leave errors to our layers.

webapp2 3.0.0b1 logs an exception itself and answers with WebOb's bare page. That can be changed through
webapp2's own table of error handlers, so applications need no changes. Each route that webapp2 tries asks the
request for its path, and WebOb quotes the path anew each time. We read a form
that is in memory, such as a task's, without WebOb's code for uploaded files, and make requests and responses
without repeating what is the same for each of them. ``webapp2_extras.jinja2`` loads
two extensions that Jinja2 3.1 has built in and no longer names.
"""

import functools
from typing import Any

import webapp2
from webob import exc
from webob.multidict import MultiDict, NestedMultiDict

from lastacross.webapp import forms, webob_compat
from lastacross.webapp.environ import FAILURE, REFUSAL, Refusal, Wsgi, note_missing_url

# Our error pages replace the pages of WebOb's exceptions but keep these of their headers.
KEPT_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")
_PARAMS = "lastacross.params"
_JINJA2 = "webapp2_extras.jinja2"
_BUILT_IN_EXTENSIONS = ("jinja2.ext.autoescape", "jinja2.ext.with_")
# The environ key for the encoding of addresses, for applications that do not use UTF-8.
_ENCODING = "webob.url_encoding"
# webapp2's class declares these attributes, so WebOb does not keep them in the environ.
_PLAIN_ATTRIBUTES = frozenset({"app", "response", "route", "route_args", "route_kwargs", "registry"})


@functools.lru_cache(maxsize=512)
def _quoted(script_name: str, path_info: str) -> str:
    """``Request.path`` as WebOb computes it."""
    return str(webapp2.Request({"SCRIPT_NAME": script_name, "PATH_INFO": path_info}).path)


class _Request(webapp2.Request):  # type: ignore[misc]
    """webapp2's request class, except that it quotes its path and builds its fields only once."""

    def __init__(self, environ: Any, *args: Any, **kwargs: Any) -> None:
        if args or kwargs or type(environ) is not dict:
            super().__init__(environ, *args, **kwargs)
        else:
            # The result is the same as that of the two constructors.
            self.__dict__.update(environ=environ, registry={})

    def __setattr__(self, name: str, value: Any) -> None:
        """Same as WebOb's, without its search for the attributes that webapp2 itself sets."""
        if name in _PLAIN_ATTRIBUTES:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

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
        query, post = self.environ.get("QUERY_STRING", ""), self.POST
        known = self.environ.get(_PARAMS)
        if known is None or known[0] != query or known[1].dicts[1] is not post:
            # WebOb's dict of the query refers to the environ, so each request would be left to the garbage
            # collector.
            get = self.GET if query else MultiDict()
            known = self.environ[_PARAMS] = (query, NestedMultiDict(get, post))
        return known[1]

    def get_all(self, argument_name: Any, default_value: Any = None) -> Any:
        """Same as webapp2's, which asks first for the request's charset and does not use it."""
        found = self.params.getall(argument_name)
        if not found:
            return [] if default_value is None else default_value
        return [each.value if isinstance(each, webapp2.cgi.FieldStorage) else each for each in found]


class _Response(webapp2.Response):  # type: ignore[misc]
    """webapp2's response class, except that its constructor computes its default values only once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args or kwargs or type(self) is not _Response:
            super().__init__(*args, **kwargs)
            return
        defaults = self.default_content_type, self.default_charset, self.default_conditional_response
        status, headers, is_conditional = _default_values(*defaults)
        self.__dict__.update(
            _status=status,
            _headers=None,
            _headerlist=list(headers),
            conditional_response=is_conditional,
            _app_iter=[b""],
        )


@functools.lru_cache(maxsize=16)
def _default_values(*_defaults: Any) -> tuple[str, tuple[tuple[str, str], ...], bool]:
    """The status, the headers and the kind of a response without arguments, with these class attributes."""
    made = webapp2.Response()
    return made.status, tuple(made.headerlist), made.conditional_response


def prepare(application: Wsgi) -> Wsgi:
    """Leave a webapp2 application's errors to our layers unless it handles them itself."""
    if isinstance(application, webapp2.WSGIApplication):
        _leave_out_built_in_extensions(application.config)
        if application.request_class is webapp2.Request:
            application.request_class = _Request
        if application.response_class is webapp2.Response:
            application.response_class = _Response
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
