"""The inside of WebOb that we rely on: where it keeps what it has read, so that it does not read it again.

None of it is documented: tests/unit/test_webob_compat.py names the versions of which it is known to be true.
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
_COOKIES = "webob._parsed_cookies"

# The code that reads a form, to be found in a traceback.
READ_FORM = BaseRequest.POST.fget.__code__


def keep_form(environ: Environ, fields: Any) -> None:
    """Let ``Request.POST`` be these fields for as long as the body is not replaced."""
    environ[_FORM] = (fields, environ["wsgi.input"])


def kept_form(environ: Environ) -> Any:
    """The fields that were kept for this body; None if there are none."""
    found: tuple[Any, Any] | None = environ.get(_FORM)
    return found[0] if found is not None and found[1] is environ["wsgi.input"] else None


def keep_cookies(environ: Environ, header: str) -> None:
    """Read this Cookie header, so that ``Request.cookies`` need not."""
    environ[_COOKIES] = (cookies.parse(header), header)


def has_parameters(authorization: str) -> bool:
    """Whether WebOb looks for parameters in this Authorization header, from each of its letters anew."""
    scheme, _, rest = authorization.partition(" ")
    return scheme in known_auth_schemes and (scheme != "Basic" or '"' in rest)


class Cookies(RequestCookies):  # type: ignore[misc]
    """``Request.cookies``, which reads and changes the header in linear time."""

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
    """A file of a form: what ``cgi.FieldStorage`` says of one, without its parser.

    An application may ask whether it is an instance of that class, as webapp2 does in ``Request.get``.

    Args:
        name: of the field.
        filename: as its sender calls it.
        kind: its Content-Type.
        header_list: the headers of its part of the form.
        opened: makes the file, which is open at its beginning, when it is asked for.
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
        # Not that of the class above, which would read.
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
        """The headers of its part."""
        return Headers(self._header_list)

    @functools.cached_property
    def file(self) -> IO[bytes]:
        """The bytes as a file, each time the same one."""
        return self._opened()

    def __del__(self) -> None:
        """Not that of the class above, which closes the file: whoever made it does."""

    def __repr__(self) -> str:
        return f"UploadedFile({self.name!r}, {self.filename!r})"
