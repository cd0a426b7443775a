"""What an application's handlers are made from."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross import webapp
from tests.support import web

MAIN = """
import webapp2
from lastacross import webapp

class Page(webapp.RequestHandler):
    def get(self):
        self.render("page.html", name=self.request.get("name"), status=int(self.request.get("status", 200)))

class Forgetful(webapp.RequestHandler):
    def get(self):
        self.render("page.html")

class Status(webapp.RequestHandler):
    def get(self):
        if self.wants_json():
            self.render_json({"done": True}, 202)
        else:
            self.response.write("page")

class Form(webapp.RequestHandler):
    def post(self):
        rows = self.request.get("rows")
        if not rows.isdigit():
            raise webapp.BadInputError("rows", "takes a number from 1 to 100")
        self.see_other("/quilt/" + rows)

class Drawn(Form):
    def bad_request(self, field, message):
        self.render("page.html", status=400, name=f"{field} {message}")

class Go(webapp.RequestHandler):
    def post(self):
        self.see_other(webapp.local_path(self.request.get("continue")) or "/")

class Stray(webapp.RequestHandler):
    def get(self):
        self.see_other("//evil.example/")

class Work(webapp.TaskHandler):
    def post(self):
        self.response.write("worked")

class Who(webapp.RequestHandler):
    def get(self):
        self.render_json(self.is_administrator())

app = webapp2.WSGIApplication([
    ("/page", Page), ("/forgetful", Forgetful), ("/status", Status), ("/form", Form), ("/drawn", Drawn),
    ("/go", Go), ("/stray", Stray), ("/work", Work), ("/who", Who),
])
"""
FORM = {"CONTENT_TYPE": "application/x-www-form-urlencoded"}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[web.Site]:
    """An application with one handler of each sort."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "page.html").write_text("<p title='{{ name }}'>{{ name }}</p>")
    with web.site(tmp_path, MAIN, variables={"LASTACROSS_DEV": "1", "HOST": "127.0.0.1"}) as site:
        yield site


def test_a_template_escapes_what_it_is_given(app: web.Site) -> None:
    """In text and in attributes."""
    answer = app.get("/page?name=%3Cb%3E%27%22%26")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.text == "<p title='&lt;b&gt;&#39;&#34;&amp;'>&lt;b&gt;&#39;&#34;&amp;</p>"
    assert app.get("/page?status=410").status_int == 410


def test_a_template_that_names_a_value_nobody_gave_fails(app: web.Site) -> None:
    """An empty spot would go unnoticed."""
    assert app.get("/forgetful").status_int == 500


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("application/json", True),
        ("application/json, text/html;q=0.5", True),
        ("application/*", True),
        ("text/html, application/json", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("*/*", False),
        ("", False),
        ("image/png", False),
        ("nonsense", False),
        (";;;,,,q=", False),
    ],
)
def test_accept_decides_between_json_and_a_page(app: web.Site, accept: str, is_json: bool) -> None:
    """A tie, and anything that cannot be read, is a page."""
    answer = app.get("/status", HTTP_ACCEPT=accept)
    assert (answer.content_type == "application/json") == is_json
    assert answer.status_int == (202 if is_json else 200)
    assert answer.vary == ("Accept",)


def test_bad_input_is_400_with_the_field_and_what_it_takes(app: web.Site) -> None:
    """As a page, as JSON, or as the form again."""
    page = app.post("/form", b"rows=abc", **FORM)
    assert (page.status_int, page.content_type) == (400, "text/html")
    assert "rows: takes a number from 1 to 100" in page.text
    answer = app.post("/form", b"rows=abc", HTTP_ACCEPT="application/json", **FORM)
    assert (answer.status_int, answer.json) == (
        400,
        {"error": {"code": 400, "field": "rows", "message": "takes a number from 1 to 100"}},
    )
    drawn = app.post("/drawn", b"rows=abc", **FORM)
    assert (drawn.status_int, "rows takes a number" in drawn.text) == (400, True)


def test_a_form_that_is_taken_leads_on_with_303(app: web.Site) -> None:
    """To a path without scheme and host."""
    answer = app.post("/form", b"rows=8", **FORM)
    assert (answer.status_int, answer.headers["Location"]) == (303, "/quilt/8")


LOCAL = [
    "/",
    "/quilt/1",
    "/quilt?a=b&c=//x",
    "/a//b",
    "/%2f%2fevil.example",
    "/a#b",
    "/ümlaut",
    "/@evil.example",
]
FOREIGN = [
    "",
    "quilt",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "\\/evil.example",
    "http://evil.example",
    "https:evil.example",
    "HTTP://app.example/",
    "javascript:alert(1)",
    "data:text/html,x",
    "/\t/evil.example",
    "/\n/evil.example",
    "/a\r\nSet-Cookie: a=b",
    "/a b",
    " /evil",
    "\t//evil.example",
    "/a\\b",
    "?a=b",
    "#a",
    ".",
    "..",
    "@evil.example",
    "evil.example",
    "/\x00",
    "/\x7f",
    "ftp://evil.example",
    "//app.example@evil.example",
    "http:///evil.example",
]


@pytest.mark.parametrize("url", LOCAL)
def test_a_path_of_our_own_may_be_gone_to(url: str) -> None:
    """With query and fragment."""
    assert webapp.local_path(url) == url


@pytest.mark.parametrize("url", FOREIGN)
def test_nothing_else_may_be_gone_to(app: web.Site, url: str) -> None:
    """Browsers read a backslash as a slash and drop tabs."""
    assert webapp.local_path(url) is None
    answer = app.request("/go", POST={"continue": url})
    assert (answer.status_int, answer.headers["Location"]) == (303, "/")


def test_a_redirect_elsewhere_is_the_programs_mistake(app: web.Site) -> None:
    """Not the visitor's."""
    assert webapp.local_path(None) is None
    assert app.get("/stray").status_int == 500


def test_a_task_handler_admits_tasks_only(app: web.Site) -> None:
    """Although app.yaml left it open: not even the administrator."""
    assert app.deliver("/work").text == "worked"
    assert app.post("/work").status_int == 403
    assert app.post("/work", **app.administrator).status_int == 403
    assert app.deliver("/work", **{"lastacross.task": None, "lastacross.cron": 1}).status_int == 403


def test_a_handler_can_ask_whether_the_administrator_is_there(app: web.Site) -> None:
    """To show a button, say."""
    assert app.get("/who").json is False
    assert app.get("/who", **app.administrator).json is True
    assert app.deliver("/who", "GET").json is False


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"rows=%ff", 400),
        (b"rows=\xff", 400),
        (b"%", 400),
        (b"=", 400),
        (b"&" * 1000, 400),
        (b"rows=" + b"9" * 10_000, 303),
        (b"\x00", 400),
        ("rows=é".encode("utf-16"), 400),
    ],
)
def test_a_form_that_cannot_be_read_is_not_our_failure(app: web.Site, body: bytes, status: int) -> None:
    """Never a 500."""
    assert app.post("/form", body, **FORM).status_int == status


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "multipart/form-data; boundary=" + "x" * 300,
        'multipart/form-data; boundary=" x "',
        "multipart/form-data; boundary*=hex''abc",
        "application/x-www-form-urlencoded; charset=nonsense",
        "application/x-www-form-urlencoded; charset=hex",
        "application/x-www-form-urlencoded; charset=iso-8859-1",
        "application/x-www-form-urlencoded; charset=utf-16",
        "/",
    ],
)
def test_a_content_type_that_lies_is_not_our_failure(app: web.Site, content_type: str) -> None:
    """Never a 500."""
    assert app.post("/form", b"--x\r\nrubbish", CONTENT_TYPE=content_type).status_int == 400


def test_a_form_that_no_browser_sends_is_refused_in_json_unless_a_page_is_asked_for(app: web.Site) -> None:
    """A program rarely says what it accepts."""
    kind = "multipart/form-data"
    for accept, answered in (("*/*", "application/json"), ("text/html,*/*;q=0.8", "text/html")):
        answer = app.post("/form", b"x", CONTENT_TYPE=kind, HTTP_ACCEPT=accept)
        assert (answer.status_int, answer.content_type) == (400, answered)


@pytest.mark.parametrize(
    "part",
    [
        b"Content-Type: text/plain; charset=nonsense\r\n\r\n2",
        b"Content-Type: text/plain; charset=hex\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=ff",
        b"Content-Type: multipart/mixed\r\n\r\n--y\r\n\r\n1\r\n--y--",
    ],
    ids=["unknown charset", "no text", "no boundary"],
)
def test_a_part_of_a_form_that_lies_is_not_our_failure(app: web.Site, part: bytes) -> None:
    """Never a 500, and no traceback in the log."""
    body = b"--x\r\nContent-Disposition: form-data; name=rows\r\n" + part + b"\r\n--x--\r\n"

    answer = app.post("/form", body, CONTENT_TYPE="multipart/form-data; boundary=x")

    assert (answer.status_int, "The form could not be read" in answer.text) == (400, True)
