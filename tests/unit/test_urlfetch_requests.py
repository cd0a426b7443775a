"""What is asked for: URLs, methods, payloads and headers are checked before anything is sent."""

import pytest

from lastacross import urlfetch
from lastacross.errors import InvalidFetchUrlError
from lastacross.urlfetch.places import Place, place_of, redirected, shown
from lastacross.urlfetch.requests import Request, body_of, check_size, headers_of, method_name, response_limit
from lastacross.urlfetch.response import Headers, response_of

GOOD = [
    ("http://example.com", ("http", "example.com", 80, "/"), "example.com"),
    ("HTTP://Example.COM:80/a", ("http", "example.com", 80, "/a"), "example.com"),
    ("https://example.com:8443/a/../b?c=d&e#f", ("https", "example.com", 8443, "/a/../b?c=d&e"), None),
    ("https://example.com?", ("https", "example.com", 443, "/?"), "example.com"),
    ("http://example.com./%7Ea%2fb", ("http", "example.com.", 80, "/%7Ea%2fb"), "example.com."),
    ("http://[::1]:8080/", ("http", "::1", 8080, "/"), "[::1]:8080"),
    ("http://[0:0:0:0:0:0:0:1]/", ("http", "::1", 80, "/"), "[::1]"),
    ("http://bücher.example/ä?ö=1", ("http", "xn--bcher-kva.example", 80, "/%C3%A4?%C3%B6=1"), None),
    ("http://a_b.example/", ("http", "a_b.example", 80, "/"), None),
]


@pytest.mark.parametrize(("url", "parts", "authority"), GOOD)
def test_a_url_is_taken_apart(url: str, parts: tuple[object, ...], authority: str | None) -> None:
    place = place_of(url)

    assert (place.scheme, place.host, place.port, place.target) == parts
    assert authority in (None, place.authority)


@pytest.mark.parametrize(("limit", "bytes_"), [(1, 1), (65_536, 65_536), (2**40, 32 * 2**20)])
def test_an_answer_is_limited_as_it_is_said_to_32_mib_at_most(limit: int, bytes_: int) -> None:
    assert response_limit(limit) == bytes_


@pytest.mark.parametrize(
    ("limit", "problem"), [(0, ValueError), (-1, ValueError), (True, TypeError), ("1", TypeError)]
)
def test_a_limit_that_is_no_number_of_bytes_is_refused(limit: object, problem: type[Exception]) -> None:
    with pytest.raises(problem, match="a response limit must be"):
        response_limit(limit)


BAD = [
    ("", "does not begin with http"),
    ("example.com/x", "does not begin with http"),
    ("//example.com/x", "does not begin with http"),
    ("ftp://example.com/", "does not begin with http"),
    ("file:///etc/passwd", "does not begin with http"),
    ("gopher://127.0.0.1:6379/_", "does not begin with http"),
    ("http://", "does not name a host"),
    ("http:///path", "does not name a host"),
    ("http://user:secret@example.com/", "must not contain a user name or password"),
    ("http://@example.com/", "must not contain a user name or password"),
    ("http://example.com\\@10.0.0.1/", "must not contain a user name or password"),
    ("http://example.com\\10.0.0.1/", "neither a name nor an address"),
    ("http://exa mple.com/", "has ' ' at position 11; write it as %20"),
    ("http://example.com/a\r\nHost: b", "position 21; write it as %0D"),
    ("http://exam\tple.com/", "write it as %09"),
    ("http://example.com:0/", "has the port 0"),
    ("http://example.com:65536/", "is not a URL: Port out of range"),
    ("http://example.com:http/", "is not a URL"),
    ("http://[::1", "is not a URL"),
    ("http://[fe80::1%25eth0]/", "has an invalid IPv6 address"),
    ("http://%31%32%37.0.0.1/", "neither a name nor an address"),
    ("http://-a.example/", "neither a name nor an address"),
    ("http://a..ä.example/", "has an invalid host name"),
    ("http://example.com/" + "a" * 2065, "at most 2083 characters, but this one has 2084"),
    (None, "a URL must be str, not NoneType"),
    (b"http://example.com/", "a URL must be str, not bytes"),
]


@pytest.mark.parametrize(("url", "problem"), BAD)
def test_a_url_that_cannot_be_fetched_is_refused_in_words(url: object, problem: str) -> None:
    with pytest.raises(InvalidFetchUrlError) as raised:
        place_of(url)

    assert problem in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://example.com:81/a/b?token=secret#secret", "https://example.com:81/a/b"),
        ("https://me:secret@example.com/a", "https://example.com/a"),
        ("https://example.com/@me/a", "https://example.com/@me/a"),
        ("https://[::1]:81/@me", "https://[::1]:81/@me"),
        ("https://me:secret/secret@example.com/a", "https://…"),
        ("https://me:secret#secret@example.com/a", "https://…"),
        ("https:/me:secret@example.com/a", "…"),
        ("https://example.com/a secret", "https://example.com/a"),
        ("https://example.com/a'secret", "https://example.com/a"),
        ("example.com/a?secret", "example.com/a"),
        ("", ""),
    ],
)
def test_an_error_tells_of_a_url_neither_its_user_nor_its_query(url: str, told: str) -> None:
    assert shown(url) == told


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/?token=secret",
        "ftp://me:secret@example.com/",
        "example.com/x?token=secret",
        "http:///path?token=secret",
        "http://example.com/a b?token=secret",
        "http://example.com:0/?token=secret",
        "http://me:secret/x@example.com/",
        "http://me:secret@example.com:port/",
        "http://[::1?token=secret",
        "http://[me]/?token=secret",
        "http://-a.example/?token=secret",
        "http://a..ä.example/?token=secret",
        "https:/me:secret@example.com/",
    ],
)
def test_nor_does_one_that_says_what_is_wrong_with_a_url(url: str) -> None:
    with pytest.raises(InvalidFetchUrlError) as raised:
        place_of(url)

    assert "secret" not in str(raised.value)
    assert "secret" not in str(raised.value.__cause__), "it is written to logs as well"


def test_the_longest_url_is_taken() -> None:
    assert len(place_of("http://example.com/" + "a" * 2064).url) == 2083


REDIRECTS = [
    ("/b", "https://example.com:8443/b"),
    ("b?c", "https://example.com:8443/a/b?c"),
    ("?c", "https://example.com:8443/a/x?c"),
    ("//other.example/", "https://other.example/"),
    ("http://other.example", "http://other.example/"),
    ("/a b", "https://example.com:8443/a%20b"),
    ("/\xc3\xa4", "https://example.com:8443/%C3%A4"),
    ("/\xe4", "https://example.com:8443/%E4"),
]


@pytest.mark.parametrize(("location", "url"), REDIRECTS)
def test_a_redirect_leads_on_from_where_it_came(location: str, url: str) -> None:
    """http.client reads each byte of a header as one character."""
    before = Place("https", "example.com", 8443, "/a/x")

    assert redirected(before, location).url == url


@pytest.mark.parametrize("location", ["ftp://x/", "http://u:p@x/", "http://[", "javascript:alert(1)"])
def test_a_redirect_to_nowhere_is_a_malformed_reply(location: str) -> None:
    with pytest.raises(urlfetch.MalformedReplyError, match="redirects to a URL that cannot be fetched"):
        redirected(Place("http", "example.com", 80, "/"), location)


# --- method and payload ---------------------------------------------------------------------


def test_methods_are_constants_or_names_in_any_case() -> None:
    constants = [urlfetch.GET, urlfetch.POST, urlfetch.HEAD, urlfetch.PUT, urlfetch.DELETE, urlfetch.PATCH]

    assert constants == [1, 2, 3, 4, 5, 6]
    assert [method_name(each) for each in constants] == ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH"]
    assert [method_name("get"), method_name("Patch")] == ["GET", "PATCH"]


@pytest.mark.parametrize("method", [0, 7, "FETCH", "GET ", "", None, True, 1.5])
def test_a_method_that_there_is_none_of_is_refused(method: object) -> None:
    with pytest.raises(urlfetch.InvalidMethodError, match="the methods are GET, POST"):
        method_name(method)


def test_a_payload_is_text_or_bytes_of_a_method_that_has_one() -> None:
    assert body_of("POST", "ä") == b"\xc3\xa4"
    assert body_of("PUT", b"\xff") == b"\xff"
    assert body_of("PATCH", bytearray(b"x")) == b"x"
    assert body_of("POST", None) == b""
    assert body_of("GET", "ignored") is None
    assert body_of("DELETE", "ignored") is None
    with pytest.raises(TypeError, match=r"not dict: encode a form with urllib\.parse\.urlencode"):
        body_of("POST", {"a": "b"})  # type: ignore[arg-type]


def test_a_payload_has_a_limit() -> None:
    check_size(bytes(10 * 2**20))
    check_size(None)
    with pytest.raises(urlfetch.PayloadTooLargeError, match="10485761 bytes; at most 10485760"):
        check_size(bytes(10 * 2**20 + 1))
    assert issubclass(urlfetch.PayloadTooLargeError, urlfetch.InvalidURLError)


# --- headers --------------------------------------------------------------------------------


def test_usual_headers_are_added_where_the_application_has_none() -> None:
    assert [name for name, _ in headers_of({}, None)] == ["User-Agent", "Accept-Encoding"]
    assert dict(headers_of({}, b"a=b"))["Content-Type"] == "application/x-www-form-urlencoded"
    own = {"user-agent": "Mine", "ACCEPT-ENCODING": "br", "content-type": "text/plain", "X-Count": 3}
    assert headers_of(own, b"x") == (
        ("user-agent", "Mine"),
        ("ACCEPT-ENCODING", "br"),
        ("content-type", "text/plain"),
        ("X-Count", "3"),
    )


def test_headers_that_are_not_the_applications_are_left_out() -> None:
    """As on App Engine: without an error."""
    theirs = {"Host": "a", "content-length": "9", "Transfer-Encoding": "chunked", "Via": "x", "Vary": "y"}
    theirs |= {
        "X-Forwarded-For": "1.2.3.4",
        "X-ProxyUser-IP": "1",
        "Connection": "close",
        "Forwarded": "for=x",
    }

    assert [name for name, _ in headers_of(theirs, None)] == ["User-Agent", "Accept-Encoding"]


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({"A": "b\r\nHost: c"}, "the value of the header A contains a line break"),
        ({"A": "b\0"}, "the value of the header A contains a line break"),
        ({"A B": "c"}, "'A B' is not a valid header name"),
        ({"A:": "c"}, "is not a valid header name"),
        ({"": "c"}, "is not a valid header name"),
        ({"A": "€"}, "outside ISO 8859-1"),
    ],
)
def test_a_header_that_no_request_can_have_is_refused(headers: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        headers_of(headers, None)


@pytest.mark.parametrize("headers", [[("A", "b")], "A: b", {"A": None}, {"A": ["b"]}, {1: "b"}])
def test_headers_are_a_mapping_of_names_to_values(headers: object) -> None:
    with pytest.raises(TypeError, match="header"):
        headers_of(headers, None)


# --- after a redirect -----------------------------------------------------------------------

HERE, THERE = Place("http", "a.example", 80, "/"), Place("http", "b.example", 80, "/")
SECRETS = (("Authorization", "x"), ("cookie", "y"), ("Content-Type", "text/plain"), ("X-Other", "z"))


@pytest.mark.parametrize(
    ("status", "method", "after"),
    [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (303, "PUT", "GET"),
        (303, "DELETE", "GET"),
        (302, "HEAD", "HEAD"),
        (303, "HEAD", "HEAD"),
        (307, "POST", "POST"),
        (308, "PUT", "PUT"),
        (301, "GET", "GET"),
    ],
)
def test_a_redirects_status_says_which_method_follows(status: int, method: str, after: str) -> None:
    body = b"x" if method in ("POST", "PUT") else None
    request = Request(method, SECRETS, body, decodes=True)

    found = request.after_redirect(status, HERE, HERE)

    assert found.method == after
    assert found.body == (body if after == method else None)
    assert ("Content-Type" in dict(found.headers)) == (after == method)
    assert dict(found.headers)["Authorization"] == "x"


@pytest.mark.parametrize(
    "there", [THERE, Place("https", "a.example", 443, "/"), Place("http", "a.example", 81, "/")]
)
def test_secrets_do_not_go_to_another_server(there: Place) -> None:
    found = Request("GET", SECRETS, None, decodes=True).after_redirect(307, HERE, there)

    assert [name for name, _ in found.headers] == ["Content-Type", "X-Other"]


# --- the response ---------------------------------------------------------------------------


def test_headers_are_found_in_any_case() -> None:
    headers = Headers([("Content-Type", "a"), ("Set-Cookie", "b"), ("set-cookie", "c")])

    assert headers["content-TYPE"] == "a"
    assert "CONTENT-type" in headers
    assert headers.get("nothing") is None
    assert headers["Set-Cookie"] == "b, c"
    assert dict(headers) == {"Content-Type": "a", "set-cookie": "b, c"}
    headers["CONTENT-TYPE"] = "d"
    assert (len(headers), headers["content-type"]) == (2, "d")
    del headers["content-type"]
    assert "Content-Type" not in headers
    assert repr(headers) == "Headers({'set-cookie': 'b, c'})"


def test_headers_that_came_several_times_are_apart_in_header_msg() -> None:
    items = [("Set-Cookie", "b"), ("Set-Cookie", "c")]

    response = response_of(200, items, b"", final_url=None, is_truncated=False)

    assert response.header_msg.get_all("set-cookie") == ["b", "c"]
