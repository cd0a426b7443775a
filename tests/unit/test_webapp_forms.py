"""Forms of tasks: read in another way than WebOb's, with the same result."""

import io
from typing import Any

import pytest
import webapp2
from hypothesis import given
from hypothesis import strategies as st

from lastacross.webapp import forms
from lastacross.webapp.webapp2_compat import prepare

FORM = "application/x-www-form-urlencoded"

prepared = webapp2.WSGIApplication([])
prepare(prepared)


def environ_of(body: bytes, **changes: Any) -> dict[str, Any]:
    """A task's request with this body."""
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/work",
        "QUERY_STRING": "",
        "CONTENT_TYPE": FORM,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "wsgi.url_scheme": "http",
        "webob.is_body_seekable": True,
        "HTTP_HOST": "localhost",
    }
    return {key: value for key, value in (environ | changes).items() if value is not None}


def both(body: bytes, **changes: Any) -> list[list[tuple[str, str]]]:
    """The form as webapp2's own request reads it, and as ours does."""
    read = []
    for cls in (webapp2.Request, prepared.request_class):
        request = cls(environ_of(body, **changes))
        read.append(list(request.POST.items()))
        # WebOb may have copied it into a file.
        request.environ["wsgi.input"].close()
    return read


@given(st.binary(max_size=60) | st.text(alphabet="ab=&;%+ äü%c3%A4\x00\r\n_", max_size=60).map(str.encode))
def test_any_body_is_read_as_webob_reads_it(body: bytes) -> None:
    theirs, ours = both(body)

    assert ours == theirs


@pytest.mark.parametrize(
    "changes",
    [
        {"REQUEST_METHOD": "PUT"},
        {"REQUEST_METHOD": "GET"},
        {"CONTENT_TYPE": ""},
        {"CONTENT_TYPE": None},
        {"CONTENT_TYPE": f"{FORM}; charset=utf-8"},
        {"CONTENT_TYPE": "text/plain"},
        {"CONTENT_LENGTH": "3"},
        {"CONTENT_LENGTH": "0"},
        {"CONTENT_LENGTH": None},
        {"webob.is_body_seekable": None},
    ],
)
def test_other_requests_are_read_as_webob_reads_them(changes: dict[str, Any]) -> None:
    theirs, ours = both(b"a=1&b=2&a=%C3%A4", **changes)

    assert ours == theirs


def test_the_body_can_be_read_after_the_form() -> None:
    request = prepared.request_class(environ_of(b"a=1&a=2"))

    assert request.get_all("a") == ["1", "2"]
    assert request.body == b"a=1&a=2"


def test_a_body_that_the_application_replaces_is_read_anew() -> None:
    request = prepared.request_class(environ_of(b"a=1"))
    assert request.get("a") == "1"

    request.body = b"a=2"

    assert request.get("a") == "2"


@pytest.mark.parametrize("charset", ["us-ascii", "latin-1", "iso-8859-15", "windows-1252"])
@pytest.mark.parametrize("is_outside", [True, False])
def test_a_form_may_name_another_charset_of_the_west(charset: str, is_outside: bool) -> None:
    """WebOb refuses these."""
    text = "a" if charset == "us-ascii" else "ä"
    raw = text.encode(charset)
    body = b"%b=%b+%%%02x" % (raw, raw, raw[0])
    environ = environ_of(body, CONTENT_TYPE=f"{FORM}; charset={charset}")
    if is_outside:
        forms.read_limited(environ, forms.UNLIMITED)

    assert list(prepared.request_class(environ).POST.items()) == [(text, f"{text} {text}")]


@pytest.mark.parametrize("kind", [FORM.upper(), f"{FORM.title()} ; charset=UTF-8"])
def test_a_type_is_the_same_in_capitals(kind: str) -> None:
    _, ours = both(b"a=1", CONTENT_TYPE=kind)

    assert ours == [("a", "1")]


def test_a_field_is_found_in_the_address_first_and_in_what_the_application_made_of_it() -> None:
    for cls in (webapp2.Request, prepared.request_class):
        request = cls(environ_of(b"a=form&b=1", QUERY_STRING="a=address"))
        assert request.get_all("a") == ["address", "form"]

        request.GET["a"] = "changed"
        request.POST["b"] = "2"
        assert (request.get("a"), request.get("b")) == ("changed", "2")

        request.environ["QUERY_STRING"] = "a=replaced"
        request.body = b"b=3"
        assert (request.get("a"), request.get("b"), request.get_all("a")) == ("replaced", "3", ["replaced"])


@given(st.text(alphabet="/ab%ä~ \x00", max_size=20), st.sampled_from(["", "/sub", "/ü"]))
def test_a_path_is_quoted_as_webob_quotes_it(path: str, script_name: str) -> None:
    raw = {key: value.encode().decode("latin-1") for key, value in (("path", path), ("script", script_name))}
    environ = environ_of(b"", PATH_INFO=raw["path"], SCRIPT_NAME=raw["script"])
    ours, theirs = prepared.request_class(environ), webapp2.Request(environ)

    assert ours.path == theirs.path
    environ["PATH_INFO"] = "/rewritten"
    assert ours.path == theirs.path
    environ["webob.url_encoding"] = "latin-1"
    assert ours.path == theirs.path
