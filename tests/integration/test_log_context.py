"""Log records made while a task is delivered name its queue, its name, its attempt and its batch."""

import contextvars
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from lastacross import config, deferred, log_context, logs, urlfetch
from lastacross.broker.record import Leased
from lastacross.errors import StoreUnavailableError
from lastacross.webapp import stack
from lastacross.worker.deadline import Deadlines
from lastacross.worker.delivery import Delivery, Outcome
from tests.support.leased import leased

log = logging.getLogger("shop.orders")


@dataclass
class Records:
    """The records of a test."""

    out: io.StringIO

    def of(self, event: str) -> list[dict[str, Any]]:
        """All records with this event, with their context alone."""
        names = {"queue", "task", "attempt", "batch", "request_id"}
        found = [json.loads(line) for line in self.out.getvalue().splitlines()]
        return [
            {name: value for name, value in record.items() if name in names}
            for record in found
            if record["event"] == event
        ]


@pytest.fixture
def records(configuration: config.Config) -> Iterator[Records]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    logs.configure(configuration.settings, out)
    yield Records(out)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def deliver() -> Iterator[Callable[[Any, Leased], Outcome]]:
    """Deliver a task to a WSGI application inside the engine's layers, or to ``deferred``."""
    deadlines = Deadlines(lambda label: None)
    deadlines.start()

    def run(application: Any, task: Leased) -> Outcome:
        inside = stack.inside(config.current(), lambda name: application, {})
        calls = {deferred.DEFAULT_URL: deferred.outcome}
        return Delivery(inside, deadlines, direct_calls=calls).deliver(task)

    yield run
    deadlines.stop()


def answering(action: Callable[[], None]) -> Any:
    """A WSGI application that does something and answers 200."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        action()
        start_response("200 OK", [])
        return [b""]

    return application


def member(**options: Any) -> Leased:
    """The fourth attempt of a batch's member."""
    return leased("mail-out", name="t1", failures=2, lost=1, batch="b1:7", **options)


def assert_context(records: Records, event: str, task: Leased, count: int = 1) -> str:
    """All records of this event have the context of the delivery; returns its request id."""
    found = records.of(event)
    assert len(found) == count
    ids = {record.pop("request_id") for record in found}
    assert found == [{"queue": "mail-out", "task": "t1", "attempt": 4, "batch": "b1"}] * count
    [request_id] = ids
    assert len(request_id) == 24
    return str(request_id)


def test_the_applications_own_records_have_it(records: Records, deliver: Any) -> None:
    outcome = deliver(answering(lambda: log.info("sent %d mails", 3)), member())

    assert outcome.is_success
    assert_context(records, "sent 3 mails", member())
    log.info("afterwards")
    assert records.of("afterwards") == [{}]


def test_records_of_one_attempt_have_one_request_id_and_another_attempt_has_another(
    records: Records, deliver: Any
) -> None:
    def twice() -> None:
        log.info("one")
        log.info("one")

    deliver(answering(twice), member())
    first = assert_context(records, "one", member(), 2)
    deliver(answering(lambda: log.info("two")), leased("mail-out", name="t1", failures=3, lost=1))
    [second] = records.of("two")

    assert second.pop("request_id") != first
    assert second == {"queue": "mail-out", "task": "t1", "attempt": 5}


def test_what_the_record_says_itself_stays(records: Records, deliver: Any) -> None:
    own = logs.get("shop.orders")
    deliver(answering(lambda: own.info("moved", queue="other", attempt=1)), member())
    [found] = records.of("moved")
    assert (found["queue"], found["attempt"], found["task"]) == ("other", 1, "t1")


def noted_by_a_deferred_call() -> None:
    log.info("deferred")


def test_a_deferred_call_has_it(records: Records, deliver: Any) -> None:
    task = member(url=deferred.DEFAULT_URL, payload=deferred.serialize(noted_by_a_deferred_call))

    assert deliver(None, task).is_success

    assert_context(records, "deferred", task)


def fails() -> None:
    raise ValueError("no")


def is_unavailable() -> None:
    raise StoreUnavailableError("Redis is not available")


@pytest.mark.parametrize(
    ("action", "event"), [(fails, "request.fail"), (is_unavailable, "request.unavailable")]
)
def test_a_failed_request_has_it(
    records: Records, deliver: Any, action: Callable[[], None], event: str
) -> None:
    assert not deliver(answering(action), member()).is_success

    assert_context(records, event, member())


def test_the_engines_record_of_an_attempt_that_raised_has_it(records: Records, deliver: Any) -> None:
    def end() -> None:
        raise SystemExit(3)

    assert not deliver(answering(end), member()).is_success

    assert_context(records, "task.error", member())


def test_a_thread_of_the_application_has_it_in_a_copied_context(records: Records, deliver: Any) -> None:
    def start_threads() -> None:
        context = contextvars.copy_context()
        threads = [
            threading.Thread(target=context.run, args=(log.info, "with")),
            threading.Thread(target=log.info, args=("without",)),
        ]
        for thread in threads:
            thread.start()
            thread.join()

    deliver(answering(start_threads), member())

    assert_context(records, "with", member())
    assert records.of("without") == [{}]


def test_the_threads_of_urlfetch_have_it(records: Records, deliver: Any) -> None:
    def fetch() -> None:
        rpc = urlfetch.create_rpc()
        rpc.start(lambda limit: log.info("in its thread"))  # type: ignore[arg-type, return-value]
        rpc.wait()

    deliver(answering(fetch), member())

    assert_context(records, "in its thread", member())


def test_a_request_has_its_id_alone(records: Records) -> None:
    found = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        found.append(log_context.fields())
        log.info("in a request")
        start_response("200 OK", [])
        return [b""]

    outside = stack.outside(config.current(), lambda name: application, {})
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/",
        "HTTP_HOST": "localhost",
        "HTTP_X_REQUEST_ID": "a-proxy-s-id-of-16",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
    }
    body = outside(environ, lambda *_: lambda _data: None)
    list(body)
    body.close()  # type: ignore[attr-defined]

    assert found == [{"request_id": "a-proxy-s-id-of-16"}]
    assert records.of("in a request") == found
    assert records.of("request.answer") == found
    assert log_context.fields() == {}


@pytest.mark.parametrize("text", [b"", b"moved"])
def test_the_reason_of_a_redirect_names_its_location(deliver: Any, configuration: Any, text: bytes) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("302 Found", [("location", "/sign-in?next=/work")])
        return [text]

    outcome = deliver(application, member())

    reason = "answered 302 (to /sign-in?next=/work; redirects are not followed)"
    assert outcome.reason == (f"{reason}: moved" if text else reason)


def test_the_location_of_a_success_is_not_shown(deliver: Any, configuration: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("201 Created", [("Location", "/made")])
        return [b""]

    outcome = deliver(application, member())

    assert (outcome.is_success, outcome.reason) == (True, "answered 201")
