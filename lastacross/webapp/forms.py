"""Reads a request's form once, within limits, and stores it where WebOb looks for it.

Every WebOb request class finds the form there, including the application's subclasses. WebOb's own reader
accepts any number of fields and has no time limit, so it never runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from webob.multidict import MultiDict, NoVars

from lastacross.webapp import content_type, urlencoded, webob_compat
from lastacross.webapp.content_type import FORM, FORM_CHARSETS, FORMS, MULTIPART, ContentType
from lastacross.webapp.environ import Environ
from lastacross.webapp.form_error import UNREADABLE, FormError
from lastacross.webapp.multipart_form import Files, Reader


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits on a form, None for no limit.

    ``fields`` is the number of fields including files; ``size`` is in bytes and excludes files.
    """

    fields: int | None = None
    size: int | None = None


UNLIMITED = Limits()


def read(environ: Environ, make_body_seekable: Callable[[], None]) -> Any:
    """The fields of any form, stored for WebOb; NoVars if there is no form.

    Use it for a request that has not been read before: a task's request, or one whose body the application
    has replaced.

    Args:
        environ: the request.
        make_body_seekable: a callable that makes the request's body seekable.

    Raises:
        FormError: the form cannot be read.
    """
    kind = kind_of(environ)
    if not (kind.kind in FORMS or _is_unnamed(environ, kind)):
        return NoVars(f"Not an HTML form submission (Content-Type: {kind.kind})")
    if not _is_readable(kind):
        raise FormError(400, UNREADABLE)
    if not webob_compat.is_in_memory(environ):
        make_body_seekable()
    fields, _files = _read(environ, kind, UNLIMITED)
    webob_compat.keep_form(environ, fields)
    return fields


def read_limited(environ: Environ, limits: Limits) -> Files | None:
    """Read the form, if any, of a request whose whole body is available and seekable.

    Returns:
        The form's files, to be closed after the request; None if there is no form.

    Raises:
        FormError: the form exceeds a limit or cannot be read.
    """
    kind = kind_of(environ)
    is_unnamed = _is_unnamed(environ, kind)
    if not (kind.kind in FORMS or is_unnamed):
        return None
    if not _is_readable(kind):
        _check_foreign(environ, kind, limits)
        return None
    try:
        fields, files = _read(environ, kind, limits)
    except FormError:
        if not is_unnamed:
            raise
        # HTTP leaves the type of an undeclared body open, so it need not be a form.
        fields, files = NoVars("The body has no Content-Type, and is not a form"), None
    webob_compat.keep_form(environ, fields)
    environ["wsgi.input"].seek(0)
    return files


def _check_foreign(environ: Environ, kind: ContentType, limits: Limits) -> None:
    """Leave a form in any other charset to the handler, which must read it itself."""
    if kind.kind == MULTIPART:
        raise FormError(400, UNREADABLE)
    body: IO[bytes] = environ["wsgi.input"]
    if limits.fields is not None and body.read().count(b"&") >= limits.fields:
        raise FormError.of_fields(limits.fields)
    body.seek(0)


def kind_of(environ: Environ) -> ContentType:
    """The Content-Type of the body; a form's type is rewritten in lower case, because WebOb expects that."""
    header = environ.get("CONTENT_TYPE") or ""
    kind = content_type.parse(header)
    if kind.kind in FORMS:
        written, semicolon, rest = header.partition(";")
        if written != kind.kind:
            environ["CONTENT_TYPE"] = kind.kind + semicolon + rest
    return kind


def _is_readable(kind: ContentType) -> bool:
    # The parts of a form declare their own charsets, but for the form itself WebOb accepts only UTF-8.
    return kind.charset == "utf-8" or (kind.kind == FORM and kind.charset in FORM_CHARSETS)


def _is_unnamed(environ: Environ, kind: ContentType) -> bool:
    return not kind.kind and environ.get("REQUEST_METHOD") == "POST"


def _read(environ: Environ, kind: ContentType, limits: Limits) -> tuple[Any, Files | None]:
    # Like WebOb, take an empty header to mean that the body is not a form.
    is_empty = environ.get("REQUEST_METHOD") in ("GET", "HEAD") or environ.get("CONTENT_TYPE") == ""
    if is_empty:
        return MultiDict(), None
    body: IO[bytes] = environ["wsgi.input"]
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body.seek(0)
    if kind.kind != MULTIPART:
        if limits.size is not None and length > limits.size:
            raise FormError.of_bytes(limits.size)
        return MultiDict(urlencoded.parse(body.read(length), limits.fields, kind.charset or "utf-8")), None
    if kind.boundary is None:
        raise FormError(400, UNREADABLE)
    files = Files(length)
    try:
        fields = Reader(kind.boundary, limits.fields, limits.size, files).fields(body, length)
    except BaseException:
        files.close()
        raise
    return MultiDict(fields), files
