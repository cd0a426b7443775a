"""The fast path of a task's request is a plain request: what is prepared or remembered changes nothing."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webapp2
from webob import Request

from lastacross.broker.record import Leased
from lastacross.errors import DeadlineExceededError
from lastacross.webapp import webapp2_compat
from lastacross.worker.deadline import Deadlines
from lastacross.worker.delivery import Delivery
from tests.support import web
from tests.support.leased import leased

MAIN = """
import time
import webapp2
from lastacross import taskqueue

seen = []

class Work(webapp2.RequestHandler):
    def dispatch(self):
        request, application = webapp2.get_request(), webapp2.get_app()
        seen.append(["dispatch", request.environ is self.request.environ, application.router is app.router])
        super().dispatch()

    def post(self):
        task = taskqueue.current_task()
        environ = {key: value for key, value in self.request.environ.items() if isinstance(value, str)}
        seen.append([task.name, task.attempt, environ, self.request.body.decode("latin-1")])
        self.request.environ["HTTP_X_LEFT"] = "left by " + task.name
        self.request.registry["left"] = task.name
        self.response.headers["X-Left"] = task.name

    put = post

class Broken(webapp2.RequestHandler):
    def post(self):
        raise RuntimeError("broken by " + taskqueue.current_task().name)

class Endless(webapp2.RequestHandler):
    def post(self):
        while True:
            time.sleep(0.001)

app = webapp2.WSGIApplication([("/work.*", Work), ("/broken", Broken), ("/endless", Endless)])
"""
APP_YAML = """
handlers:
- {url: /page, static_files: page.html, upload: page.html, require_matching_file: true}
- {url: /work, script: main.app, login: admin}
- {url: /.*, script: main.app}
"""
ALWAYS = {
    "SCRIPT_NAME": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_HOST": "localhost",
    "REMOTE_ADDR": "0.1.0.2",
    "wsgi.url_scheme": "http",
    "REQUEST_METHOD": "POST",
}
FORM: dict[str, Any] = {"params": {"row": "1", "text": "a b&c"}}
TASKS: dict[str, dict[str, Any]] = {
    "bytes": {"payload": b"\x00\xff"},
    "empty": {},
    "text": {"payload": "grün"},
    "form": FORM,
    "query": {"method": "PUT", "url": "/work/%C3%A9?a=1&b=%20"},
    "headers": {**FORM, "headers": {"X-Mine": "1", "User-Agent": "Mine", "X-AppEngine-QueueName": "forged"}},
    "retry": {"failures": 2, "lost": 1, "unreached": 1, "previous_response": 503},
    "other queue": {"queue": "mail"},
    "cron": {"queue": "lastacross-cron"},
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[web.Site]:
    """A small webapp2 application."""
    with web.site(tmp_path, MAIN, APP_YAML) as found:
        yield found


@pytest.fixture
def deadlines() -> Iterator[Deadlines]:
    """Deadlines that run."""
    running = Deadlines(lambda label: None)
    running.start()
    yield running
    running.stop()


def new_delivery(site: web.Site, deadlines: Deadlines, **options: Any) -> Delivery:
    """A delivery that has prepared nothing yet."""
    return Delivery(site.inside, deadlines, direct_calls={}, **options)


def seen(delivery: Delivery, task: Leased) -> list[Any]:
    """What the handler sees of one attempt."""
    found: list[Any] = __import__("main").seen
    found.clear()
    assert delivery.deliver(task).is_success
    return list(found)


# --- environ and headers ------------------------------------------------------------------


@pytest.mark.parametrize("kind", TASKS)
def test_a_prepared_delivery_sees_what_the_first_one_of_a_process_sees(
    site: web.Site, deadlines: Deadlines, kind: str
) -> None:
    busy = new_delivery(site, deadlines)
    for number, options in enumerate(TASKS.values()):
        for _ in range(2):
            assert busy.deliver(leased(name=f"before-{number}", **options)).is_success
    task = leased(name="mine", **TASKS[kind])
    assert seen(busy, task) == seen(new_delivery(site, deadlines), task)


def test_the_environ_is_that_of_a_plain_request_and_the_task(site: web.Site, deadlines: Deadlines) -> None:
    delivery = new_delivery(site, deadlines)
    delivery.deliver(leased(name="before", **FORM))
    (hook, (name, attempt, environ, body)) = seen(
        delivery, leased(name="mine", failures=1, previous_response=500, headers={"X-Mine": "1"}, **FORM)
    )
    assert hook == ["dispatch", True, True]
    assert (name, attempt, body) == ("mine", 2, "row=1&text=a+b%26c")
    environ = {key: value for key, value in environ.items() if not key.startswith(("webob.", "SERVER_SOFT"))}
    assert environ == {
        **ALWAYS,
        "PATH_INFO": "/work",
        "QUERY_STRING": "",
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
        "HTTP_X_MINE": "1",
        "HTTP_USER_AGENT": "AppEngine-Google; (+http://code.google.com/appengine)",
        "HTTP_X_APPENGINE_QUEUENAME": "default",
        "HTTP_X_APPENGINE_TASKNAME": "mine",
        "HTTP_X_APPENGINE_TASKRETRYCOUNT": "1",
        "HTTP_X_APPENGINE_TASKEXECUTIONCOUNT": "1",
        "HTTP_X_APPENGINE_TASKETA": "1800000000.000000",
        "HTTP_X_APPENGINE_TASKPREVIOUSRESPONSE": "500",
    }


def test_many_urls_and_long_ones_are_delivered_like_few_short_ones(
    site: web.Site, deadlines: Deadlines
) -> None:
    delivery = new_delivery(site, deadlines)
    for number in range(600):
        assert seen(delivery, leased(url=f"/work/{number}"))[1][2]["PATH_INFO"] == f"/work/{number}"
    long = f"/work/{'x' * 1500}"
    for _ in range(2):
        assert seen(delivery, leased(url=long))[1][2]["PATH_INFO"] == long


# --- errors, logs, limits -----------------------------------------------------------------


def test_each_failure_has_its_own_error_reason_and_log_record(
    site: web.Site, deadlines: Deadlines, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = new_delivery(site, deadlines)
    with caplog.at_level("ERROR"):
        outcomes = [delivery.deliver(leased(name=name, url="/broken")) for name in ("one", "two")]
    for name, outcome in zip(("one", "two"), outcomes, strict=True):
        assert (outcome.status, str(outcome.error)) == (500, f"broken by {name}")
        assert f"RuntimeError: broken by {name}" in outcome.reason
    assert len([each for each in caplog.records if "request.fail" in each.getMessage()]) == 2


def test_a_deadline_ends_a_prepared_delivery_and_not_the_next_one(
    site: web.Site, deadlines: Deadlines
) -> None:
    short = new_delivery(site, deadlines, deadline_seconds=0.05)
    for name in ("one", "two"):
        outcome = short.deliver(leased(name=name, url="/endless"))
        assert (outcome.status, type(outcome.error)) == (500, DeadlineExceededError)
        assert short.deliver(leased(name=f"after-{name}")).is_success
    assert deadlines.watched == 0


def test_a_remembered_handler_still_refuses_visitors(site: web.Site, deadlines: Deadlines) -> None:
    assert new_delivery(site, deadlines).deliver(leased(url="/work")).is_success
    for _ in range(2):
        assert site.post("/work").status_int == 403
        # The administrator gets as far as the handler, which has no GET.
        assert site.request("/work", site.administrator).status_int == 405


def test_a_file_that_appears_later_is_served_before_the_script(site: web.Site, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for _ in range(2):
        assert site.get("/page").status_int == 404
    page.write_text("a file")
    assert site.get("/page").text == "a file"


# --- webapp2 ------------------------------------------------------------------------------


class Echo(webapp2.RequestHandler):  # type: ignore[misc]
    """Answers with everything that it may ask a request for."""

    def post(self, *args: str) -> None:
        """Read the fields several times, and change the query in between."""
        request = self.request
        found = [args, request.path, request.arguments(), request.get("a"), request.get("missing", "none")]
        found += [request.get_all("a"), request.get_all("missing"), request.get_all("missing", ["x"])]
        found += [sorted(request.params.items()), request.get_range("n", 1, 9, default=5), request.registry]
        request.GET["a"] = "added"
        found += [request.get_all("a"), request.query_string]
        request.environ["QUERY_STRING"] = "a=replaced"
        found += [request.get_all("a"), sorted(request.params.items())]
        request.mine = "kept in the environ"
        found += [request.environ["webob.adhoc_attrs"], request.mine, type(request.app).__name__]
        self.response.headers["X-Own"] = "1"
        self.response.write(json.dumps(found))

    put = get = post


class Own(webapp2.RequestHandler):  # type: ignore[misc]
    """Answers without touching the response, with an own one, and with other defaults."""

    def get(self, kind: str) -> Any:
        """Answer."""
        if kind == "own":
            return webapp2.Response("text", status=202, content_type="text/plain")
        if kind == "copy":
            return self.response.copy()
        if kind == "status":
            self.response.status = 204
        if kind == "clear":
            self.response.write("gone")
            self.error(409)
        return None


ROUTES = [("/echo/?(.*)", Echo), webapp2.Route("/named/<kind>", Own)]
FORM_TYPE = "application/x-www-form-urlencoded"
REQUESTS: list[dict[str, Any]] = [
    {"path": "/echo", "method": "POST", "body": b"a=1&b=2&a=3&n=7", "content_type": FORM_TYPE},
    {"path": "/echo/x%20y", "method": "POST", "body": b"a=%C3%A9+1&&c&=d", "content_type": FORM_TYPE},
    {"path": "/echo?a=query", "method": "POST", "body": b"a=form&n=70", "content_type": FORM_TYPE},
    {"path": "/echo", "method": "POST", "body": "a=ü".encode(), "content_type": FORM_TYPE},
    {"path": "/echo", "method": "POST", "body": b"a=b=c;d&e=%zz", "content_type": FORM_TYPE},
    {"path": "/echo", "method": "POST", "body": b"not a form", "content_type": "text/plain"},
    {"path": "/echo", "method": "PUT", "body": b"a=1", "content_type": FORM_TYPE},
    {"path": "/echo?a=1&a=2", "method": "GET"},
    *({"path": f"/named/{kind}", "method": "GET"} for kind in ("own", "copy", "status", "clear", "none")),
]


@pytest.mark.parametrize("request_of", REQUESTS, ids=lambda each: f"{each['method']} {each['path']}")
def test_a_prepared_webapp2_application_answers_as_a_plain_one(request_of: dict[str, Any]) -> None:
    plain, prepared = webapp2.WSGIApplication(ROUTES), webapp2.WSGIApplication(ROUTES)
    webapp2_compat.prepare(prepared)
    answers = []
    for application in (plain, prepared, prepared):
        given = dict(request_of)
        answer = Request.blank(given.pop("path"), **given).get_response(application)
        answers.append((answer.status, list(answer.headerlist), answer.body))
    assert answers[0] == answers[1] == answers[2]


def test_classes_of_the_application_itself_are_left_alone() -> None:
    class OwnRequest(webapp2.Request):  # type: ignore[misc]
        pass

    class OwnResponse(webapp2.Response):  # type: ignore[misc]
        default_content_type = "text/plain"

    application = webapp2.WSGIApplication(ROUTES)
    application.request_class, application.response_class = OwnRequest, OwnResponse
    webapp2_compat.prepare(application)
    answer = Request.blank("/named/none").get_response(application)
    assert (application.request_class, application.response_class) == (OwnRequest, OwnResponse)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_other_defaults_of_webapp2s_response_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    application = webapp2.WSGIApplication(ROUTES)
    webapp2_compat.prepare(application)
    assert Request.blank("/named/none").get_response(application).content_type == "text/html"
    monkeypatch.setattr(webapp2.Response, "default_content_type", "application/json")
    assert Request.blank("/named/none").get_response(application).content_type == "application/json"


def test_responses_and_requests_share_nothing() -> None:
    application = webapp2.WSGIApplication([])
    webapp2_compat.prepare(application)
    one, two = application.response_class(), application.response_class()
    one.headers["X-One"] = "1"
    one.write("text")
    assert ("X-One" in two.headers, two.body, two.status) == (False, b"", "200 OK")
    first, second = (application.request_class({"wsgi.input": io.BytesIO()}) for _ in range(2))
    first.registry["one"] = 1
    assert second.registry == {}
