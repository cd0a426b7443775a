"""The WebOb internals that we rely on: the places where WebOb caches data that it has already read.

They are undocumented; tests/unit/test_webob_compat.py names the versions that they were checked with.
"""

import functools
from collections.abc import Callable, Mapping
from typing import IO, Any
from wsgiref.headers import Headers

from webob.compat import cgi_FieldStorage
from webob.cookies import RequestCookies, _value_quote
from webob.descriptors import known_auth_schemes
from webob.request import BaseRequest

from lastacross.webapp import cookies
from lastacross.webapp.content_type import ContentType
from lastacross.webapp.environ import Environ

_FORM = "webob._parsed_post_vars"
_IS_SEEKABLE = "webob.is_body_seekable"
_COOKIES = "webob._parsed_cookies"

# The code that reads a form; it is used to recognize such code in a traceback.
READ_FORM = BaseRequest.POST.fget.__code__


def keep_form(environ: Environ, fields: Any) -> None:
    """Make ``Request.POST`` return these fields for as long as the body is not replaced."""
    environ[_FORM] = (fields, environ["wsgi.input"])


def kept_form(environ: Environ) -> Any:
    """The fields stored for this body; None if none are stored."""
    found: tuple[Any, Any] | None = environ.get(_FORM)
    return found[0] if found is not None and found[1] is environ["wsgi.input"] else None


def is_in_memory(environ: Environ) -> bool:
    """Whether ``Request.make_body_seekable`` would only go to the beginning of the body."""
    return bool(environ.get(_IS_SEEKABLE)) and environ.get("CONTENT_LENGTH") not in (None, "", "0")


def keep_cookies(environ: Environ, header: str) -> None:
    """Parse this Cookie header and store the result for ``Request.cookies``."""
    environ[_COOKIES] = (cookies.parse(header), header)


def has_parameters(authorization: str) -> bool:
    """Whether WebOb would search this Authorization header for parameters starting at every letter."""
    scheme, _, rest = authorization.partition(" ")
    return scheme in known_auth_schemes and (scheme != "Basic" or '"' in rest)


class Cookies(RequestCookies):  # type: ignore[misc]
    """A replacement for ``Request.cookies`` that reads and changes the header in linear time."""

    @property
    def _cache(self) -> Mapping[str, str]:
        header = self._environ.get("HTTP_COOKIE", "")
        if self._environ.get(_COOKIES, ({}, None))[1] != header:
            keep_cookies(self._environ, header)
        found: Mapping[str, str] = self._environ[_COOKIES][0]
        return found

    def _mutate_header(self, name: str, value: str | None) -> bool:
        has_been_there = name in self._cache
        written = None if value is None else _value_quote(value.encode()).decode("latin-1")
        self._environ["HTTP_COOKIE"] = cookies.replaced(self._environ.get("HTTP_COOKIE", ""), name, written)
        return has_been_there


class UploadedFile(cgi_FieldStorage):  # type: ignore[misc]
    """An uploaded file with the interface of ``cgi.FieldStorage``, without its parser.

    It is a subclass, because an application may check for one with isinstance, as webapp2 does in
    ``Request.get``.

    Args:
        name: the field's name.
        filename: the file's name as given by the sender.
        kind: its Content-Type.
        header_list: the headers of the file's part of the form.
        opened: a callable that creates the file on first use, positioned at its beginning.
    """

    length = -1
    done = 1
    disposition = "form-data"

    def __init__(
        self,
        name: str,
        filename: str,
        kind: ContentType,
        *,
        header_list: list[tuple[str, str]],
        opened: Callable[[], IO[bytes]],
    ) -> None:
        # Do not call the base class's method, because it would read the body.
        self.list = None
        self.name = name
        self.filename = filename
        self.type = kind.kind
        self.type_options = kind.parameters
        self.disposition_options = {"name": name, "filename": filename}
        self._header_list = header_list
        self._opened = opened

    @functools.cached_property
    def headers(self) -> Headers:
        """The headers of the file's part of the form."""
        return Headers(self._header_list)

    @functools.cached_property
    def file(self) -> IO[bytes]:
        """The bytes as a file, which is always the same object."""
        return self._opened()

    def __del__(self) -> None:
        """Override the base class's method because it closes the file, which is the creator's job."""

    def __repr__(self) -> str:
        return f"UploadedFile({self.name!r}, {self.filename!r})"
