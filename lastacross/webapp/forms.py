"""The form of a request: read once, bounded, and kept where WebOb finds it.

All of WebOb's requests find it there, the application's own kinds of them too. WebOb's own reader, which
takes any number of fields and any time, is not run.
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
    """How much a form may have, None for any amount.

    ``fields`` counts them, files too; ``size`` is in bytes, those of files not counted.
    """

    fields: int | None = None
    size: int | None = None


UNLIMITED = Limits()


def read(environ: Environ, make_body_seekable: Callable[[], None]) -> Any:
    """The fields of any form, kept; NoVars where there is none.

    For a request that nobody has looked at: a task's, or one whose body the application has replaced.

    Args:
        environ: the request.
        make_body_seekable: makes it so that the body can be rewound.

    Raises:
        FormError: it cannot be read.
    """
    kind = kind_of(environ)
    if not (kind.kind in FORMS or _is_unnamed(environ, kind)):
        return NoVars(f"Not an HTML form submission (Content-Type: {kind.kind})")
    if not _is_readable(kind):
        raise FormError(400, UNREADABLE)
    make_body_seekable()
    fields, _files = _read(environ, kind, UNLIMITED)
    webob_compat.keep_form(environ, fields)
    return fields


def take_in(environ: Environ, limits: Limits) -> Files | None:
    """Read the form of a request whose body is there and can be rewound, if it has one.

    Returns:
        The form's files, to be closed after the request; None if it has none.

    Raises:
        FormError: it has too much of something, or cannot be read.
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
        # Then it is anything, as HTTP has it: what was not said to be a form need not be one.
        fields, files = NoVars("The body has no Content-Type, and is not a form"), None
    webob_compat.keep_form(environ, fields)
    environ["wsgi.input"].seek(0)
    return files


def _check_foreign(environ: Environ, kind: ContentType, limits: Limits) -> None:
    """A form in any other charset is for a handler that reads it itself."""
    if kind.kind == MULTIPART:
        raise FormError(400, UNREADABLE)
    body: IO[bytes] = environ["wsgi.input"]
    if limits.fields is not None and body.read().count(b"&") >= limits.fields:
        raise FormError.of_fields(limits.fields)
    body.seek(0)


def kind_of(environ: Environ) -> ContentType:
    """The Content-Type of the body; that of a form is written in small letters, as WebOb knows it."""
    header = environ.get("CONTENT_TYPE") or ""
    kind = content_type.parse(header)
    if kind.kind in FORMS:
        written, semicolon, rest = header.partition(";")
        if written != kind.kind:
            environ["CONTENT_TYPE"] = kind.kind + semicolon + rest
    return kind


def _is_readable(kind: ContentType) -> bool:
    # The parts of a form have charsets of their own; of the form's WebOb takes UTF-8 only.
    return kind.charset == "utf-8" or (kind.kind == FORM and kind.charset in FORM_CHARSETS)


def _is_unnamed(environ: Environ, kind: ContentType) -> bool:
    return not kind.kind and environ.get("REQUEST_METHOD") == "POST"


def _read(environ: Environ, kind: ContentType, limits: Limits) -> tuple[Any, Files | None]:
    # As WebOb: a header that is there and empty says that it is not a form.
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
