"""One attempt: what the handler sees, and which answers are a success (docs/appengine.md, "Delivery")."""

import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from lastacross import config, deferred, taskqueue
from lastacross.broker.record import Leased
from lastacross.errors import DeadlineExceededError
from lastacross.worker.deadline import Deadlines
from lastacross.worker.delivery import Delivery, DirectCall, Outcome
from tests.support.leased import leased

APPENGINE_AGENT = "AppEngine-Google; (+http://code.google.com/appengine)"
DEFERRED: Mapping[str, DirectCall] = {deferred.DEFAULT_URL: deferred.outcome}


class Handler:
    """A WSGI application that notes what it is asked and answers what it is told."""

    def __init__(self, status: str = "200 OK", body: Any = (b"",)) -> None:
        self.status = status
        self.body = body
        self.seen: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.current: list[taskqueue.CurrentTask | None] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer."""
        self.seen.append(environ)
        self.bodies.append(environ["wsgi.input"].read())
        self.current.append(taskqueue.current_task())
        start_response(self.status, [])
        return self.body


@pytest.fixture
def deadlines() -> Iterator[Deadlines]:
    """Deadlines that run."""
    running = Deadlines(lambda label: None)
    running.start()
    yield running
    running.stop()


def deliver(
    deadlines: Deadlines,
    application: Any,
    task: Leased,
    *,
    direct_calls: Mapping[str, DirectCall] = MappingProxyType({}),
    **options: Any,
) -> Outcome:
    """One attempt at one application."""
    return Delivery(application, deadlines, direct_calls=direct_calls, **options).deliver(task)


def appengine_headers(environ: dict[str, Any]) -> dict[str, str]:
    """The X-AppEngine-* headers of a request."""
    prefix = "HTTP_X_APPENGINE_"
    return {name.removeprefix(prefix): value for name, value in environ.items() if name.startswith(prefix)}


# --- headers ------------------------------------------------------------------------------


def test_a_first_attempt_has_exactly_the_five_headers_that_are_always_there(deadlines: Deadlines) -> None:
    handler = Handler()
    task = leased("mail-out", name="welcome")
    task.fields[b"eta"] = b"1800000030.250000"
    deliver(deadlines, handler, task)
    assert appengine_headers(handler.seen[0]) == {
        "QUEUENAME": "mail-out",
        "TASKNAME": "welcome",
        "TASKRETRYCOUNT": "0",
        "TASKEXECUTIONCOUNT": "0",
        "TASKETA": "1800000030.250000",
    }


def test_retries_count_lost_workers_and_executions_do_not(deadlines: Deadlines) -> None:
    handler = Handler()
    deliver(deadlines, handler, leased(failures=2, lost=3, previous_response=503))
    headers = appengine_headers(handler.seen[0])
    assert headers["TASKRETRYCOUNT"] == "5"
    assert headers["TASKEXECUTIONCOUNT"] == "2"
    assert headers["TASKPREVIOUSRESPONSE"] == "503"


def test_attempts_that_never_reached_the_application_are_retries_and_not_executions(
    deadlines: Deadlines,
) -> None:
    handler = Handler()
    deliver(deadlines, handler, leased(failures=5, unreached=2, lost=1))
    headers = appengine_headers(handler.seen[0])
    assert (headers["TASKRETRYCOUNT"], headers["TASKEXECUTIONCOUNT"]) == ("6", "3")
    [current] = handler.current
    assert current is not None
    assert (current.retry_count, current.execution_count) == (6, 3)


def test_an_attempt_after_one_without_an_answer_has_no_previous_response(deadlines: Deadlines) -> None:
    handler = Handler()
    deliver(deadlines, handler, leased(lost=1))
    headers = appengine_headers(handler.seen[0])
    assert headers["TASKRETRYCOUNT"] == "1"
    assert "TASKPREVIOUSRESPONSE" not in headers


def test_app_engine_is_the_user_agent_or_stands_after_the_tasks_own(deadlines: Deadlines) -> None:
    handler = Handler()
    deliver(deadlines, handler, leased())
    deliver(deadlines, handler, leased(headers={"User-Agent": "Mine/1.0"}))
    agents = [environ["HTTP_USER_AGENT"] for environ in handler.seen]
    assert agents == [APPENGINE_AGENT, f"Mine/1.0 {APPENGINE_AGENT}"]


def test_own_headers_arrive_and_those_of_the_engine_are_dropped(deadlines: Deadlines) -> None:
    handler = Handler()
    own = {
        "X-Mine": "1",
        "x-appengine-queuename": "forged",
        "X_AppEngine_TaskName": "forged",
        "X-AppEngine-TaskRetryCount": "9",
        "X-Google-Thing": "forged",
        "Content-Length": "999",
        "X-AppEngine-FailFast": "true",
    }
    deliver(deadlines, handler, leased(payload=b"abc", headers=own))
    environ = handler.seen[0]
    assert environ["HTTP_X_MINE"] == "1"
    assert environ["HTTP_X_APPENGINE_FAILFAST"] == "true"
    assert environ["HTTP_X_APPENGINE_QUEUENAME"] == "default"
    assert environ["HTTP_X_APPENGINE_TASKNAME"] == "t1"
    assert environ["HTTP_X_APPENGINE_TASKRETRYCOUNT"] == "0"
    assert environ["CONTENT_LENGTH"] == "3"
    assert "HTTP_X_GOOGLE_THING" not in environ


@pytest.mark.parametrize(
    ("options", "content_type", "body"),
    [
        ({"payload": b"\x00\x01"}, "application/octet-stream", b"\x00\x01"),
        ({"payload": "grün"}, "text/plain; charset=utf-8", "grün".encode()),
        ({"params": {"a": "1 2"}}, "application/x-www-form-urlencoded", b"a=1+2"),
        ({"payload": b"{}", "headers": {"content-type": "application/json"}}, "application/json", b"{}"),
        ({}, None, b""),
    ],
)
def test_a_body_arrives_with_its_content_type(
    deadlines: Deadlines, options: dict[str, Any], content_type: str | None, body: bytes
) -> None:
    handler = Handler()
    deliver(deadlines, handler, leased(**options))
    environ = handler.seen[0]
    given = environ.get("CONTENT_TYPE")
    assert (given or "").partition(";")[0] == (content_type or "").partition(";")[0]
    assert "HTTP_CONTENT_TYPE" not in environ
    assert environ["CONTENT_LENGTH"] == str(len(body))
    assert handler.bodies == [body]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_params_of_a_method_without_a_body_go_into_the_query(deadlines: Deadlines, method: str) -> None:
    handler = Handler()
    deliver(deadlines, handler, leased(url="/a%20b/ä", method=method, params={"q": "x&y"}))
    environ = handler.seen[0]
    assert environ["REQUEST_METHOD"] == method
    assert environ["QUERY_STRING"] == "q=x%26y"
    assert environ["PATH_INFO"].startswith("/a b/")
    assert environ["CONTENT_LENGTH"] == "0"
    assert handler.bodies == [b""]


def test_put_carries_a_body(deadlines: Deadlines) -> None:
    handler = Handler()
    deliver(deadlines, handler, leased(method="PUT", payload=b"new"))
    assert handler.seen[0]["REQUEST_METHOD"] == "PUT"
    assert handler.bodies == [b"new"]


def test_a_request_is_complete_by_the_rules_of_wsgi(deadlines: Deadlines) -> None:
    handler = Handler()
    deliver(deadlines, handler, leased())
    environ = handler.seen[0]
    assert environ["REMOTE_ADDR"] == "0.1.0.2"
    for key in ("SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL", "SCRIPT_NAME", "HTTP_HOST"):
        assert isinstance(environ[key], str)
    for key in ("version", "url_scheme", "input", "errors", "multithread", "multiprocess", "run_once"):
        assert f"wsgi.{key}" in environ


# --- answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "is_success"),
    [
        ("200 OK", True),
        ("204 No Content", True),
        ("299 Fine", True),
        ("199 Odd", False),
        ("302 Found", False),
        ("304 Not Modified", False),
        ("404 Not Found", False),
        ("500 Internal Server Error", False),
        ("503 Service Unavailable", False),
    ],
)
def test_200_to_299_is_success_and_nothing_else(deadlines: Deadlines, status: str, is_success: bool) -> None:
    outcome = deliver(deadlines, Handler(status, [b"because"]), leased())
    assert outcome.is_success is is_success
    assert outcome.status == int(status[:3])
    if not is_success:
        assert outcome.reason == f"answered {status[:3]}: because"


def test_an_exception_is_a_failure_with_its_reason(deadlines: Deadlines) -> None:
    def broken(environ: Any, start_response: Any) -> Any:
        raise ValueError("no such account")

    outcome = deliver(deadlines, broken, leased())
    assert not outcome.is_success
    assert outcome.status == 500
    assert outcome.reason == "ValueError: no such account"


def test_a_handler_that_calls_sys_exit_ends_its_attempt_only(deadlines: Deadlines) -> None:
    outcome = deliver(deadlines, lambda environ, start_response: sys.exit(3), leased())
    assert outcome.status == 500
    assert outcome.reason == "SystemExit: 3"


def test_an_application_that_answers_nothing_is_a_failure_that_says_so(deadlines: Deadlines) -> None:
    outcome = deliver(deadlines, lambda environ, start_response: [], leased())
    assert outcome.status == 500
    assert "start_response" in outcome.reason


def test_a_broken_record_is_a_failure_and_not_the_end_of_a_thread(deadlines: Deadlines) -> None:
    task = leased()
    task.fields[b"headers"] = b"{not json"
    assert deliver(deadlines, Handler(), task).status == 500


def test_a_record_whose_numbers_are_broken_is_a_failure_and_not_the_end_of_a_thread(
    deadlines: Deadlines,
) -> None:
    task = leased()
    task.fields[b"failures"] = b"some"

    outcome = deliver(deadlines, Handler(), task)

    assert outcome.status == 500
    assert "ValueError" in outcome.reason


class Chunks:
    """A body that is made while it is read."""

    def __init__(self, fails: bool = False) -> None:
        self.was_closed = False
        self.fails = fails

    def __iter__(self) -> Iterator[bytes]:
        yield b"one"
        if self.fails:
            raise OSError("half way")
        yield b"two"

    def close(self) -> None:
        """Note it."""
        self.was_closed = True


def test_a_generated_answer_is_read_to_its_end_and_closed(deadlines: Deadlines) -> None:
    body = Chunks()
    outcome = deliver(deadlines, Handler("500 No", body), leased())
    assert outcome.reason == "answered 500: onetwo"
    assert body.was_closed


def test_an_answer_that_breaks_half_way_is_a_failure_and_closed(deadlines: Deadlines) -> None:
    body = Chunks(fails=True)
    outcome = deliver(deadlines, Handler("200 OK", body), leased())
    assert not outcome.is_success
    assert outcome.reason == "OSError: half way"
    assert body.was_closed


def test_of_an_answer_without_end_only_the_beginning_is_kept(deadlines: Deadlines) -> None:
    outcome = deliver(deadlines, Handler("500 No", [b"x" * 1000] * 100), leased())
    assert "x" * 1000 in outcome.reason
    assert len(outcome.reason) < 2100


# --- the task in the handler --------------------------------------------------------------


def test_the_handler_can_ask_which_task_it_is(deadlines: Deadlines) -> None:
    handler = Handler()
    deliver(deadlines, handler, leased("mail", name="b1-7", batch="b1:7", failures=1))
    [current] = handler.current
    assert current is not None
    assert (current.id, current.name, current.queue_name) == ("mail_b1-7", "b1-7", "mail")
    assert (current.attempt, current.retry_count, current.batch_id) == (2, 1, "b1")
    assert handler.seen[0]["lastacross.task"] is current
    assert taskqueue.current_task() is None


# --- deferred -----------------------------------------------------------------------------

_called: list[Any] = []


def note(word: str) -> None:
    """A deferred function."""
    _called.append((word, taskqueue.current_task()))


def fail() -> None:
    """A deferred function that fails."""
    raise ValueError("never")


def fail_for_good() -> None:
    """A deferred function that must not be tried again."""
    raise deferred.PermanentTaskFailure("no use")


def deferred_task(function: Any, *args: Any, **options: Any) -> Leased:
    """A deferred call as it is delivered."""
    task = deferred.task(function, *args)
    return leased(name="d1", url=task.url, payload=task.payload, headers=dict(task.headers) | options)


def test_a_deferred_function_is_called_without_a_request(
    deadlines: Deadlines, configuration: config.Config
) -> None:
    _called.clear()
    handler = Handler()
    task = deferred_task(note, "hello")
    outcome = deliver(deadlines, handler, task, direct_calls=DEFERRED)
    assert outcome.is_success
    [(word, current)] = _called
    assert word == "hello"
    assert current is not None
    assert current.name == "d1"
    assert handler.seen == []


def test_a_deferred_function_that_fails_is_retried(
    deadlines: Deadlines, configuration: config.Config
) -> None:
    task = deferred_task(fail)
    outcome = deliver(deadlines, Handler(), task, direct_calls=DEFERRED)
    assert (outcome.status, outcome.reason, outcome.is_final) == (500, "ValueError: never", False)
    assert not outcome.is_success


@pytest.mark.parametrize("direct_calls", [DEFERRED, {}])
def test_a_deferred_function_that_fails_for_good_is_no_success_whatever_its_status(
    deadlines: Deadlines, configuration: config.Config, direct_calls: Mapping[str, DirectCall]
) -> None:
    task = deferred_task(fail_for_good)
    outcome = deliver(deadlines, deferred.handle, task, direct_calls=direct_calls)
    assert (outcome.status, outcome.is_final, outcome.is_success) == (200, True, False)
    assert outcome.reason == "PermanentTaskFailure: no use"


@pytest.mark.parametrize("kind", ["the application routes it", "own headers"])
def test_a_deferred_function_enters_by_wsgi_when_somebody_may_look(
    deadlines: Deadlines, configuration: config.Config, kind: str
) -> None:
    _called.clear()
    handler = Handler()
    own = {"X-Mine": "1"} if kind == "own headers" else {}
    task = deferred_task(note, "hello", **own)
    deliver(deadlines, handler, task, direct_calls=DEFERRED if kind == "own headers" else {})
    assert [environ["PATH_INFO"] for environ in handler.seen] == ["/_ah/queue/deferred"]
    assert handler.bodies == [task.body]
    assert _called == []


# --- the deadline -------------------------------------------------------------------------


def test_a_handler_over_its_deadline_is_a_failure_that_says_so(deadlines: Deadlines) -> None:
    def endless(environ: Any, start_response: Any) -> Any:
        while True:
            pass

    outcome = deliver(deadlines, endless, leased(), deadline_seconds=0.05)
    assert outcome.status == 500
    assert outcome.reason == "DeadlineExceededError: not done after 0.05 s"
    assert deadlines.watched == 0


def test_a_handler_may_catch_its_deadline_and_answer(deadlines: Deadlines) -> None:
    def careful(environ: Any, start_response: Any) -> Any:
        try:
            while True:
                pass
        except DeadlineExceededError:
            start_response("202 Later", [])
            return [b""]

    assert deliver(deadlines, careful, leased(), deadline_seconds=0.05).is_success


def test_what_a_deadline_cuts_off_is_not_the_current_task_any_more(deadlines: Deadlines) -> None:
    def endless(environ: Any, start_response: Any) -> Any:
        while True:
            pass

    deliver(deadlines, endless, leased(), deadline_seconds=0.05)
    assert taskqueue.current_task() is None
