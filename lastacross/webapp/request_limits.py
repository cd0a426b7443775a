"""Limits the cost of reading a request before the application's code runs.

The web server's own limits apply first: 100 headers of 8,190 bytes each, and an address of 4,094 bytes.
"""

from collections.abc import Mapping

from lastacross.webapp import content_type, forms, json_body, webob_compat
from lastacross.webapp.environ import (
    Body,
    Environ,
    Layer,
    Refusal,
    Refuse,
    Start,
    Wsgi,
    expect_program,
    run_and_close,
)
from lastacross.webapp.form_error import FIELDS_SETTING, FormError

MAX_HEADER_BYTES = 8_192
"""The limit for any header; servers join headers with the same name and may pass on 100 times as much."""

MAX_BYTES_OF: Mapping[str, int] = {
    "CONTENT_TYPE": 1_024,
    "HTTP_AUTHORIZATION": 1_024,
    "HTTP_RANGE": 1_024,
}
"""The limits for headers that WebOb parses in quadratic time; Authorization only if it has parameters."""

_LEAST = min(MAX_BYTES_OF.values())


def check_headers(refuse: Refuse) -> Layer:
    """Refuse a header that is too long for the code that reads it."""

    def layer(application: Wsgi) -> Wsgi:
        def checked(environ: Environ, start_response: Start) -> Body:
            too_long = [key for key, value in environ.items() if is_too_long(key, value)]
            if not too_long:
                return application(environ, start_response)
            for key in too_long:
                # The choice of the error page also depends on headers.
                del environ[key]
            return refuse(environ, start_response, refusal_of(too_long[0]))

        return checked

    return layer


def refusal_of(key: str) -> Refusal:
    """The response to a request with a header that is too long; the header is named by its environ key."""
    limit = MAX_BYTES_OF.get(key, MAX_HEADER_BYTES)
    name = key.removeprefix("HTTP_").replace("_", "-").title()
    return Refusal(431, f"The header {name} is longer than the {limit:,} bytes that this server accepts.")


def is_too_long(key: str, value: object) -> bool:
    """Whether this environ value is a header that is too long to read."""
    # Nearly all values are short. The server's own values are not strings, or clients cannot cause them to be
    # read.
    if not isinstance(value, str) or len(value) <= _LEAST:
        return False
    if key == "HTTP_AUTHORIZATION" and not webob_compat.has_parameters(value):
        return len(value) > MAX_HEADER_BYTES
    is_header = key.startswith("HTTP_") or key == "CONTENT_TYPE"
    return is_header and len(value) > MAX_BYTES_OF.get(key, MAX_HEADER_BYTES)


def read_once(limits: forms.Limits, refuse: Refuse) -> Layer:
    """Read the cookies and the form once, on behalf of all inner code, and reject them above a limit.

    This layer runs inside the one that makes the body complete and seekable.
    """

    def layer(application: Wsgi) -> Wsgi:
        def read(environ: Environ, start_response: Start) -> Body:
            try:
                _check_query(environ, limits)
                _check_body(environ, limits)
                files = forms.read_limited(environ, limits)
            except FormError as error:
                expect_program(environ)
                return refuse(environ, start_response, Refusal(error.status, str(error)))
            if "HTTP_COOKIE" in environ:
                webob_compat.keep_cookies(environ, environ["HTTP_COOKIE"])
            if files is None:
                return application(environ, start_response)
            return run_and_close(application, environ, start_response, files.close)

        return read

    return layer


def _check_query(environ: Environ, limits: forms.Limits) -> None:
    query = environ.get("QUERY_STRING", "")
    # WebOb splits the query at both characters.
    if limits.fields is not None and query.count("&") + query.count(";") >= limits.fields:
        raise FormError(
            400,
            f"The address has more than the {limits.fields:,} parameters that this server accepts "
            f"({FIELDS_SETTING}).",
        )


def _check_body(environ: Environ, limits: forms.Limits) -> None:
    if environ.get("CONTENT_LENGTH") in (None, "", "0"):
        return
    kind = content_type.parse(environ.get("CONTENT_TYPE") or "")
    if kind.charset is None:
        raise FormError(400, "The body's charset is unknown.")
    if kind.is_json:
        if kind.charset not in content_type.FORM_CHARSETS:
            # In some other charsets, a letter may contain the same byte as a quote.
            raise FormError(400, f"JSON must be UTF-8 (RFC 8259, section 8.1), not {kind.charset}.")
        body = environ["wsgi.input"]
        try:
            json_body.check(body.read())
        except json_body.BadJsonError as error:
            raise FormError(400, f"The JSON {error}.") from error
        finally:
            body.seek(0)
