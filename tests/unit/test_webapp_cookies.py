"""Cookies: read as WebOb reads them, in linear time."""

from typing import Any

import pytest
import webapp2
from hypothesis import given
from hypothesis import strategies as st
from webob.cookies import parse_cookie

from lastacross.webapp import cookies, webob_compat
from lastacross.webapp.webapp2_compat import prepare

prepared = webapp2.WSGIApplication([])
prepare(prepared)

NAMES = st.text(alphabet="abcXYZ019_.!#%&'*+^`|~-", min_size=1, max_size=8)
PLAIN = st.text(alphabet="abc019~!@#$%^&*()_+=-`.?|:/{}<>'", max_size=12)
QUOTED = st.text(alphabet="abc ,;=[]\\303\\\\", max_size=12).map(
    lambda text: '"' + text.replace('"', "") + '"'
)


@given(st.lists(st.tuples(NAMES, PLAIN), max_size=6), st.sampled_from(["; ", ";", ", ", ","]))
def test_plain_cookies_are_read_as_webob_reads_them(pairs: list[tuple[str, str]], between: str) -> None:
    header = between.join(f"{name}={value}" for name, value in pairs)
    theirs = {name.decode(): value.decode() for name, value in parse_cookie(header)}

    assert cookies.parse(header) == theirs


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", {}),
        ("a", {}),
        ("a=", {"a": ""}),
        ("a=1; a=2", {"a": "2"}),
        ("a = 1 ;b= 2", {"a": "1", "b": "2"}),
        ('a="b c, d; e"', {"a": "b c, d; e"}),
        (r'a="\303\244\"\054"', {"a": 'ä",'}),
        (r"a=\303\244", {"a": "ä"}),
        ('a="open; b=2', {"a": "", "b": "2"}),
        ("a=1; path=/; Expires=never; b=2", {"a": "1", "b": "2"}),
        ("$Version=1; a=1", {"a": "1"}),
        ("=1; =; ==; a=1", {"a": "1"}),
        ("a==1", {"a": "=1"}),
        ("junk a=1", {"a": "1"}),
        ("a=\xff; b=2", {"a": "", "b": "2"}),
    ],
)
def test_a_header_has_these_cookies(header: str, found: dict[str, str]) -> None:
    assert cookies.parse(header) == found
    assert {name.decode(): value.decode() for name, value in parse_cookie(header)} == found


def test_a_cookie_that_is_not_utf_8_is_left_out() -> None:
    """WebOb raises UnicodeDecodeError at the first look at any cookie."""
    assert cookies.parse(r'a="\377"; b=2') == {"b": "2"}


def test_what_was_read_is_what_any_request_of_webob_finds() -> None:
    environ: dict[str, Any] = {"HTTP_COOKIE": "a=1; b=2", "REQUEST_METHOD": "GET"}
    webob_compat.keep_cookies(environ, environ["HTTP_COOKIE"])

    # Not as the header says, so this is what was kept.
    environ["webob._parsed_cookies"][0]["a"] = "kept"
    assert dict(webapp2.Request(environ).cookies) == {"a": "kept", "b": "2"}
    environ["HTTP_COOKIE"] = "c=3"
    assert dict(webapp2.Request(environ).cookies) == {"c": "3"}


def test_an_application_can_change_the_cookies_of_its_request() -> None:
    for cls in (webapp2.Request, prepared.request_class):
        request = cls({"HTTP_COOKIE": "a=1; b=2", "REQUEST_METHOD": "GET"})
        request.cookies["a"] = "3"
        assert dict(request.cookies) == {"a": "3", "b": "2"}
        del request.cookies["b"]
        with pytest.raises(KeyError):
            del request.cookies["b"]
        assert dict(request.cookies) == {"a": "3"}
        request.cookies = {"c": "4"}
        assert dict(request.cookies) == {"c": "4"}
        assert request.environ["HTTP_COOKIE"] == "c=4"
