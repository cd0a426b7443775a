"""Signed deliveries at the receiving web server: what is let in as a task, and what is refused."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from webob import Request, Response

from lastacross import deferred, store
from lastacross.broker.current import current_task
from lastacross.clock import SYSTEM
from lastacross.errors import PermanentTaskFailure
from lastacross.signing import Signatures
from lastacross.webapp import deliveries
from lastacross.webapp.deliveries import Claims
from tests.support import web
from tests.support.clock import StoppedClock
from tests.support.redis_server import unavailable_store
from tests.support.web import HOST, SECRET_KEY

MAIN = """
import webapp2
from lastacross import taskqueue, webapp

class Note(webapp.RequestHandler):
    def any(self):
        current = taskqueue.current_task()
        environ = self.request.environ
        self.render_json({
            "method": self.request.method,
            "path": self.request.path_qs,
            "body": self.request.body.decode("latin-1"),
            "form": self.request.get("a"),
            "address": self.request.remote_addr,
            "headers": {k: v for k, v in environ.items() if k.startswith(("HTTP_X_", "CONTENT_TYPE"))},
            "task": current and [current.id, current.name, current.queue_name, current.attempt,
                                 current.retry_count, current.execution_count, current.member],
        })
    get = post = put = delete = any

class Late(webapp2.RequestHandler):
    def get(self):
        def body():
            yield taskqueue.current_task().name.encode()
            yield b" "
            yield taskqueue.current_task().name.encode()
        return webapp2.Response(app_iter=body())

class Broken(webapp2.RequestHandler):
    def post(self):
        raise RuntimeError("the engine room is on fire")

app = webapp2.WSGIApplication([("/late", Late), ("/worker/broken", Broken), ("/.*", Note)])
"""
APP_YAML = """
handlers:
- url: /worker/.*
  script: main.app
  login: admin
  secure: always
- url: /.*
  script: main.app
"""
HEADERS = {
    "HTTP_X_APPENGINE_QUEUENAME": "mail",
    "HTTP_X_APPENGINE_TASKNAME": "t1",
    "HTTP_X_APPENGINE_TASKRETRYCOUNT": "3",
    "HTTP_X_APPENGINE_TASKEXECUTIONCOUNT": "2",
    "HTTP_X_APPENGINE_TASKETA": "1800000000.000000",
}
TOKEN = "HTTP_X_LASTACROSS_DELIVERY"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[web.Site]:
    """A service that notes what it is asked."""
    builtins = {deferred.DEFAULT_URL: deferred.handle}
    variables = {"LASTACROSS_MAX_BODY_BYTES": "2048"}
    # Nothing here needs Redis, and the developer's own must not count these refusals.
    store.use(unavailable_store(tmp_path))
    with web.site(tmp_path, MAIN, APP_YAML, builtins=builtins, variables=variables) as running:
        yield running
    store.use(None)


def token(
    method: str = "POST",
    path: str = "/worker/mail",
    query: str = "",
    body: bytes = b"",
    *,
    key: str = SECRET_KEY,
    age_seconds: float = 0.0,
    **changes: Any,
) -> str:
    """What a worker signs for such a request."""
    values: dict[str, Any] = {
        "task": "mail_t1",
        "lease": "w.7",
        "retry_count": 3,
        "execution_count": 2,
        "member": None,
        "request": "",
        "method": method,
        "url": deliveries.url_digest(path, query),
        "headers": deliveries.headers_digest(HEADERS),
        "body": deliveries.body_digest(body),
        "signed_at": SYSTEM.now() - age_seconds,
    }
    return deliveries.dump_claims(Signatures(key), Claims(**(values | changes)))


def send(
    site: web.Site, signed: str | None, path: str = "/worker/mail", body: bytes = b"", **environ: Any
) -> Response:
    """A POST with this token and the headers of a task."""
    given = {**HEADERS, **environ} if signed is None else {**HEADERS, TOKEN: signed, **environ}
    method = given.pop("REQUEST_METHOD", "POST")
    return site.request(path, given, method=method, body=body)


# --- let in -------------------------------------------------------------------------------


def test_a_signed_delivery_is_a_task_in_the_handler(site: web.Site) -> None:
    answer = send(site, token(body=b"a=1", member="b1:4"), body=b"a=1")
    found = answer.json
    assert answer.status_int == 200
    assert found["task"] == ["mail_t1", "t1", "mail", 4, 3, 2, "b1:4"]
    assert {key: found["headers"].get(key) for key in HEADERS} == HEADERS
    assert found["address"] == "0.1.0.2"
    assert TOKEN not in found["headers"]
    assert current_task() is None


def test_the_body_that_was_hashed_is_there_for_the_handler(site: web.Site) -> None:
    form = "application/x-www-form-urlencoded"
    found = send(site, token(body=b"a=1+2"), body=b"a=1+2", CONTENT_TYPE=form).json
    assert (found["body"], found["form"]) == ("a=1+2", "1 2")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_every_method_of_a_task_is_let_in(site: web.Site, method: str) -> None:
    signed = token(method, "/worker/ä b".encode().decode("latin-1"), "q=%zz&x")
    found = send(site, signed, "/worker/%C3%A4%20b?q=%zz&x", REQUEST_METHOD=method).json
    assert (found["method"], found["task"][0]) == (method, "mail_t1")


def test_the_path_of_the_base_url_is_the_proxys_matter(site: web.Site) -> None:
    answer = send(site, token(), "/worker/mail", SCRIPT_NAME="/counter")
    assert answer.json["task"][0] == "mail_t1"


@pytest.mark.parametrize(("path", "over_http"), [("/_ah/queue/mail", 403), ("/worker/mail", 301)])
def test_urls_of_tasks_alone_are_open_to_it(site: web.Site, path: str, over_http: int) -> None:
    assert send(site, token(path=path), path).status_int == 200
    assert send(site, None, path).status_int == over_http
    over_https: dict[str, Any] = {"wsgi.url_scheme": "https"}
    assert send(site, None, path, **over_https).status_int == 403


def test_it_is_no_request_of_a_browser_whatever_headers_the_task_has(site: web.Site) -> None:
    own: dict[str, Any] = {"HTTP_ORIGIN": "https://elsewhere.example", "HTTP_SEC_FETCH_SITE": "cross-site"}
    assert send(site, token(), **own).status_int == 200
    assert send(site, None, "/open", **own).status_int == 403


def test_a_host_that_is_not_ours_is_refused_as_for_everybody(site: web.Site) -> None:
    assert send(site, token(), HTTP_HOST="10.0.0.5:8080").status_int == 400


def test_the_task_is_current_while_the_body_is_made_and_not_after(site: web.Site) -> None:
    signed = token("GET", "/late")
    answer = send(site, signed, "/late", REQUEST_METHOD="GET")
    assert answer.body == b"t1 t1"
    assert current_task() is None


def test_a_failure_tells_the_worker_its_reason_in_plain_text(site: web.Site) -> None:
    answer = send(site, token(path="/worker/broken"), "/worker/broken")
    assert answer.status_int == 500
    assert answer.content_type == "text/plain"
    assert answer.text == "500 Internal Server Error: RuntimeError: the engine room is on fire\n"


def test_engine_headers_that_were_not_signed_stay_outside(site: web.Site) -> None:
    found = send(site, token(), HTTP_X_GOOGLE_THING="1", HTTP_X__APPENGINE_TASKNAME="x").json
    keys = {key for key in found["headers"] if "GOOGLE" in key or "APPENGINE" in key}
    assert keys == set(HEADERS)


def called(text: str) -> str:
    """A deferred function."""
    task = current_task()
    assert task is not None
    if text == "fail":
        raise ValueError("not now")
    if text == "fail for good":
        raise PermanentTaskFailure("never: ä\n")
    return text


@pytest.mark.parametrize(
    ("text", "status", "failure", "final"),
    [
        ("work", 200, None, None),
        ("fail", 500, "ValueError%3A%20not%20now", None),
        ("fail for good", 200, "PermanentTaskFailure%3A%20never%3A%20%C3%A4%0A", "1"),
    ],
)
def test_a_deferred_call_runs_and_its_failure_is_told(
    site: web.Site, text: str, status: int, failure: str | None, final: str | None
) -> None:
    path = deferred.DEFAULT_URL
    body = deferred.serialize(called, text)
    answer = send(site, token(path=path, body=body), path, body)
    assert answer.status_int == status
    assert answer.headers.get("X-Lastacross-Failure") == failure
    assert answer.headers.get("X-Lastacross-Final") == final


def test_a_chunked_delivery_is_read_and_compared(site: web.Site) -> None:
    request = Request.blank("/worker/mail", environ={**HEADERS, TOKEN: token(body=b"abc"), "HTTP_HOST": HOST})
    request.method = "POST"
    request.body = b"abc"
    del request.environ["CONTENT_LENGTH"]
    request.environ["HTTP_TRANSFER_ENCODING"] = "chunked"
    answer = request.get_response(site.outside)
    assert (answer.status_int, answer.json["body"]) == (200, "abc")


# --- refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signed", "why"),
    [
        ("", "its token is not valid"),
        ("nonsense", "its token is not valid"),
        ("ä" * 10, "its token is not valid"),
        ("a" * 5000, "its token is not valid"),
        (token(key="the key of another application"), "a different SECRET_KEY"),
        (token()[:-1], "its token is not valid"),
        ("x" + token(), "its token is not valid"),
        (f"{token()},{token()}", "its token is not valid"),
        (Signatures(SECRET_KEY).dump_token("delivery", {"task": "mail_t1"}), "its token is not valid"),
        (Signatures(SECRET_KEY).sign("delivery", b"bm90IEpTT04=").decode(), "do not match this version"),
        (Signatures(SECRET_KEY).sign("delivery", b"W10=").decode(), "do not match this version"),
        (Signatures(SECRET_KEY).sign("delivery", b"e30=").decode(), "do not match this version"),
        (Signatures(SECRET_KEY).sign("deferred", token().encode()).decode(), "its token is not valid"),
        (token(signed_at=float("nan")), "was signed"),
        (token(signed_at=float("inf")), "was signed"),
    ],
    # Not the tokens themselves: two processes that run the tests must agree on the names.
    ids=[
        *[
            "empty",
            "nonsense",
            "not ASCII",
            "long",
            "another key",
            "cut off",
            "one more letter",
            "two tokens",
        ],
        *["unsigned claims", "a signed text", "a signed list", "a signed object", "another purpose"],
        *["signed at no time", "signed at infinity"],
    ],
)
def test_a_token_that_is_none_of_ours_or_of_now_is_refused_and_the_log_says_why(
    site: web.Site, caplog: pytest.LogCaptureFixture, signed: str, why: str
) -> None:
    with caplog.at_level(logging.WARNING):
        answer = send(site, signed)
    assert answer.status_int == 403
    assert answer.content_type == "text/plain"
    assert why in answer.text
    assert answer.headers["X-Request-Id"]
    assert any("delivery.refuse" in line and why in line for line in map(str, caplog.messages))


@pytest.mark.parametrize(
    ("signed_for", "why"),
    [
        ({"method": "GET"}, "for the method GET"),
        ({"path": "/worker/other"}, "another path or query"),
        ({"query": "a=1"}, "another path or query"),
        ({"path": "/worker/mail?"}, "another path or query"),
        ({"headers": deliveries.headers_digest({})}, "X-AppEngine-* headers"),
        ({"body": b"another"}, "its body"),
    ],
)
def test_a_token_of_another_request_is_refused(site: web.Site, signed_for: dict[str, Any], why: str) -> None:
    answer = send(site, token(**signed_for))
    assert (answer.status_int, why in answer.text) == (403, True)


@pytest.mark.parametrize(("age_seconds", "when"), [(330.0, "330 s ago"), (-330.0, "330 s ahead")])
def test_a_token_of_another_time_is_refused_with_how_far_the_clocks_are_apart(
    site: web.Site, monkeypatch: pytest.MonkeyPatch, age_seconds: float, when: str
) -> None:
    clock = StoppedClock()
    monkeypatch.setattr(SYSTEM, "now", clock.now, raising=True)
    signed = token(age_seconds=age_seconds)
    answer = send(site, signed)
    assert (answer.status_int, when in answer.text) == (403, True)
    clock.advance(-age_seconds * 0.1)
    assert send(site, signed).status_int == 200


@pytest.mark.parametrize(
    "change",
    [
        {"HTTP_X_APPENGINE_TASKRETRYCOUNT": "0"},
        {"HTTP_X_APPENGINE_QUEUENAME": "other"},
        {"HTTP_X_APPENGINE_TASKPREVIOUSRESPONSE": "503"},
        {"HTTP_X_APPENGINE_USER_IS_ADMIN": "1"},
        {"HTTP_X_APPENGINE_CRON": "true"},
    ],
)
def test_a_header_that_was_altered_or_added_on_the_way_is_refused(
    site: web.Site, change: dict[str, Any]
) -> None:
    assert send(site, token(), **change).status_int == 403


def test_a_recorded_token_is_of_no_use_for_anything_else(site: web.Site) -> None:
    signed = token(body=b"a=1")
    assert send(site, signed, body=b"a=1").status_int == 200
    assert send(site, signed, body=b"a=2").status_int == 403
    assert send(site, signed, body=b"a=1&a=2").status_int == 403
    assert send(site, signed, "/worker/other", b"a=1").status_int == 403
    assert send(site, signed, "/worker/mail?a=1", b"a=1").status_int == 403
    assert send(site, signed, "/_ah/queue/deferred", b"a=1").status_int == 403
    assert send(site, signed, body=b"a=1", REQUEST_METHOD="PUT").status_int == 403


def test_the_same_delivery_sent_again_is_a_second_delivery(site: web.Site) -> None:
    signed = token(age_seconds=250)
    assert [send(site, signed).status_int for _ in range(2)] == [200, 200]


def test_without_a_token_the_headers_are_stripped_and_it_is_no_task(site: web.Site) -> None:
    found = send(site, None, "/open").json
    assert found["task"] is None
    assert not {key for key in found["headers"] if "APPENGINE" in key}
    assert found["address"] == "203.0.113.9"


@pytest.mark.parametrize("key", ["presented_delivery", "delivery_claims", "task", "Task"])
def test_a_server_in_front_cannot_put_the_marks_into_the_environ(site: web.Site, key: str) -> None:
    mark: dict[str, Any] = {f"lastacross.{key}": object()}
    assert send(site, None, "/open", **mark).json["task"] is None
    assert send(site, None, "/_ah/queue/mail", **mark).status_int == 403


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_over_the_limit_is_refused_for_deliveries_too(site: web.Site, is_chunked: bool) -> None:
    body = b"x" * 2049
    request = Request.blank("/worker/mail", environ={**HEADERS, TOKEN: token(body=body), "HTTP_HOST": HOST})
    request.method = "POST"
    request.body = body
    if is_chunked:
        del request.environ["CONTENT_LENGTH"]
        request.environ["HTTP_TRANSFER_ENCODING"] = "chunked"
    answer = request.get_response(site.outside)
    assert answer.status_int == 413
    assert answer.text.startswith("413 ")


def test_a_body_that_ends_early_is_refused(site: web.Site) -> None:
    request = Request.blank("/worker/mail", environ={**HEADERS, TOKEN: token(body=b"abc"), "HTTP_HOST": HOST})
    request.method = "POST"
    request.body = b"abc"
    request.environ["CONTENT_LENGTH"] = "5"
    answer = request.get_response(site.outside)
    assert answer.status_int == 400
    assert "shorter than its declared length" in answer.text


def test_the_answer_to_a_head_that_is_refused_has_no_body(site: web.Site) -> None:
    answer = send(site, "nonsense", REQUEST_METHOD="HEAD")
    assert (answer.status_int, answer.body) == (403, b"")


def test_a_token_fits_into_a_header_whatever_the_names() -> None:
    longest = token(task=f"{'q' * 100}_{'n' * 500}", lease="l" * 60, member=f"{'b' * 600}:999999")
    assert len(longest) <= deliveries.MAX_TOKEN_CHARACTERS
    assert json.dumps(longest).isascii()
    assert deliveries.load_claims(Signatures(SECRET_KEY), longest).task.endswith("n")


def test_a_run_of_cron_comes_from_its_own_address_and_passes_login_admin(site: web.Site) -> None:
    headers: dict[str, Any] = HEADERS | {
        "HTTP_X_APPENGINE_CRON": "true",
        "HTTP_X_APPENGINE_QUEUENAME": "__cron",
    }
    signed = token("GET", headers=deliveries.headers_digest(headers))

    answer = send(site, signed, REQUEST_METHOD="GET", **headers)

    seen = json.loads(answer.body)
    assert seen["address"] == "0.1.0.1"
    assert seen["headers"]["HTTP_X_APPENGINE_CRON"] == "true"


@pytest.mark.parametrize("name", ["HTTP_X_APPENGINE_CRON", "HTTP_x_appengine_Cron"])
def test_nobody_outside_can_say_that_they_are_cron(site: web.Site, name: str) -> None:
    refused = site.request("/worker/mail", {name: "true", "wsgi.url_scheme": "https"})
    assert refused.status_int == 403

    seen = json.loads(site.request("/open", {name: "true"}).body)

    assert "HTTP_X_APPENGINE_CRON" not in {key.upper() for key in seen["headers"]}
