"""``lastacross.testing``: tasks run in a test, in order or as they are added, and what was enqueued."""

import contextlib
import datetime
import os
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from webtest import TestApp as Client  # under its own name pytest would take it for tests

from lastacross import config, datastore, deferred, memcache, store, taskqueue, testing
from lastacross.errors import ConfigError, PermanentTaskFailure, StartupError
from lastacross.testing import ApplicationUnderTest, DeliveredTask, RunTasksError, TaskFailedError, inline
from tests.support import remote_calls
from tests.support.modules import own_modules

FILES = {
    "app.yaml": """\
handlers:
- url: /secret
  script: main.app
  login: admin
- url: /.*
  script: main.app
""",
    "queue.yaml": """\
queue:
- name: default
  rate: 500/s
  bucket_size: 100
- name: other
  rate: 500/s
- name: slow
  rate: 1/s
  bucket_size: 1
- name: stopped
  rate: 0
- name: few
  rate: 500/s
  retry_parameters:
    task_retry_limit: 2
    min_backoff_seconds: 10
- name: pulled
  mode: pull
""",
    "backends.yaml": "backends:\n- name: counter\n",
    "main.py": '''\
"""Notes what runs; fails as it is told."""

import threading

import webapp2

from lastacross import datastore, memcache, taskqueue

RAN = []
WRITTEN = []
BEGUN = threading.Event()
GO_ON = threading.Event()


class Work(webapp2.RequestHandler):
    def post(self):
        RAN.append(self.request.get("word"))
        if self.request.get("again"):
            taskqueue.add(url="/work", params={"word": self.request.get("again")})

    def get(self):
        RAN.append("got " + self.request.get("word"))


class Endless(webapp2.RequestHandler):
    def post(self):
        taskqueue.add(url="/endless")


class Failing(webapp2.RequestHandler):
    def post(self):
        RAN.append("failing")
        if self.request.get("status"):
            self.abort(int(self.request.get("status")))
        if int(self.request.headers["X-AppEngine-TaskRetryCount"]) < int(self.request.get("times", "99")):
            self.fail()

    def fail(self):
        raise LookupError("no such account")


class Ending(webapp2.RequestHandler):
    def post(self):
        raise SystemExit(3)


class Page(webapp2.RequestHandler):
    """Adds, and says what it saw right after."""

    def get(self):
        taskqueue.add(url="/work", params={"word": "from a page"})
        # webapp2 keeps the request in a thread-local variable.
        path = webapp2.get_request().path
        self.response.text = f"{path} {len(RAN)}"


class Waiting(webapp2.RequestHandler):
    def post(self):
        BEGUN.set()
        GO_ON.wait(30)
        RAN.append("waited")


class Threaded(webapp2.RequestHandler):
    def post(self):
        options = {"url": "/work", "params": {"word": "by a thread"}}
        thread = threading.Thread(target=taskqueue.add, kwargs=options)
        thread.start()
        thread.join()
        RAN.append("its thread has added")


class Environment(webapp2.RequestHandler):
    def get(self):
        self.response.text = self.request.environ["SERVER_SOFTWARE"]


app = webapp2.WSGIApplication(
    [
        ("/work", Work),
        ("/secret", Work),
        ("/endless", Endless),
        ("/failing", Failing),
        ("/ending", Ending),
        ("/page", Page),
        ("/waiting", Waiting),
        ("/threaded", Threaded),
        ("/environment", Environment),
    ]
)
''',
}

RunTasks = Callable[..., list[DeliveredTask]]
InlineTasks = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def lastacross_root(tmp_path: Path) -> Iterator[Path]:
    """This application, in place of the one in the root folder."""
    root = tmp_path / "app"
    root.mkdir()
    for name, text in FILES.items():
        (root / name).write_text(text)
    with own_modules(root):
        yield root


@pytest.fixture
def ran(lastacross_app: ApplicationUnderTest) -> list[str]:
    """What has run."""
    found: list[str] = sys.modules["main"].RAN
    return found


def add(word: str, queue_name: str = "default", **options: Any) -> taskqueue.Task:
    """Add a task that notes this word."""
    return taskqueue.add(url="/work", params={"word": word}, queue_name=queue_name, **options)


# --- run_tasks ------------------------------------------------------------------------------


def test_tasks_run_in_the_order_in_which_they_were_added(run_tasks: RunTasks, ran: list[str]) -> None:
    for word, queue in (("1", "default"), ("2", "other"), ("3", "default"), ("4", "few"), ("5", "other")):
        add(word, queue)

    attempts = run_tasks()

    assert ran == ["1", "2", "3", "4", "5"]
    assert [attempt.queue for attempt in attempts] == ["default", "other", "default", "few", "other"]
    assert all(attempt.status == 200 and attempt.is_success for attempt in attempts)


def test_nothing_runs_before_it_is_asked_to(run_tasks: RunTasks, ran: list[str]) -> None:
    add("1")

    assert ran == []
    assert len(run_tasks()) == 1
    assert run_tasks() == []


def test_what_tasks_add_runs_too(run_tasks: RunTasks, ran: list[str]) -> None:
    taskqueue.add(url="/work", params={"word": "first", "again": "second"})

    run_tasks()

    assert ran == ["first", "second"]


def test_etas_are_followed_by_the_clock(
    run_tasks: RunTasks, ran: list[str], lastacross_app: ApplicationUnderTest
) -> None:
    began_at = lastacross_app.clock.now()
    add("an hour", countdown=3600)
    add("a minute", countdown=60)
    add("now")

    run_tasks()

    assert ran == ["now", "a minute", "an hour"]
    assert lastacross_app.clock.now() - began_at == pytest.approx(3600, abs=1)


def test_a_test_may_run_what_is_due_within_a_while(
    run_tasks: RunTasks, ran: list[str], lastacross_app: ApplicationUnderTest
) -> None:
    add("a minute", countdown=60)
    began_at = lastacross_app.clock.now()

    assert run_tasks(within_seconds=59) == []
    assert lastacross_app.clock.now() - began_at == pytest.approx(59, abs=0.1)
    lastacross_app.clock.advance(1.1)
    run_tasks(within_seconds=0)

    assert ran == ["a minute"]


def test_a_queues_rate_takes_the_clocks_time(
    run_tasks: RunTasks, ran: list[str], lastacross_app: ApplicationUnderTest
) -> None:
    began_at = lastacross_app.clock.now()
    for number in range(5):
        add(str(number), "slow")

    run_tasks()

    assert ran == ["0", "1", "2", "3", "4"]
    assert lastacross_app.clock.now() - began_at == pytest.approx(4, abs=0.2)


def test_what_is_stopped_or_paused_stays(
    run_tasks: RunTasks, assert_enqueued: Callable[..., Any], ran: list[str]
) -> None:
    taskqueue.Queue("other").pause()
    add("stopped", "stopped")
    add("paused", "other")

    assert run_tasks() == []
    assert_enqueued(1, queue="stopped")
    assert_enqueued(1, queue="other")
    taskqueue.add(url="/work", queue_name="stopped", name="urgent")
    taskqueue.Queue("stopped").run_now("urgent")
    assert len(run_tasks()) == 1


def test_one_queue_may_run_alone(run_tasks: RunTasks, ran: list[str]) -> None:
    add("1")
    add("2", "other")

    run_tasks("other")

    assert ran == ["2"]


def test_a_queue_that_nothing_runs_is_an_error(run_tasks: RunTasks) -> None:
    with pytest.raises(ValueError, match="there is no queue 'defualt'; the queues are default, few"):
        run_tasks("defualt")
    with pytest.raises(ValueError, match="nothing runs the tasks of the pull queue 'pulled'"):
        run_tasks("pulled")


def test_methods_and_logins_are_those_of_a_delivery(run_tasks: RunTasks, ran: list[str]) -> None:
    taskqueue.add(url="/work?word=it", method="GET")
    taskqueue.add(url="/secret", params={"word": "as a task"})

    run_tasks()

    assert ran == ["got it", "as a task"]


def test_tasks_for_other_services_run_too(run_tasks: RunTasks, ran: list[str]) -> None:
    add("elsewhere", target="counter")
    add("here")

    run_tasks()

    assert ran == ["elsewhere", "here"]


def test_deferred_calls_run(run_tasks: RunTasks, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    deferred.defer(remote_calls.call, str(notes), "one")

    [attempt] = run_tasks()

    assert attempt.url == "/_ah/queue/deferred"
    assert '"called": "one"' in notes.read_text()


def test_a_batch_runs_to_its_end(run_tasks: RunTasks, ran: list[str]) -> None:
    done = taskqueue.Task(url="/work", params={"word": "complete"})
    with taskqueue.Batch(on_complete=done) as batch:
        batch.add(taskqueue.Task(url="/work", params={"word": str(number)}) for number in range(3))

    run_tasks()

    assert ran == ["0", "1", "2", "complete"]
    assert batch.progress().done == 3


def test_what_waits_behind_the_tasks_of_a_cancelled_batch_runs(run_tasks: RunTasks, ran: list[str]) -> None:
    done = taskqueue.Task(url="/work", params={"word": "complete"})
    with taskqueue.Batch(on_complete=done) as batch:
        batch.add(taskqueue.Task(url="/work", params={"word": str(number)}) for number in range(3))
    batch.cancel()

    run_tasks()

    assert ran == ["complete"]


def test_a_transactional_add_runs_if_it_was_committed(run_tasks: RunTasks, ran: list[str]) -> None:
    def add_and_fail() -> None:
        with datastore.transaction():
            add("rolled back", transactional=True)
            raise LookupError

    with pytest.raises(LookupError):
        add_and_fail()
    with datastore.transaction():
        add("committed", transactional=True)

    run_tasks()

    assert ran == ["committed"]


# --- failures -------------------------------------------------------------------------------


def test_what_a_handler_raises_is_raised_in_the_test_with_its_traceback(run_tasks: RunTasks) -> None:
    name = taskqueue.add(url="/failing").name

    with pytest.raises(LookupError, match="no such account") as raised:
        run_tasks()

    assert "main.py" in "".join(traceback.format_tb(raised.value.__traceback__))
    assert f"default: {name}, POST /failing, attempt 1" in raised.value.__notes__[0]


def test_a_task_that_failed_is_a_dead_letter_and_the_others_can_run(
    run_tasks: RunTasks, enqueued: Callable[..., Any], ran: list[str]
) -> None:
    taskqueue.add(url="/failing", name="it")
    add("after")

    with pytest.raises(LookupError):
        run_tasks()
    run_tasks()

    assert ran == ["failing", "after"]
    [dead] = enqueued(states=["dead"])
    assert dead.name == "it"
    assert "LookupError: no such account" in dead.error


def test_an_answer_that_is_a_failure_is_told(run_tasks: RunTasks) -> None:
    taskqueue.add(url="/failing", params={"status": "404"}, name="it")

    with pytest.raises(TaskFailedError, match="default: it, POST /failing, attempt 1, answered 404"):
        run_tasks()


def test_a_handler_that_would_end_the_process_fails_the_test(run_tasks: RunTasks) -> None:
    taskqueue.add(url="/ending")

    with pytest.raises(TaskFailedError, match="SystemExit: 3"):
        run_tasks()


def test_a_deferred_call_that_failed_for_good_fails_the_test(run_tasks: RunTasks, tmp_path: Path) -> None:
    deferred.defer(remote_calls.call, str(tmp_path / "notes"), "never")

    with pytest.raises(PermanentTaskFailure, match="not ever"):
        run_tasks()


def test_retries_may_happen_instead(
    run_tasks: RunTasks, lastacross_app: ApplicationUnderTest, ran: list[str]
) -> None:
    began_at = lastacross_app.clock.now()
    taskqueue.add(url="/failing", params={"times": "2"}, queue_name="few")

    attempts = run_tasks(retry=True)

    assert [attempt.status for attempt in attempts] == [500, 500, 200]
    assert [attempt.attempt for attempt in attempts] == [1, 2, 3]
    assert "no such account" in attempts[0].reason
    assert lastacross_app.clock.now() - began_at == pytest.approx(30, abs=1)


def test_retries_that_are_used_up_leave_a_dead_letter(
    run_tasks: RunTasks, enqueued: Callable[..., Any]
) -> None:
    taskqueue.add(url="/failing", queue_name="few")

    assert len(run_tasks(retry=True)) == 3
    assert [task.state for task in enqueued(states=["dead"])] == ["dead"]


def test_tasks_that_add_one_another_for_ever_come_to_an_end(run_tasks: RunTasks) -> None:
    taskqueue.add(url="/endless")

    with pytest.raises(RunTasksError, match="20 attempts were made, but tasks are left"):
        run_tasks(at_most=20)


# --- inline_tasks ---------------------------------------------------------------------------


def test_inside_of_the_block_adds_run_at_once(inline_tasks: InlineTasks, ran: list[str]) -> None:
    with inline_tasks():
        add("1")
        assert ran == ["1"]
        taskqueue.add(url="/work", params={"word": "2", "again": "3"}, countdown=60)
        assert ran == ["1", "2", "3"]
    add("4")
    assert ran == ["1", "2", "3"]


def test_a_page_goes_on_after_its_task_has_run(
    inline_tasks: InlineTasks, lastacross_app: ApplicationUnderTest, ran: list[str]
) -> None:
    """The framework's thread-local request is still the page's."""
    with inline_tasks():
        answer = Client(lastacross_app.wsgi).get("/page")

    assert answer.text == "/page 1"
    assert ran == ["from a page"]


def test_a_transactional_add_runs_after_the_commit(inline_tasks: InlineTasks, ran: list[str]) -> None:
    with inline_tasks():
        with datastore.transaction():
            add("transactional", transactional=True)
            add("plain")
            assert ran == []
        assert sorted(ran) == ["plain", "transactional"]


def test_a_batch_runs_while_it_is_filled(inline_tasks: InlineTasks, ran: list[str]) -> None:
    done = taskqueue.Task(url="/work", params={"word": "complete"})
    with inline_tasks(), taskqueue.Batch(on_complete=done) as batch:
        batch.add([taskqueue.Task(url="/work", params={"word": "member"})])
        assert ran == ["member"]

    assert ran == ["member", "complete"]


def test_a_thread_that_adds_while_another_ones_task_runs_finds_its_own_done_too(
    inline_tasks: InlineTasks, ran: list[str]
) -> None:
    main, found = sys.modules["main"], []

    def add_and_look() -> None:
        add("second")
        found.append(list(ran))

    with inline_tasks():
        first = threading.Thread(target=taskqueue.add, kwargs={"url": "/waiting"})
        first.start()
        assert main.BEGUN.wait(30)
        second = threading.Thread(target=add_and_look)
        second.start()
        # Time enough to come back with nothing done, if it would.
        second.join(0.3)
        main.GO_ON.set()
        first.join()
        second.join()

    assert (ran, found) == (["waited", "second"], [["waited", "second"]])


def test_of_many_threads_that_add_at_once_each_finds_its_task_done(
    inline_tasks: InlineTasks, ran: list[str]
) -> None:
    def is_done_after_adding(number: int) -> bool:
        add(f"{number}")
        return f"{number}" in ran

    with inline_tasks(), ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_done_after_adding, range(40)))

    assert sorted(ran, key=int) == [f"{number}" for number in range(40)]


def test_a_task_that_waits_for_a_thread_that_adds_comes_to_its_end(
    inline_tasks: InlineTasks, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline, "WAIT_SECONDS", 0.1)

    with inline_tasks():
        taskqueue.add(url="/threaded")
        assert ran == ["its thread has added", "by a thread"]


def test_a_failure_is_raised_at_the_end_of_the_block(inline_tasks: InlineTasks, ran: list[str]) -> None:
    def add_in_block() -> None:
        with inline_tasks():
            taskqueue.add(url="/failing")
            add("after")

    with pytest.raises(LookupError, match="no such account"):
        add_in_block()
    assert ran == ["failing", "after"]


def test_a_failure_is_noted_at_the_tests_own(inline_tasks: InlineTasks) -> None:
    def add_in_block() -> None:
        with inline_tasks():
            taskqueue.add(url="/failing")
            raise AssertionError("the page was wrong")

    with pytest.raises(AssertionError, match="the page was wrong") as raised:
        add_in_block()
    assert "a task has failed before: default: " in raised.value.__notes__[0]


def test_retries_may_happen_at_once(inline_tasks: InlineTasks, ran: list[str]) -> None:
    with inline_tasks(retry=True):
        taskqueue.add(url="/failing", params={"times": "2"})

    assert ran == ["failing"] * 3


# --- what was enqueued ----------------------------------------------------------------------


def test_enqueued_tasks_show_what_they_were_given(
    enqueued: Callable[..., Any], lastacross_app: ApplicationUnderTest
) -> None:
    eta = datetime.datetime.fromtimestamp(lastacross_app.clock.now() + 60, datetime.UTC)
    taskqueue.add(url="/work", params={"word": "ä b"}, name="it", eta=eta, headers={"X-Mine": "1"})
    taskqueue.add(url="/work?word=x", method="GET", target="counter")
    taskqueue.add(payload="a payload", method="PULL", queue_name="pulled")

    get, pulled, it = enqueued()

    assert (it.queue, it.name, it.method, it.url) == ("default", "it", "POST", "/work")
    assert (it.params, it.headers["X-Mine"], it.state) == ({"word": "ä b"}, "1", "scheduled")
    assert it.eta == pytest.approx(eta.timestamp(), abs=0.001)
    assert (get.method, get.path, get.params, get.target) == ("GET", "/work", {"word": "x"}, "counter")
    assert (pulled.queue, pulled.method, pulled.payload) == ("pulled", "PULL", b"a payload")
    assert enqueued("default", url="/work", name="it") == [it]
    assert enqueued("other") == []


def test_an_assertion_that_fails_says_what_is_there(assert_enqueued: Callable[..., Any]) -> None:
    add("1", name="it")

    assert [task.name for task in assert_enqueued(1, url="/work")] == ["it"]
    with pytest.raises(AssertionError) as raised:
        assert_enqueued(2, queue="other", url="/work")

    assert str(raised.value) == (
        "expected 2 waiting task(s) queue='other' url='/work', found 0; of all:\n"
        "  default: it, POST /work (ready)"
    )
    with pytest.raises(AssertionError, match="at least one"):
        assert_enqueued(name="another")


def test_a_queue_or_a_state_that_there_is_none_of_is_an_error(enqueued: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="there is no queue 'defualt'; the queues are default, few"):
        enqueued("defualt")
    with pytest.raises(ValueError, match="there is no task state 'done'"):
        enqueued(states=["done"])


# --- the application under test -------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kind", "takes"),
    [
        (
            {"within_seconds": -1},
            ValueError,
            "within_seconds must be a number of seconds from 0, or None, not -1",
        ),
        (
            {"within_seconds": float("nan")},
            ValueError,
            "within_seconds must be a number of seconds from 0, or None, not nan",
        ),
        (
            {"within_seconds": "x"},
            TypeError,
            "within_seconds must be a number of seconds from 0, or None, not 'x'",
        ),
        (
            {"within_seconds": True},
            TypeError,
            "within_seconds must be a number of seconds from 0, or None, not True",
        ),
        ({"at_most": -1}, ValueError, "at_most must be a whole number from 0, not -1"),
        ({"at_most": None}, TypeError, "at_most must be a whole number from 0, not None"),
    ],
)
def test_a_number_that_would_run_nothing_is_an_error(
    run_tasks: RunTasks, ran: list[str], given: dict[str, Any], kind: type[Exception], takes: str
) -> None:
    taskqueue.add(url="/work", params={"word": "a"})

    with pytest.raises(kind, match=f"^{takes}$"):
        run_tasks(**given)
    assert ran == []
    run_tasks(within_seconds=float("inf"))
    assert ran == ["a"]


@pytest.mark.parametrize(("count", "kind"), [(-1, ValueError), (1.0, TypeError), ("other", TypeError)])
def test_a_count_that_no_queue_can_have_is_an_error(
    assert_enqueued: Callable[..., Any], count: object, kind: type[Exception]
) -> None:
    takes = f"count must be a whole number from 0, or None for at least one, not {count!r}"
    with pytest.raises(kind, match=f"^{takes}$"):
        assert_enqueued(count)
    assert assert_enqueued(0) == []


def test_each_test_begins_with_nothing(lastacross_app: ApplicationUnderTest, lastacross_redis: str) -> None:
    add("left over")
    memcache.set("left", "over")

    with testing.application(lastacross_app.config.root, redis_url=lastacross_redis) as second:
        assert second.enqueued() == []
        assert memcache.get("left") is None


def test_a_database_of_ones_own_is_taken_if_it_is_empty(
    lastacross_root: Path, lastacross_redis: str, database_url: str
) -> None:
    """On SQLite and on PostgreSQL, with tables or without."""
    url = database_url
    for _ in range(2):
        with testing.application(lastacross_root, redis_url=lastacross_redis, database_url=url) as app:
            with datastore.transaction():
                add("kept", transactional=True)
            assert len(app.run_tasks()) == 1
            with datastore.session() as session:
                session.execute(delete(datastore.OutboxRow))


def test_a_database_that_is_not_empty_is_refused_before_anything_is_done_to_it(
    lastacross_root: Path, lastacross_redis: str, tmp_path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "real.db")) as real:
        real.execute("CREATE TABLE customer (name TEXT)")
        real.execute("INSERT INTO customer VALUES ('kim')")
        real.commit()
        url = f"sqlite:///{tmp_path}/real.db"
        made = testing.application(lastacross_root, redis_url=lastacross_redis, database_url=url)

        with pytest.raises(ConfigError, match="database_url: the table customer of this database has rows"):
            made.__enter__()

        assert real.execute("SELECT name FROM sqlite_master").fetchall() == [("customer",)]
    assert store.store._current is None


def test_the_process_is_as_it_was_at_the_end(lastacross_root: Path, lastacross_redis: str) -> None:
    environ, path = dict(os.environ), list(sys.path)

    with testing.application(lastacross_root, redis_url=lastacross_redis):
        assert os.environ["SERVER_SOFTWARE"].startswith("Development/")

    assert (dict(os.environ), sys.path) == (environ, path)
    assert store.store._current is None


def test_requests_say_that_this_is_development(lastacross_app: ApplicationUnderTest) -> None:
    answer = Client(lastacross_app.wsgi).get("/environment")

    assert answer.text.startswith("Development/")
    assert answer.text == os.environ["SERVER_SOFTWARE"]


def test_without_pytest_there_is_a_redis_of_its_own(
    lastacross_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what the environment says of real data is not used."""
    monkeypatch.setenv("REDIS_URL", "redis://real.example:6379/0")
    monkeypatch.setenv("DATABASE_URL", "postgresql://real.example/data")

    with testing.application(lastacross_root) as app:
        add("1")
        assert len(app.run_tasks()) == 1
        assert config.current().settings.redis_url.startswith("unix:///")
        assert config.current().settings.database_url.startswith("sqlite:///")


def test_a_machine_without_a_redis_server_is_told(
    lastacross_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing() -> str:
        raise StartupError("no Redis server is installed on this machine: install one")

    monkeypatch.setattr("lastacross.processes.embedded.find_server", nothing)

    with pytest.raises(StartupError, match="install one"), testing.application(lastacross_root):
        pass


def test_a_server_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lastacross.processes.embedded.find_server", lambda: "/bin/false")

    with pytest.raises(RunTasksError, match="does not respond"), testing.redis_server():
        pass


def test_a_task_is_due_at_the_time_of_the_stopped_clock(
    lastacross_app: testing.ApplicationUnderTest, enqueued: Callable[..., list[testing.EnqueuedTask]]
) -> None:
    before = lastacross_app.clock.now()
    added = [taskqueue.add(url="/fine", countdown=60).name for _ in range(20)]
    lastacross_app.clock.advance(1)
    added.append(taskqueue.add(url="/fine", countdown=59.5).name)

    assert lastacross_app.clock.now() == before + 1
    etas = [task.eta for task in enqueued()]
    assert [task.name for task in enqueued()] == added
    # Tasks that are added at one instant stay in their order.
    assert etas[:20] == [pytest.approx(before + 60 + place * 1e-6, abs=5e-7) for place in range(20)]
    assert etas[20] == pytest.approx(before + 60.5, abs=5e-7)


def test_the_clock_never_goes_back() -> None:
    clock = testing.StoppedClock(1000.0)

    assert clock.now() == clock.now() == clock.monotonic() == 1000.0
    clock.advance_to(2000.0)
    clock.advance_to(1500.0)
    assert clock.now() == clock.monotonic() == 2000.0
