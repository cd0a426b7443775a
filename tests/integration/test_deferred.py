"""Deferred calls: what is carried, what is refused, what each end answers, and the trust in between."""

import contextlib
import functools
import io
import logging
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from structlog.testing import capture_logs

from lastacross import config, datastore, deferred, store, taskqueue
from lastacross.broker import delivering
from lastacross.broker.record import body_of
from lastacross.errors import (
    BadTransactionStateError,
    DatastoreUnavailableError,
    DatastoreUsageError,
    InvalidTaskError,
    TaskTooLargeError,
    UnknownQueueError,
)
from lastacross.signing import Signatures
from tests.conftest import SECRET_KEY
from tests.support import databases

pytestmark = pytest.mark.usefixtures("configuration")

calls: list[Any] = []


@pytest.fixture(autouse=True)
def no_calls() -> Iterator[None]:
    """Start from no calls."""
    calls.clear()
    yield
    calls.clear()


# --- what is deferred ---------------------------------------------------------------------


def send_color(row: int, column: int, session_id: str) -> None:
    """As the quilt's worker was printed."""
    calls.append((row, column, session_id))


def record(*args: Any, **kwargs: Any) -> str:
    """Keep what it was called with."""
    calls.append((args, kwargs))
    return "recorded"


def fail(error: Exception) -> None:
    """Raise what it is given."""
    raise error


def fail_once(value: Any) -> None:
    """Raise at the first call only."""
    calls.append(value)
    if len(calls) == 1:
        raise ZeroDivisionError("the first time")


def stop_for_deadline() -> None:
    """End as a handler does whose deadline is over."""
    raise KeyboardInterrupt


def numbers() -> Iterator[int]:
    """A generator: calling it runs nothing."""
    yield 1


async def endless() -> AsyncIterator[int]:
    """An asynchronous generator: calling it runs nothing."""
    yield 1


a_lambda = lambda: None  # noqa: E731  # what a user might defer


class Counter:
    """An object with methods of each kind."""

    def __init__(self, start: int = 0) -> None:
        self.start = start
        calls.append(("made", start))

    def add(self, number: int) -> None:
        """A bound method."""
        calls.append(("added", self.start + number))

    def __call__(self, number: int) -> None:
        """The object itself."""
        calls.append(("called", self.start + number))

    def __secret(self) -> None:
        """Its name is mangled, so that it cannot be found by it."""

    @property
    def secret(self) -> Callable[[], None]:
        """The private method."""
        return self.__secret

    @classmethod
    def of_class(cls, number: int) -> None:
        """A class method."""
        calls.append((cls.__name__, number))

    @staticmethod
    def static(number: int) -> None:
        """A static method."""
        calls.append(("static", number))


class Numbers:
    """An object whose call is a generator's."""

    def __call__(self) -> Iterator[int]:
        """Run nothing."""
        yield 1


class Unpicklable:
    """As an open file or a session."""

    def __reduce__(self) -> str:
        raise TypeError("cannot pickle a session")


class Touch:
    """What an intruder would write: unpickling it calls a function."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return record, ("intruder",)


# --- what is carried ----------------------------------------------------------------------


def test_the_worker_of_the_quilt_is_called_with_its_arguments() -> None:
    """Row, column and session id, as the printed quilt sends them."""
    task = deferred.task(send_color, 3, column=5, session_id="Xk3")

    deferred.run(task.body)

    assert calls == [(3, 5, "Xk3")]


@pytest.mark.parametrize(
    "value",
    ["grün \U0001f3c1 \ud800", b"\x00\xff.", "", b"", None, 1.5, 2**70, {"a": [1, (2,)]}, frozenset({1})],
    ids=repr,
)
def test_arguments_come_back_as_they_were(value: Any) -> None:
    """Text, bytes, and whatever can be pickled, by position and by name; names like ours too."""
    deferred.run(deferred.serialize(record, value, obj=value, name=value, member=value))

    assert calls == [((value,), {"obj": value, "name": value, "member": value})]


CALLABLES: dict[str, tuple[Callable[..., Any], Any]] = {
    "static method": (Counter.static, ("static", 5)),
    "class method": (Counter.of_class, ("Counter", 5)),
    "class": (Counter, ("made", 5)),
    "partial": (functools.partial(record, 1), ((1, 5), {})),
}


@pytest.mark.parametrize(("function", "expected"), CALLABLES.values(), ids=CALLABLES)
def test_each_kind_of_callable_is_called(function: Callable[..., Any], expected: Any) -> None:
    """Static and class methods, classes, partials."""
    deferred.run(deferred.serialize(function, 5))

    assert calls == [expected]


def test_a_bound_method_takes_its_object_along() -> None:
    """Through invoke_member, so that only its name is carried."""
    counter = Counter(10)

    deferred.run(deferred.serialize(counter.add, 5))
    deferred.run(deferred.serialize(counter, 6))

    assert calls == [("made", 10), ("added", 15), ("called", 16)]


def test_builtins_are_called() -> None:
    """A function of a module, and a method of a built-in object."""
    assert deferred.run(deferred.serialize(len, "four")) == 4
    assert deferred.run(deferred.serialize("abc".upper)) == "ABC"
    assert deferred.run(deferred.serialize(dict.fromkeys, "a")) == {"a": None}


def test_run_returns_what_the_function_returns() -> None:
    """As App Engine's did."""
    assert deferred.run(deferred.serialize(record)) == "recorded"


# --- what is refused ----------------------------------------------------------------------


def test_a_lambda_is_refused_with_the_remedy() -> None:
    """At the call, not in the worker."""
    for function in (a_lambda, lambda: None):
        with pytest.raises(ValueError, match="lambda; define a function with def at the top level"):
            deferred.defer(function)


@pytest.mark.parametrize("refused", [a_lambda, "record", numbers])
def test_a_refused_call_is_a_pickling_error_too(refused: Any) -> None:
    """App Engine's programs catch this error."""
    with pytest.raises(pickle.PicklingError, match="cannot be deferred"):
        deferred.defer(refused)


def test_a_nested_function_is_refused_with_the_remedy() -> None:
    """A worker could not find it."""

    def nested() -> None:
        """Inside."""

    with pytest.raises(ValueError, match="defined inside a function; move it to the top level"):
        deferred.task(nested)


def test_a_function_of_the_started_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a worker, __main__ is another program."""
    monkeypatch.setattr(record, "__module__", "__main__")

    with pytest.raises(ValueError, match=r"__main__.*move it to a module"):
        deferred.task(record)


@pytest.mark.parametrize(
    "function", [numbers, endless, Numbers(), Numbers().__call__, functools.partial(numbers)]
)
def test_a_function_whose_call_runs_nothing_is_refused(function: Callable[..., Any]) -> None:
    """A generator would succeed without an effect."""
    with pytest.raises(ValueError, match="calling it runs nothing"):
        deferred.task(function)


def test_an_argument_that_cannot_be_pickled_is_refused() -> None:
    """The message has the cause."""
    with pytest.raises(ValueError, match=r"cannot pickle a session.*plain values"):
        deferred.task(record, Unpicklable())


def test_a_method_that_cannot_be_found_by_name_is_refused() -> None:
    """A private one: its name is mangled."""
    with pytest.raises(ValueError, match="no attribute '__secret'"):
        deferred.task(Counter().secret)


def test_what_cannot_be_called_is_refused() -> None:
    """A ValueError, as App Engine's."""
    with pytest.raises(ValueError, match="is not callable"):
        deferred.task("record")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["_queue", "_transactional"])
def test_task_refuses_what_belongs_to_the_adding(name: str) -> None:
    """Else the function would get it."""
    with pytest.raises(TypeError, match=f"{name} is an argument of defer"):
        deferred.task(record, **{name: "x"})  # type: ignore[arg-type]


# --- trust --------------------------------------------------------------------------------


def unsigned() -> bytes:
    """A pickle that would run code."""
    return pickle.dumps((Touch(), (), {}))


@pytest.mark.parametrize(
    "body",
    [
        unsigned(),
        b"",
        b".",
        unsigned() + b".AAAA",
        Signatures("another secret key, long enough too").sign("deferred", unsigned()),
        Signatures(SECRET_KEY).sign("channel", unsigned()),
        Signatures(SECRET_KEY).sign("deferred", unsigned())[:-1],
        b"x" + Signatures(SECRET_KEY).sign("deferred", unsigned()),
    ],
    ids=["unsigned", "empty", "dot", "made up", "other key", "other purpose", "cut", "altered"],
)
def test_nothing_without_our_signature_is_unpickled(body: bytes) -> None:
    """It fails for good, and no code of it runs."""
    with pytest.raises(deferred.PermanentTaskFailure, match="signature"):
        deferred.run(body)

    assert calls == []


def test_a_changed_secret_key_is_used_at_once(configuration: config.Config, app_root: Any) -> None:
    """Signatures are kept per configuration."""
    body = deferred.serialize(record)
    other = config.load(app_root, {"SECRET_KEY": "another secret key, long enough too"})

    config.use(other)

    with pytest.raises(deferred.PermanentTaskFailure, match="SECRET_KEY has changed"):
        deferred.run(body)


@pytest.mark.parametrize(
    "pickled",
    [
        b"no pickle",
        b"",
        pickle.dumps(7),
    ],
)
def test_what_cannot_be_unpickled_fails_for_good(pickled: bytes) -> None:
    """A broken pickle, something else."""
    body = Signatures(SECRET_KEY).sign("deferred", pickled)

    with pytest.raises(deferred.PermanentTaskFailure, match="cannot be unpickled"):
        deferred.run(body)


# --- calls of another release -------------------------------------------------------------


class Mailer:
    """Has lost its method ``send``."""


def delivered(body: bytes) -> tuple[int, taskqueue.CurrentTask]:
    """The status of a call's task, and the task afterwards."""
    current = taskqueue.CurrentTask("default_t", "t", "default", 1, 0, 0)
    with delivering(current):
        return deferred.outcome(body), current


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (b"cno_such_module\nfunction\n.", "does not have no_such_module.function"),
        (b"cno_such.module\nfunction\n.", "does not have no_such.module.function"),
        (b"ctests.integration\nno_such_name\n.", "does not have tests.integration.no_such_name"),
        (
            pickle.dumps((deferred.invoke_member, (Mailer(), "send"), {})),
            f"does not have {__name__}.Mailer.send",
        ),
    ],
    ids=["module", "package", "function", "method"],
)
def test_a_call_that_only_newer_code_has_is_retried(pickled: bytes, reason: str) -> None:
    status, task = delivered(Signatures(SECRET_KEY).sign("deferred", pickled))

    assert (status, task.has_failed_for_good) == (500, False)
    assert task.failure == f"this worker {reason}: is it older than the code that enqueued it?"


def test_a_module_that_cannot_be_imported_is_named_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs_of_a_newer_release.py").write_text("import a_library_that_is_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    body = Signatures(SECRET_KEY).sign("deferred", b"cjobs_of_a_newer_release\nf\n.")

    status, task = delivered(body)

    assert status == 500
    assert task.failure == (
        "this worker cannot import jobs_of_a_newer_release.f (ModuleNotFoundError: No module named "
        "'a_library_that_is_not_installed'): is it older than the code that enqueued it?"
    )


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ((send_color, (1, 2), {}), "send_color does not take the arguments of this call (missing a required"),
        ((send_color, (1, 2, "s", 4), {}), "send_color does not take the arguments of this call (too many"),
        ((deferred.invoke_member, (Mailer(), "__eq__"), {}), "does not take the arguments of this call"),
    ],
)
def test_a_changed_signature_is_shown_as_what_it_is(call: Any, problem: str) -> None:
    status, task = delivered(Signatures(SECRET_KEY).sign("deferred", pickle.dumps(call)))

    assert (status, task.has_failed_for_good) == (500, False)
    assert problem in str(task.failure)
    assert str(task.failure).endswith("has it changed since the call was enqueued?")
    assert calls == []


def test_a_type_error_of_the_function_itself_stays_its_own() -> None:
    status, task = delivered(deferred.serialize(fail, TypeError("unsupported operand")))

    assert status == 500
    assert task.failure == "TypeError: unsupported operand"


def with_session(function: Callable[..., None]) -> Callable[..., None]:
    """A decorator whose wrapper adds an argument, while the signature shows the wrapped function's."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> None:
        function("a session", *args)

    return wrapper


@with_session
def fail_in_session(session: str, number: int) -> None:
    """Raise a TypeError of its own."""
    raise TypeError(f"{session} does not support {number}")


def test_a_type_error_of_a_decorated_function_stays_its_own() -> None:
    status, task = delivered(deferred.serialize(fail_in_session, 7))

    assert status == 500
    assert task.failure == "TypeError: a session does not support 7"


# --- the task -----------------------------------------------------------------------------


def test_the_task_goes_to_the_deferred_url_without_headers_of_its_own() -> None:
    """So that a worker may call the function directly."""
    task = deferred.task(record)

    assert (task.url, task.method, task.header_items(), task.target) == (
        deferred.DEFAULT_URL,
        "POST",
        [],
        None,
    )
    assert not task.was_enqueued


def test_options_with_an_underscore_are_the_tasks() -> None:
    """The others are the function's."""
    options = taskqueue.TaskRetryOptions(task_retry_limit=1)

    task = deferred.task(
        record,
        _countdown=10,
        _headers={"X-Own": "1"},
        _name="once",
        _target="counter",
        _url="/other",
        _retry_options=options,
        countdown=20,
    )

    assert (task.name, task.target, task.url, task.retry_options) == ("once", "counter", "/other", options)
    assert (task.due_at(0), task.header_items()) == (10, [("X-Own", "1")])
    deferred.run(task.body)
    assert calls == [((), {"countdown": 20})]


def test_wrong_options_are_the_tasks_errors() -> None:
    """As taskqueue.Task raises them."""
    with pytest.raises(InvalidTaskError):
        deferred.task(record, _url="http://elsewhere/")


# --- outcomes -----------------------------------------------------------------------------

OUTCOMES: list[tuple[Exception, int, list[str]]] = [
    (deferred.PermanentTaskFailure("no use"), 200, ["deferred.permanent_failure"]),
    (deferred.SingularTaskFailure("busy"), 408, []),
    (ValueError("broken"), 500, ["deferred.failure"]),
]


@pytest.mark.parametrize(("error", "status", "events"), OUTCOMES, ids=lambda value: str(value)[:20])
def test_an_exception_becomes_a_status(error: Exception, status: int, events: list[str]) -> None:
    """Permanent: logged, 200. Singular: 408, no error log. Others: 500, logged with the traceback."""
    with capture_logs() as logged:
        assert deferred.outcome(deferred.serialize(fail, error)) == status

    errors = [entry for entry in logged if entry["log_level"] == "error"]
    assert [entry["event"] for entry in errors] == events
    assert all(entry["exc_info"] for entry in errors)


def test_success_is_200() -> None:
    """Whatever the function returns."""
    assert deferred.outcome(deferred.serialize(record)) == 200


def test_what_is_no_call_is_logged_and_not_tried_again() -> None:
    """200, as a PermanentTaskFailure."""
    with capture_logs() as logged:
        assert deferred.outcome(Signatures(SECRET_KEY).sign("deferred", b"no pickle")) == 200

    [line] = [entry for entry in logged if entry["event"] == "deferred.permanent_failure"]
    assert (line["log_level"], line["exc_info"]) == ("error", True)


def test_a_call_that_another_key_signed_is_tried_again(app_root: Any) -> None:
    """A worker with the wrong SECRET_KEY would otherwise end every task that it meets as if it were done."""
    body = deferred.serialize(record)
    right = config.current()

    config.use(config.load(app_root, {"SECRET_KEY": "another secret key, long enough too"}))
    with capture_logs() as logged:
        assert deferred.outcome(body) == 500
    config.use(right)

    [line] = [entry for entry in logged if entry["event"] == "deferred.unverified"]
    assert "signature" in line["reason"]
    assert len(calls) == 0
    assert (deferred.outcome(body), len(calls)) == (200, 1)


@pytest.mark.usefixtures("each_database")
def test_a_large_call_outlives_a_worker_with_another_key() -> None:
    """Where the task's own signature is right, the row's may still be another key's."""
    task = deferred.task(record, LARGE)
    with datastore.session() as session:
        session.execute(sqlalchemy.update(datastore.DeferredPayload).values(body=unsigned()))

    assert (deferred.outcome(task.body), rows()) == (500, 1)


def test_a_base_exception_goes_through() -> None:
    """A deadline is the worker's to handle."""
    with pytest.raises(KeyboardInterrupt):
        deferred.outcome(deferred.serialize(stop_for_deadline))


def test_received_tasks_are_logged_at_the_level_that_was_set(caplog: pytest.LogCaptureFixture) -> None:
    """DEBUG until set_log_level."""
    body = deferred.serialize(record)
    with caplog.at_level(logging.DEBUG, "lastacross.deferred"), capture_logs() as logged:
        deferred.outcome(body)
        deferred.set_log_level(logging.WARNING)
        try:
            deferred.outcome(body)
        finally:
            deferred.set_log_level(logging.DEBUG)

    assert [entry["log_level"] for entry in logged if entry["event"] == "deferred.run"] == [
        "debug",
        "warning",
    ]


def post(body: bytes, **environ: Any) -> tuple[str, dict[str, str], bytes]:
    """What the handler answers to a task with this body."""
    answered: list[Any] = []
    request = {
        "REQUEST_METHOD": "POST",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body + b"of the next request"),
        "lastacross.task": object(),
        **environ,
    }
    answer = b"".join(
        deferred.handle(request, lambda status, headers: answered.extend((status, dict(headers))))
    )
    assert int(answered[1]["Content-Length"]) == len(answer)
    return answered[0], answered[1], answer


def test_the_handler_answers_the_outcome() -> None:
    """The same as without WSGI."""
    assert post(deferred.serialize(send_color, 1, 2, "id"))[0] == "200 OK"
    assert calls == [(1, 2, "id")]
    for error, status, _ in OUTCOMES:
        assert post(deferred.serialize(fail, error))[0].startswith(str(status))


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_the_handler_takes_posts_only(method: str) -> None:
    """405 with Allow, and nothing runs."""
    status, headers, _ = post(deferred.serialize(record), REQUEST_METHOD=method)

    assert (status, headers["Allow"], calls) == ("405 Method Not Allowed", "POST", [])


def test_the_handler_takes_tasks_only() -> None:
    """403 for a request from outside, forged headers or not; even a signed body does not run."""
    status, _, text = post(
        deferred.serialize(record),
        **{"lastacross.task": None, "HTTP_X_APPENGINE_TASKNAME": "forged"},
    )

    assert (status, calls) == ("403 Forbidden", [])
    assert b"deferred tasks" in text


def request_of(body: bytes, **environ: Any) -> dict[str, Any]:
    """The environ of a task with this body, as a framework passes it on."""
    return {
        "REQUEST_METHOD": "POST",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "lastacross.task": object(),
        **environ,
    }


def test_an_application_may_serve_calls_at_a_url_of_its_own() -> None:
    """By App Engine's handler, in a framework or as a WSGI application."""
    handler = deferred.Handler()
    assert handler.post(request_of(deferred.serialize(record, 1)))[1] == 200
    assert handler.run_from_request(request_of(deferred.serialize(record, 2)))[0] == "Success"
    answered: list[Any] = []
    answer = deferred.application(
        request_of(deferred.serialize(record, 3)), lambda status, headers: answered.append(status)
    )

    assert (b"".join(answer), answered) == (b"", ["200 OK"])
    assert [args for args, _ in calls] == [(1,), (2,), (3,)]
    assert deferred.run(data=deferred.serialize(record, 4)) == "recorded"


def test_the_handler_answers_failures_or_lets_them_through() -> None:
    """Its ``post`` answers as the engine does; ``run_from_request`` raises the exception."""
    handler = deferred.Handler()
    for error, status, _ in OUTCOMES:
        assert handler.post(request_of(deferred.serialize(fail, error)))[1] == status
        with pytest.raises(type(error)):
            handler.run_from_request(request_of(deferred.serialize(fail, error)))


@pytest.mark.parametrize(
    ("environ", "status"), [({"REQUEST_METHOD": "GET"}, 405), ({"lastacross.task": None}, 403)]
)
def test_the_handler_refuses_what_is_no_task(environ: dict[str, Any], status: int) -> None:
    """Both ways, and nothing runs."""
    handler = deferred.Handler()
    for method in (handler.post, handler.run_from_request):
        assert method(request_of(deferred.serialize(record), **environ))[1] == status

    assert calls == []


def test_a_body_without_length_is_no_call() -> None:
    """It has no signature of ours."""
    assert post(b"", CONTENT_LENGTH="")[0] == "500 Internal Server Error"


# --- too large for a task -----------------------------------------------------------------

LARGE = "x" * 200_000


@pytest.fixture
def tables(configuration: config.Config) -> Iterator[None]:
    """A datastore with the engine's tables."""
    databases.upgrade()
    yield
    datastore.dispose()


@pytest.fixture
def each_database(configuration: config.Config, database: str) -> str:
    """The same on SQLite and on PostgreSQL; ``configuration`` first, so that this one is in use."""
    return database


def rows() -> int:
    """How many calls the datastore keeps."""
    with datastore.session(read_only=True) as session:
        count = session.scalar(
            sqlalchemy.select(sqlalchemy.func.count()).select_from(datastore.DeferredPayload)
        )
    return count or 0


@pytest.mark.usefixtures("each_database")
def test_a_large_call_is_kept_in_the_datastore_until_it_has_run() -> None:
    """The task carries the signed key of its row."""
    task = deferred.task(record, LARGE)
    assert task.size < 1000
    assert rows() == 1

    assert deferred.outcome(task.body) == 200

    assert calls == [((LARGE,), {})]
    assert rows() == 0


@pytest.mark.usefixtures("each_database")
def test_a_large_call_that_fails_is_found_again_by_its_retry() -> None:
    """The row goes only with success."""
    task = deferred.task(fail_once, LARGE)

    assert deferred.outcome(task.body) == 500
    assert rows() == 1
    assert deferred.outcome(task.body) == 200
    assert rows() == 0


@pytest.mark.usefixtures("each_database")
def test_a_large_call_that_fails_for_good_keeps_its_row_for_its_dead_letter() -> None:
    """Which may be run again by hand."""
    task = deferred.task(fail, deferred.PermanentTaskFailure(LARGE))

    assert deferred.outcome(task.body) == 200
    assert rows() == 1


@pytest.mark.usefixtures("each_database")
def test_a_large_call_whose_row_is_gone_fails_for_good() -> None:
    """As when it is delivered once more after it has run."""
    task = deferred.task(record, LARGE)
    deferred.run(task.body)

    with pytest.raises(deferred.PermanentTaskFailure, match="no longer exist"):
        deferred.run(task.body)
    assert len(calls) == 1


@pytest.mark.usefixtures("each_database")
def test_a_row_that_was_altered_is_not_unpickled() -> None:
    """Rows are signed like tasks."""
    task = deferred.task(record, LARGE)
    with datastore.session() as session:
        session.execute(sqlalchemy.update(datastore.DeferredPayload).values(body=unsigned()))

    with pytest.raises(deferred.PermanentTaskFailure, match="signature"):
        deferred.run(task.body)
    assert calls == []


@pytest.mark.usefixtures("each_database")
def test_a_row_that_cannot_be_deleted_does_not_make_the_call_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has run: a retry would run it twice."""
    task = deferred.task(record, LARGE)
    with datastore.session(read_only=True) as session:
        [row_id] = session.scalars(sqlalchemy.select(datastore.DeferredPayload.id))
    usual = datastore.session

    def locked(*, read_only: bool = False) -> Any:
        if not read_only:
            raise DatastoreUnavailableError("the database is locked")
        return usual(read_only=True)

    monkeypatch.setattr(datastore, "session", locked)
    with capture_logs() as logged:
        assert deferred.outcome(task.body) == 200

    [line] = [entry for entry in logged if entry["event"] == "deferred.payload_left_behind"]
    assert (line["payload"], line["log_level"], len(calls)) == (row_id, "warning", 1)


@pytest.mark.usefixtures("each_database")
def test_a_large_call_with_wrong_options_leaves_no_row() -> None:
    """Its task was never made."""
    with pytest.raises(TaskTooLargeError):
        deferred.task(record, LARGE, _headers={"X-Long": LARGE})
    assert rows() == 0


@pytest.mark.usefixtures("tables")
def test_a_large_call_beside_an_open_transaction_of_sqlite_says_what_to_do() -> None:
    """It would wait for itself; part of the transaction it may be."""
    with datastore.transaction() as transaction:
        transaction.session.execute(sqlalchemy.text("SELECT 1"))
        with pytest.raises(DatastoreUsageError, match="_transactional=True"):
            deferred.task(record, LARGE)


# --- defer: added to a queue --------------------------------------------------------------


def waiting(opened: store.Store) -> list[bytes]:
    """The bodies of the tasks that are ready in the default queue."""
    ids: Any = opened.redis.lrange(store.ready_key("default"), 0, -1)
    records: Any = [opened.redis.hgetall(store.record_key(each.decode())) for each in ids]
    return [body_of(record) for record in records]


def test_defer_adds_the_task_to_its_queue(test_store: store.Store) -> None:
    """And returns it with a name."""
    task = deferred.defer(send_color, 1, 2, session_id="Xk3")

    assert task.was_enqueued
    assert (task.queue_name, bool(task.name)) == ("default", True)
    [body] = waiting(test_store)
    deferred.run(body)
    assert calls == [(1, 2, "Xk3")]


def test_defer_to_a_queue_that_is_not_there_is_refused(test_store: store.Store) -> None:
    """As taskqueue.add."""
    with pytest.raises(UnknownQueueError):
        deferred.defer(record, _queue="nowhere")


@pytest.mark.usefixtures("tables")
def test_a_large_call_that_could_not_be_added_leaves_no_row(test_store: store.Store) -> None:
    """Whatever the reason."""
    with pytest.raises(UnknownQueueError):
        deferred.defer(record, LARGE, _queue="nowhere")
    assert rows() == 0


@pytest.mark.usefixtures("tables")
def test_a_large_call_is_added(test_store: store.Store) -> None:
    """And runs from its row."""
    deferred.defer(record, LARGE)

    [body] = waiting(test_store)
    assert deferred.outcome(body) == 200
    assert calls == [((LARGE,), {})]


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("argument", ["small", LARGE], ids=["small", "large"])
def test_a_transactional_call_is_added_with_the_commit(test_store: store.Store, argument: str) -> None:
    """Not before; a large one has its row in the same transaction."""
    with datastore.transaction():
        deferred.defer(record, argument, _transactional=True)
        assert waiting(test_store) == []

    [body] = waiting(test_store)
    assert deferred.outcome(body) == 200
    assert calls == [((argument,), {})]
    assert rows() == 0


@pytest.mark.usefixtures("tables")
def test_a_transactional_call_goes_with_the_rollback(test_store: store.Store) -> None:
    """Row and task."""
    with contextlib.suppress(ZeroDivisionError), datastore.transaction():
        deferred.defer(record, LARGE, _transactional=True)
        raise ZeroDivisionError

    assert waiting(test_store) == []
    assert rows() == 0


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("argument", ["small", LARGE], ids=["small", "large"])
def test_a_transactional_call_outside_of_a_transaction_is_refused(
    test_store: store.Store, argument: str
) -> None:
    """As taskqueue.add."""
    with pytest.raises(BadTransactionStateError):
        deferred.defer(record, argument, _transactional=True)
    assert rows() == 0


@pytest.mark.usefixtures("tables")
def test_a_transactional_call_that_is_refused_leaves_no_row(test_store: store.Store) -> None:
    """The transaction itself may go on."""
    with datastore.transaction(), pytest.raises(InvalidTaskError):
        deferred.defer(record, LARGE, _transactional=True, _name="named")

    assert rows() == 0
