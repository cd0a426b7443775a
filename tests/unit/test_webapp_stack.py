"""The whole stack, by hand-made requests: what gets in, as what, and how it is answered."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from webob import Request

from lastacross import log_context
from lastacross.webapp import access_log, security_headers
from lastacross.webapp.environ import Body, Environ, Start, close
from tests.support import web

MAIN = """
import webapp2
from webob import exc
from lastacross import errors, webapp

class Echo(webapp.RequestHandler):
    def get(self):
        keys = [k for k in self.request.environ if "APPENGINE" in k.upper() or "GOOGLE" in k.upper()]
        self.render_json({"path": self.request.path, "keys": sorted(keys)})
    def post(self):
        self.render_json({"got": len(self.request.body), "a": self.request.get("a")})

class Broken(webapp2.RequestHandler):
    def get(self):
        raise RuntimeError("a canary in the message")

class Away(webapp2.RequestHandler):
    def get(self):
        raise errors.StoreUnavailableError("Redis is not available: connection refused")

class NoDatastore(webapp.RequestHandler):
    def get(self):
        raise errors.DatastoreUnavailableError("the datastore is not available: locked")

class Missing(webapp2.RequestHandler):
    def get(self):
        self.abort(404, detail="No quilt <b>of this id</b>.")

class Own(webapp2.RequestHandler):
    def get(self):
        raise exc.HTTPConflict(body=b'{"mine": true}', content_type="application/json")

class Late(webapp2.RequestHandler):
    def get(self):
        def body():
            yield b"one"
            raise RuntimeError("after the first piece")
        return webapp2.Response(app_iter=body())

app = webapp2.WSGIApplication([
    ("/broken", Broken), ("/away", Away), ("/nodatastore", NoDatastore), ("/missing", Missing),
    ("/own", Own), ("/late", Late), ("/echo.*", Echo), ("/_ah/queue/.*", Echo), ("/worker/.*", Echo),
])
"""
APP_YAML = """
handlers:
- url: /worker/.*
  script: main.app
  login: admin
- url: /.*
  script: main.app
"""

ATTRIBUTES = (
    "QueueName",
    "TaskName",
    "TaskRetryCount",
    "Cron",
    "User-Id",
    "User-Is-Admin",
    "Inbound-AppId",
    "Development-Payload",
)
SPELLINGS = (
    "HTTP_X_APPENGINE_{}",
    "HTTP_X_AppEngine_{}",
    "http_x_appengine_{}",
    "HTTP_X__APPENGINE_{}",
    "HTTP_X.APPENGINE.{}",
)
PROTECTED = (
    "/_ah/queue/default",
    "/_ah/queue/deferred",
    "/_ah/start",
    "/worker/",
    "/_ah/admin/queues",
)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[web.Site]:
    """A small application in a folder of its own."""
    with web.site(tmp_path, MAIN, APP_YAML) as site:
        yield site


def test_an_application_page_gets_the_security_headers_except_a_policy(app: web.Site) -> None:
    """Only its author knows which scripts it runs."""
    answer = app.get("/echo")
    assert (answer.status_int, answer.json["path"]) == (200, "/echo")
    assert "Content-Security-Policy" not in answer.headers
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer.headers["X-Request-Id"]


def test_an_engine_page_gets_the_strict_policy(app: web.Site) -> None:
    """Whatever the application's pages get."""
    for path in ("/_ah/health", "/_ah/static/console.js", "/_ah/nothing"):
        policy = app.get(path).headers["Content-Security-Policy"]
        for rule in ("default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"):
            assert rule in policy
        assert "unsafe" not in policy


SWITCHES = """
security_headers:
  Content-Security-Policy: %s
  X-Content-Type-Options: off
  Referrer-Policy: no-referrer
  Cross-Origin-Opener-Policy: off
  Strict-Transport-Security: max-age=60
"""


def test_app_yaml_changes_the_headers_of_the_application_alone(tmp_path: Path) -> None:
    with web.site(tmp_path, MAIN, APP_YAML + SWITCHES % "'default-src https:'") as site:
        page, own = site.get("/echo"), site.get("/_ah/health")
        secure = site.get("/echo", **{"wsgi.url_scheme": "https"})

    assert page.headers["Content-Security-Policy"] == "default-src https:"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert not {"X-Content-Type-Options", "Cross-Origin-Opener-Policy"} & set(page.headers)
    assert secure.headers["Strict-Transport-Security"] == "max-age=60"
    assert "frame-ancestors 'none'" in own.headers["Content-Security-Policy"]
    assert own.headers["X-Content-Type-Options"] == "nosniff"
    assert own.headers["Referrer-Policy"] == "same-origin"
    assert own.headers["Cross-Origin-Opener-Policy"] == "same-origin"


def test_strict_is_the_policy_of_the_engine_pages(tmp_path: Path) -> None:
    with web.site(tmp_path, MAIN, APP_YAML + SWITCHES % "strict") as site:
        policies = {site.get(path).headers["Content-Security-Policy"] for path in ("/echo", "/_ah/health")}

    assert policies == {security_headers.CONTENT_SECURITY_POLICY}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/broken", 500),
        ("/away", 503),
        ("/missing", 404),
        ("/nowhere", 404),
        ("/echo?%ff", 400),
        ("/_ah/queue/default", 403),
    ],
)
def test_an_error_has_the_security_headers_too(app: web.Site, path: str, status: int) -> None:
    """No answer is without them."""
    answer = app.get(path)
    assert answer.status_int == status
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_forged_engine_header_opens_no_protected_url(app: web.Site, spelling: str, attribute: str) -> None:
    """40 forgeries at 5 URLs."""
    key = spelling.format(attribute.replace("-", "_").upper())
    for path in PROTECTED:
        assert app.get(path, **{key: "true"}).status_int == 403
        assert app.post(path, **{key: "true"}).status_int == 403


@pytest.mark.parametrize("spelling", [*SPELLINGS, "HTTP_X_GOOGLE_{}", "HTTP_X_Google_{}"])
def test_the_application_never_sees_a_forged_engine_header(app: web.Site, spelling: str) -> None:
    """Whatever its spelling; a worker's own arrives."""
    assert app.get("/echo", **{spelling.format("QUEUENAME"): "default"}).json["keys"] == []
    delivered = app.deliver("/echo", "GET", HTTP_X_APPENGINE_QUEUENAME="default")
    assert delivered.json["keys"] == ["HTTP_X_APPENGINE_QUEUENAME"]


def test_an_engine_key_that_a_server_in_front_left_behind_is_dropped(app: web.Site) -> None:
    """`lastacross.task` from outside would be a task."""
    assert app.get("/worker/", **{"lastacross.task": object()}).status_int == 403
    assert app.get("/worker/", **{"LASTACROSS.CRON": object()}).status_int == 403


def test_a_task_reaches_protected_urls_and_keeps_its_headers(app: web.Site) -> None:
    """From inside nothing is stripped."""
    for path in ("/worker/", "/_ah/queue/default"):
        answer = app.deliver(path, "GET", HTTP_X_APPENGINE_QUEUENAME="default")
        assert (answer.status_int, answer.json["keys"]) == (200, ["HTTP_X_APPENGINE_QUEUENAME"])
    assert app.deliver("/worker/", "GET", **{"lastacross.task": None}).status_int == 403


@pytest.mark.parametrize("accept", ["text/html", "*/*", ""])
def test_an_exception_is_a_page_in_plain_words_with_the_request_id(app: web.Site, accept: str) -> None:
    """And nothing of the exception."""
    answer = app.get("/broken", HTTP_ACCEPT=accept)
    assert (answer.status_int, answer.content_type) == (500, "text/html")
    assert answer.headers["X-Request-Id"] in answer.text
    assert "canary" not in answer.text
    assert "RuntimeError" not in answer.text


def test_an_exception_is_json_for_who_asks_for_it(app: web.Site) -> None:
    """Accept decides."""
    answer = app.get("/broken", HTTP_ACCEPT="application/json")
    assert (answer.status_int, answer.content_type) == (500, "application/json")
    assert answer.json["error"]["code"] == 500
    assert answer.json["error"]["request_id"] == answer.headers["X-Request-Id"]


def test_an_exception_is_logged_once_with_its_traceback(
    app: web.Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Not by webapp2 as well."""
    with caplog.at_level(logging.INFO):
        app.get("/broken")
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(failures) == 1
    event = failures[0].msg
    assert isinstance(event, dict)
    assert event["event"] == "request.fail"
    assert "RuntimeError: a canary in the message" in event["exception"]


def test_a_task_is_told_the_exception_in_a_line_of_text(app: web.Site) -> None:
    """The delivery keeps it with the attempt."""
    answer = app.deliver("/broken", "GET")
    assert (answer.status_int, answer.content_type) == (500, "text/plain")
    assert "RuntimeError: a canary in the message" in answer.text


@pytest.mark.parametrize(("path", "words"), [("/away", "task store"), ("/nodatastore", "datastore")])
def test_an_unavailable_service_is_503_with_a_time_to_try_again(app: web.Site, path: str, words: str) -> None:
    """Also for a handler that knows nothing of ours."""
    answer = app.get(path)
    assert answer.status_int == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert words in answer.text
    assert "connection refused" not in answer.text


def test_a_refusal_of_the_application_is_shown_escaped(app: web.Site) -> None:
    """Its words, not its markup."""
    answer = app.get("/missing")
    assert answer.status_int == 404
    assert "No quilt &lt;b&gt;of this id&lt;/b&gt;." in answer.text
    assert app.get("/missing", HTTP_ACCEPT="application/json").json["error"]["message"] == (
        "No quilt <b>of this id</b>."
    )


def test_an_error_body_that_the_application_wrote_stays(app: web.Site) -> None:
    """It knows better."""
    answer = app.get("/own")
    assert (answer.status_int, answer.json) == (409, {"mine": True})


def test_a_method_that_a_handler_lacks_is_405_with_those_it_has(app: web.Site) -> None:
    """RFC 9110, 15.5.6."""
    answer = app.post("/broken")
    assert (answer.status_int, answer.headers["Allow"]) == (405, "GET")


def test_an_exception_after_the_first_piece_ends_the_connection(app: web.Site) -> None:
    """Headers are out: the server must hang up, not add an error page to half a page."""
    sent: list[str] = []

    def start_response(status: str, headers: object, exc_info: object = None) -> object:
        sent.append(status)
        if exc_info and len(sent) > 1:
            raise ConnectionAbortedError
        return lambda data: None

    environ = Request.blank("/late", environ={"HTTP_HOST": web.HOST}).environ
    body = app.outside(environ, start_response)  # type: ignore[arg-type]
    pieces = iter(body)
    assert next(pieces) == b"one"
    with pytest.raises(ConnectionAbortedError):
        next(pieces)
    close(body)


@pytest.mark.parametrize("host", ["evil.example", "", "app.example@evil", "app.example/x", "a b", "[::1"])
def test_a_host_that_is_not_ours_is_400(app: web.Site, host: str) -> None:
    """Redirects and links are built on it."""
    answer = app.get("/echo", HTTP_HOST=host)
    assert answer.status_int == 400
    assert "ost" in answer.text


@pytest.mark.parametrize("host", ["app.example", "APP.example:8080", "app.example."])
def test_our_host_is_known_in_any_case_and_on_any_port(app: web.Site, host: str) -> None:
    """A port says nothing."""
    assert app.get("/echo", HTTP_HOST=host).status_int == 200


def test_a_probe_may_ask_by_address(app: web.Site) -> None:
    """A load balancer knows the machine's address only."""
    answer = app.get("/_ah/health", HTTP_HOST="10.1.2.3:8080")
    assert (answer.status_int, answer.json) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://app.example/echo", "evil.example", 200),
        ("HTTPS://App.Example:443/echo?a=http://evil.example/", "evil.example", 200),
        ("http://evil.example/echo", web.HOST, 400),
        ("http://app.example@evil.example/echo", web.HOST, 400),
        ("http://evil.example@app.example/echo", web.HOST, 400),
        ("http:///echo", web.HOST, 400),
        ("http://[app.example/echo", web.HOST, 400),
        ("/echo?a=http://evil.example/", web.HOST, 200),
        ("//evil.example/echo", web.HOST, 200),
    ],
)
def test_the_host_of_an_absolute_request_line_is_the_only_one(
    app: web.Site, target: str, host: str, status: int
) -> None:
    """RFC 9112, 3.2.2. The server has taken the path from the line by then."""
    answer = app.get("/echo", RAW_URI=target, HTTP_HOST=host)
    assert answer.status_int == status
    origin = app.post("/echo", RAW_URI=target, HTTP_HOST=host, HTTP_ORIGIN=f"http://{host}")
    assert origin.status_int == (200 if host == web.HOST and status == 200 else 403 if status == 200 else 400)


@pytest.mark.parametrize(
    "path", ["/echo/../worker/", "/./echo", "/echo%00", "/echo%0d%0aX: y", "/%ff", "/echo?q=%ff", "/echo/.."]
)
def test_an_address_that_could_be_read_in_two_ways_is_400(app: web.Site, path: str) -> None:
    """Neither webapp2 nor a proxy gets to guess."""
    assert app.get(path).status_int == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"HTTP_SEC_FETCH_SITE": "cross-site"}, 403),
        ({"HTTP_SEC_FETCH_SITE": "same-site"}, 403),
        ({"HTTP_SEC_FETCH_SITE": "nonsense"}, 403),
        ({"HTTP_ORIGIN": "https://evil.example"}, 403),
        ({"HTTP_ORIGIN": "null"}, 403),
        ({"HTTP_ORIGIN": "http://app.example.evil.example"}, 403),
        ({"HTTP_ORIGIN": "http://[broken"}, 403),
        ({"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_ORIGIN": "http://app.example"}, 403),
        ({"HTTP_SEC_FETCH_SITE": "same-origin"}, 200),
        ({"HTTP_SEC_FETCH_SITE": "none"}, 200),
        ({"HTTP_ORIGIN": "https://app.example"}, 200),
        ({}, 200),
    ],
)
def test_a_post_that_another_site_made_a_browser_send_is_refused(
    app: web.Site, headers: dict[str, str], status: int
) -> None:
    """By Sec-Fetch-Site or Origin; a GET is never refused for them."""
    assert app.post("/echo", **headers).status_int == status
    assert app.get("/echo", **headers).status_int == 200


def test_a_body_reaches_the_handler_whole(app: web.Site) -> None:
    """As bytes and as a form."""
    answer = app.post("/echo", b"a=b%20c", CONTENT_TYPE="application/x-www-form-urlencoded")
    assert answer.json == {"got": 7, "a": "b c"}


def test_a_body_over_the_limit_is_413(app: web.Site) -> None:
    """10 MiB and one byte."""
    assert app.post("/echo", bytes(10 * 2**20)).json["got"] == 10 * 2**20
    answer = app.request(
        "/echo",
        {"HTTP_ACCEPT": "application/json"},
        method="POST",
        body=bytes(10 * 2**20 + 1),
    )
    assert answer.status_int == 413
    assert "10,485,760" in answer.json["error"]["message"]


def test_head_is_get_without_its_body(app: web.Site) -> None:
    """webapp2 would answer 405."""
    head = app.request("/echo", method="HEAD")
    assert (head.status_int, head.body) == (200, b"")
    assert head.content_length == app.get("/echo").content_length
    error = app.request("/missing", method="HEAD")
    assert (error.status_int, error.body) == (405, b"")


def test_the_log_line_of_a_request_has_no_query(app: web.Site, caplog: pytest.LogCaptureFixture) -> None:
    """Tokens travel there."""
    with caplog.at_level(logging.INFO):
        answer = app.get("/echo?token=canary", HTTP_X_REQUEST_ID="0123456789abcdef")
    [event] = [record.msg for record in caplog.records]
    assert isinstance(event, dict)
    assert event["event"] == "request.answer"
    assert (event["method"], event["path"], event["status"]) == ("GET", "/echo", 200)
    assert event["request_id"] == answer.headers["X-Request-Id"] == "0123456789abcdef"
    assert "canary" not in json.dumps(event, default=str)


@pytest.mark.parametrize(
    "offered", ["", "short", "0123456789abcdef\n", "a" * 65, "<script>alert(1)</script>"]
)
def test_a_request_id_that_is_not_plainly_one_is_replaced(app: web.Site, offered: str) -> None:
    """It would be copied into logs and pages."""
    given = app.get("/echo", HTTP_X_REQUEST_ID=offered).headers["X-Request-Id"]
    assert given != offered
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", given)


def test_the_request_id_is_gone_from_the_log_after_the_request(
    app: web.Site, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread serves others next."""
    with caplog.at_level(logging.INFO):
        app.get("/echo")
        app.deliver("/broken", "GET")
    events = [record.msg for record in caplog.records]
    assert [isinstance(event, dict) and "request_id" in event for event in events] == [True, False]


def test_a_request_that_ends_in_an_exception_leaves_no_request_id_behind() -> None:
    """Such as the one that ends the process; until then the thread may still log."""

    def ended(environ: Environ, start_response: Start) -> Body:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        access_log.give_request_id(ended)({}, cast(Start, None))

    assert log_context.fields() == {}


OPEN_TO_OTHERS = """
handlers:
- url: /echo/in
  script: main.app
  cross_site: allow
- url: /.*
  script: main.app
"""


@pytest.mark.parametrize(
    ("path", "status"),
    [("/echo/in", 200), ("/echo/in/x", 403), ("/echo/out", 403), ("/_ah/queue/x", 403)],
)
def test_what_other_sites_send_comes_in_where_app_yaml_says_so(
    tmp_path: Path, path: str, status: int
) -> None:
    """By the handler that serves the path."""
    with web.site(tmp_path, MAIN, OPEN_TO_OTHERS) as site:
        answer = site.post(path, b"a=1", HTTP_ORIGIN="https://elsewhere.example")

    assert answer.status_int == status


def test_what_other_sites_send_is_not_the_administrators(tmp_path: Path) -> None:
    """The browser that was made to send it may be the administrator's."""
    main = MAIN.replace('{"got": len(self.request.body)', '{"is_administrator": self.is_administrator()')
    with web.site(tmp_path, main, OPEN_TO_OTHERS, variables={"LASTACROSS_DEV": "1"}) as site:
        cookie = site.administrator
        own = site.post("/echo/in", **cookie)
        foreign = site.post("/echo/in", HTTP_SEC_FETCH_SITE="cross-site", **cookie)

    assert own.json["is_administrator"] is True
    assert foreign.json["is_administrator"] is False


@pytest.mark.parametrize(("fetch_site", "mark"), [("cross-site", True), ("same-origin", None)])
def test_what_other_sites_send_is_marked_for_the_handler(
    tmp_path: Path, fetch_site: str, mark: bool | None
) -> None:
    """So that it cannot act for the browser's own user, as by the cookie of runs that the browser started."""
    main = MAIN.replace(
        '{"got": len(self.request.body)', '{"mark": self.request.environ.get("lastacross.is_cross_site")'
    )
    with web.site(tmp_path, main, OPEN_TO_OTHERS) as site:
        assert site.post("/echo/in", HTTP_SEC_FETCH_SITE=fetch_site).json["mark"] is mark
