"""The limits of a request, and the message for one that is over them."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import web

MAIN = """
import json
import webapp2
from webob import Request
from lastacross import webapp

class Seen(webapp.RequestHandler):
    def get(self):
        self.render_json({"cookies": dict(self.request.cookies), "query": self.request.GET.mixed()})
    def post(self):
        self.render_json({"fields": sorted(self.request.POST), "bytes": len(self.request.body)})
    put = post

class Json(webapp.RequestHandler):
    def post(self):
        self.render_json(self.request.json)

class Length(webapp.RequestHandler):
    def post(self):
        self.render_json(len(self.request.body))

class Own(webapp2.Request):
    pass

def plain(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(sorted(Request(environ).POST)).encode()]

app = webapp2.WSGIApplication([("/json", Json), ("/length", Length), ("/.*", Seen)])
own = webapp2.WSGIApplication([("/.*", Seen)])
own.request_class = Own
"""
APP_YAML = """
handlers:
- url: /plain
  script: main.plain
- url: /own
  script: main.own
- url: /.*
  script: main.app
"""
FORM = {"CONTENT_TYPE": "application/x-www-form-urlencoded"}
MULTIPART = {"CONTENT_TYPE": "multipart/form-data; boundary=x"}
JSON = {"CONTENT_TYPE": "application/json"}
PART = b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n"
KIBIBYTE = 1024


@pytest.fixture
def site(tmp_path: Path) -> Iterator[web.Site]:
    """With small limits."""
    variables = {"LASTACROSS_MAX_FORM_FIELDS": "10", "LASTACROSS_MAX_FORM_BYTES": "1024"}
    with web.site(tmp_path, MAIN, APP_YAML, variables=variables) as running:
        yield running


def message(site: web.Site, path: str, status: int, body: bytes | None = None, **environ: Any) -> str:
    """The message of a refusal."""
    environ["HTTP_ACCEPT"] = environ.get("HTTP_ACCEPT", "application/json")
    answer = site.get(path, **environ) if body is None else site.post(path, body, **environ)
    assert answer.status_int == status
    return str(answer.json["error"]["message"])


def test_a_form_within_its_limits_is_read(site: web.Site) -> None:
    ten = b"&".join(b"f%d=1" % number for number in range(10))
    for path in ("/", "/own"):
        assert len(site.post(path, ten, **FORM).json["fields"]) == 10
        assert site.post(path, PART * 10 + b"--x--", **MULTIPART).json["fields"] == ["a"] * 10
    assert len(site.post("/plain", ten, **FORM).json) == 10
    assert site.post("/", b"a=" + b"1" * 1022, **FORM).json == {"fields": ["a"], "bytes": KIBIBYTE}


@pytest.mark.parametrize("path", ["/", "/own", "/plain", "/json"])
def test_a_form_with_more_fields_or_bytes_is_told_the_limit_and_its_setting(
    site: web.Site, path: str
) -> None:
    fields = "The form has more than the 10 fields that this server accepts (LASTACROSS_MAX_FORM_FIELDS)."
    size = "longer than the 1,024 bytes that this server accepts (LASTACROSS_MAX_FORM_BYTES)."

    assert message(site, path, 400, b"&".join([b"a=1"] * 11), **FORM) == fields
    assert message(site, path, 400, PART * 11 + b"--x--", **MULTIPART) == fields
    assert message(site, path, 413, PART * 9 + PART.replace(b"1", b"1" * 1024) + b"--x--", **MULTIPART) == (
        f"The form is {size}"
    )
    for kind in (FORM, JSON, {"CONTENT_TYPE": "application/problem+json"}):
        assert message(site, path, 413, b"1" * 1025, **kind) == f"The request is {size}".replace(
            "longer", "larger"
        )


def test_files_do_not_count_for_the_bytes_of_a_form(site: web.Site) -> None:
    file = PART.replace(b"name=a", b"name=a; filename=b").replace(b"1", b"1" * 5000)

    assert site.post("/", file + b"--x--", **MULTIPART).json["fields"] == ["a"]


def test_a_form_in_another_charset_is_left_to_the_handler_within_the_same_limits(site: web.Site) -> None:
    for charset in ("latin-1", "koi8-r"):
        other = {"CONTENT_TYPE": f"{FORM['CONTENT_TYPE']}; charset={charset}"}
        assert site.post("/length", b"a=\xe4", **other).json == 3
        assert "more than the 10 fields" in message(site, "/length", 400, b"a&" * 11, **other)
    kind = f"{MULTIPART['CONTENT_TYPE']}; charset=latin-1"
    assert "could not be read" in message(site, "/length", 400, PART + b"--x--", CONTENT_TYPE=kind)


def test_a_body_that_does_not_say_what_it_is_may_be_anything(site: web.Site) -> None:
    assert site.post("/", b"a=1&b=2").json == {"fields": ["a", "b"], "bytes": 7}
    assert site.post("/", b"&" * 5000).json == {"fields": [], "bytes": 5000}
    assert site.post("/", b"a=" + b"1" * 5000).json == {"fields": [], "bytes": 5002}
    assert site.post("/plain", b"a=" + b"1" * 5000).json == []


def test_a_file_that_is_no_form_has_the_limit_of_bodies(site: web.Site) -> None:
    assert site.post("/", b"1" * 5000, CONTENT_TYPE="text/csv").json == {"fields": [], "bytes": 5000}


@pytest.mark.parametrize("separator", ["&", ";"])
def test_an_address_has_a_limit_of_parameters(site: web.Site, separator: str) -> None:
    assert len(site.get("/?" + separator.join(f"a{number}" for number in range(10))).json["query"]) == 10
    assert message(site, "/?" + separator * 10, 400) == (
        "The address has more than the 10 parameters that this server accepts (LASTACROSS_MAX_FORM_FIELDS)."
    )


def test_json_has_a_limit_of_depth(site: web.Site) -> None:
    deep = b"[" * 100 + b"]" * 100

    assert site.post("/json", deep, **JSON).json == json.loads(deep)
    assert message(site, "/json", 400, b"[%b]" % deep, **JSON) == (
        "The JSON nests lists and objects deeper than the 100 levels that this server accepts."
    )


@pytest.mark.parametrize("charset", ["utf-16", "utf-16-be", "utf-32", "utf-32-le"])
def test_json_that_is_not_utf_8_is_refused_before_its_depth_is_told(site: web.Site, charset: str) -> None:
    """In these an escaped quote is not two bytes that stand together."""
    hidden = '["\\"", ' + "[" * 101 + '"\\"", ' + "]" * 101 + "]"

    assert "JSON must be UTF-8 (RFC 8259, section 8.1)." in message(
        site, "/json", 400, hidden.encode(charset), **JSON
    )


@pytest.mark.parametrize("charset", ["shift_jis", "iso-2022-jp", "gb18030", "utf-16le"])
def test_json_that_says_another_charset_is_refused(site: web.Site, charset: str) -> None:
    kind = f"{JSON['CONTENT_TYPE']}; charset={charset}"

    assert "JSON must be UTF-8 (RFC 8259, section 8.1), not" in message(
        site, "/json", 400, b"[]", CONTENT_TYPE=kind
    )


@pytest.mark.parametrize(
    ("key", "limit", "name"),
    [
        ("HTTP_COOKIE", 8192, "Cookie"),
        ("HTTP_USER_AGENT", 8192, "User-Agent"),
        ("HTTP_ACCEPT", 8192, "Accept"),
        ("HTTP_X_OWN", 8192, "X-Own"),
        ("CONTENT_TYPE", 1024, "Content-Type"),
    ],
)
def test_a_header_has_a_limit_of_its_own(site: web.Site, key: str, limit: int, name: str) -> None:
    assert site.get("/", **{key: "a" * limit}).status_int == 200

    answer = site.get("/page.json", **{key: "a" * (limit + 1)})
    assert (answer.status_int, answer.json["error"]["message"]) == (
        431,
        f"The header {name} is longer than the {limit:,} bytes that this server accepts.",
    )


def test_the_cookies_are_read_once_and_the_bad_ones_left_out(site: web.Site) -> None:
    for path in ("/", "/own"):
        found = site.get(path, HTTP_COOKIE=r'a=1; b="\377"; c').json["cookies"]
        assert found == {"a": "1"}


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("charset", ["punycode", "idna", "hex", "nonsense"])
def test_a_charset_that_is_not_of_the_web_is_refused(site: web.Site, kind: str, charset: str) -> None:
    assert "charset" in message(site, "/", 400, b"1", CONTENT_TYPE=f"{kind}; charset={charset}")


def test_a_task_may_have_what_a_stranger_may_not(site: web.Site) -> None:
    """It comes from the application, and its bytes are limited where it is added."""
    many = b"&".join(b"f%d=%s" % (number, b"1" * 100) for number in range(50))
    given = {"webob.is_body_seekable": True, **FORM}

    answer = site.deliver("/", "POST", **given, **web_input(many))

    assert len(answer.json["fields"]) == 50


def web_input(body: bytes) -> dict[str, Any]:
    """The part of an environ that is the body."""
    return {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
