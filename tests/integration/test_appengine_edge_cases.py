"""The edge cases that App Engine's users met, each from the call to the last attempt, on a real Redis.

Those of one class alone stand beside it: ETAs, sizes and tags in unit/test_task.py, the tables of retries
and waits in unit/test_retry.py, forged headers in unit/test_webapp_stack.py, rates over hours in
lua/test_rates.py, pull queues in integration/test_pull_queue.py, services that are down in
integration/test_remote_delivery.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastacross import config, store, taskqueue
from lastacross.broker import queue_directory
from lastacross.broker.steps import Broker
from lastacross.config import Config
from lastacross.store import Store
from lastacross.taskqueue import Queue, Task, TaskRetryOptions
from lastacross.worker.deadline import Deadlines
from lastacross.worker.delivery import Delivery
from lastacross.worker.outcomes import OutcomeRecorder
from tests.conftest import SECRET_KEY
from tests.support.clock import StoppedClock
from tests.support.processes import wait_until

HOUR = 3600.0

QUEUES = """\
queue:
- name: other
  rate: 500/s
- name: careful
  rate: 500/s
  retry_parameters:
    task_retry_limit: 7
    task_age_limit: 2d
    min_backoff_seconds: 10
    max_backoff_seconds: 200
    max_doublings: 0
"""


@pytest.fixture
def app_root(tmp_path: Path) -> Path:
    """An application whose queue.yaml says nothing of the default queue."""
    (tmp_path / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    (tmp_path / "queue.yaml").write_text(QUEUES)
    return tmp_path


class Machine:
    """One machine that runs the application, task after task; its handlers answer what they are told.

    Args:
        opened: the Redis.
        clock: its clock, stopped.
        configuration: as uploaded.
        deadlines: that run.
    """

    def __init__(
        self, opened: Store, clock: StoppedClock, configuration: Config, deadlines: Deadlines
    ) -> None:
        self.store = opened
        self.clock = clock
        self.configuration = configuration
        self.statuses: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self._broker = Broker(opened)
        self._delivery = Delivery(self._answer, deadlines, direct_calls={})
        self._recorder = OutcomeRecorder(self._broker, queue_directory.of(opened).retry_of)
        self._leases = 0

    def _answer(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.asked.append(environ)
        status = self.statuses.pop(0) if self.statuses else "200 OK"
        start_response(status, [("Location", "/elsewhere")])
        return [b""]

    def deploy(self, queue_yaml: str | None = None) -> None:
        """Upload queue.yaml, another one if it is given."""
        if queue_yaml is not None:
            (self.configuration.root / "queue.yaml").write_text(queue_yaml)
            self.configuration = queue_directory.read_again(self.configuration)
        queue_directory.upload_if_changed(self.store, self.configuration)
        self.clock.advance(1)

    def run(self, *statuses: str) -> int:
        """Run what may run now, once; the handlers answer these. Returns how many attempts were made."""
        self.statuses = list(statuses)
        queues = sorted(queue_directory.of(self.store).all())
        self._broker.promote_due(queues)
        self._leases += 100
        grant = self._broker.lease(
            queues, token="w", number=self._leases, wanted=50, free=50, lease_seconds=8
        )
        self._recorder.record([self._delivery.deliver(task) for task in grant.tasks])
        return len(grant.tasks)

    def run_until_over(self, status: str, queue: str = "default") -> list[float]:
        """Let one task fail until nothing waits any more; returns the seconds between the attempts."""
        waits: list[float] = []
        last: float | None = None
        while True:
            if self.run(status):
                if last is not None:
                    waits.append(round(self.clock.now() - last, 3))
                last = self.clock.now()
            next_due = self.store.redis.zrange(store.scheduled_key(queue), 0, 0, withscores=True)
            if not next_due:
                return waits
            self.clock.advance(max(0.0, float(next_due[0][1]) - self.clock.now()))

    def dead(self, queue: str = "default") -> list[str]:
        """The names of the dead letters."""
        ids: list[bytes] = self.store.redis.zrange(store.dead_key(queue), 0, -1)  # type: ignore[assignment]
        return [task.decode().partition("_")[2] for task in ids]


@pytest.fixture
def machine(test_store: Store, clock: StoppedClock, configuration: Config) -> Iterator[Machine]:
    """A machine on which the application has been deployed."""
    deadlines = Deadlines(on_stuck=print)
    deadlines.start()
    made = Machine(test_store, clock, configuration, deadlines)
    made.deploy()
    yield made
    deadlines.stop()


# --- 1: several tasks in one request ------------------------------------------------------------------


def test_case_1_whatever_is_wrong_with_names_is_one_error_and_the_others_are_added(machine: Machine) -> None:
    """Item by item, once no item is bad in itself; both errors are errors of a task."""
    taskqueue.add(url="/a", name="over")
    assert machine.run() == 1
    taskqueue.add(url="/a", name="waits")
    tasks = [Task(url="/1"), Task(name="waits"), Task(url="/3"), Task(name="over"), Task(url="/5")]

    with pytest.raises(taskqueue.InvalidTaskError) as caught:
        Queue().add(tasks)

    assert type(caught.value) in (taskqueue.TaskAlreadyExistsError, taskqueue.TombstonedTaskError)
    assert [task.was_enqueued for task in tasks] == [True, False, True, False, True]
    assert machine.run() == 4


@pytest.mark.parametrize("bad", ["mode", "twice", "added before", "too many"])
def test_case_1_what_is_bad_in_itself_comes_before_what_is_wrong_with_a_name(
    machine: Machine, bad: str
) -> None:
    """Nothing is added then, and the good tasks can be added afterwards."""
    taskqueue.add(url="/a", name="over")
    machine.run()
    good = [Task(url="/1"), Task(url="/2")]
    wrong: dict[str, list[Task]] = {
        "mode": [Task(b"x", method="PULL")],
        "twice": [Task(name="n"), Task(name="n")],
        "added before": [taskqueue.add(url="/0", countdown=60)],
        "too many": [Task() for _ in range(98)],
    }

    with pytest.raises(taskqueue.Error) as caught:
        Queue().add([*good, Task(name="over"), *wrong[bad]])

    assert not isinstance(caught.value, taskqueue.TombstonedTaskError)
    assert machine.run() == 0
    assert [task.was_enqueued for task in Queue().add(good)] == [True, True]


# --- 2: names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["completed", "failed for good", "deleted", "purged"])
def test_case_2_a_name_is_used_up_in_its_own_queue_only(machine: Machine, end: str) -> None:
    for queue in ("default", "other"):
        taskqueue.add(
            url="/a", name="n", queue_name=queue, retry_options=TaskRetryOptions(task_retry_limit=0)
        )
    if end == "deleted":
        Queue().delete_tasks_by_name("n")
    elif end == "purged":
        Queue().purge()
    else:
        Queue("other").pause()
        machine.run("200 OK" if end == "completed" else "500 No")

    with pytest.raises(taskqueue.TombstonedTaskError):
        taskqueue.add(url="/a", name="n")
    with pytest.raises(taskqueue.TaskAlreadyExistsError):
        taskqueue.add(url="/a", name="n", queue_name="other")


@pytest.mark.parametrize("end", ["completed", "failed for good", "deleted"])
def test_case_2_the_life_of_a_tombstone_is_what_the_environment_says(
    machine: Machine, app_root: Path, end: str
) -> None:
    """LASTACROSS_TOMBSTONE_SECONDS; afterwards the name may be used again, also that of a dead letter."""
    environ = {
        "SECRET_KEY": SECRET_KEY,
        "REDIS_URL": machine.store.url,
        "DATABASE_URL": f"sqlite:///{app_root}/x.db",
        "LASTACROSS_TOMBSTONE_SECONDS": "86400",
    }
    config.use(config.load(app_root, environ))
    taskqueue.add(url="/a", name="n", retry_options=TaskRetryOptions(task_retry_limit=0))
    if end == "deleted":
        Queue().delete_tasks_by_name("n")
    else:
        machine.run("200 OK" if end == "completed" else "500 No")
    key = store.tombstone_key("default_n")
    with pytest.raises(taskqueue.TombstonedTaskError):
        taskqueue.add(url="/a", name="n")
    assert 86390 <= int(machine.store.redis.ttl(key)) <= 86400

    machine.store.redis.pexpire(key, 1)
    wait_until(lambda: not machine.store.redis.exists(key), 30)

    assert taskqueue.add(url="/a", name="n").was_enqueued
    assert machine.dead() == []
    assert machine.run() == 1


# --- 3: both limits -----------------------------------------------------------------------------------

# task_retry_limit, task_age_limit in seconds, waits between the attempts; 10 s of back-off without growth
LIMITS = [
    (0, None, []),
    (3, None, [10, 10, 10]),
    (None, 25, [10, 10, 10]),
    (0, 25, [10, 10, 10]),
    (1, 25, [10, 10, 10]),
    (5, 25, [10] * 5),
    (5, 0, [10] * 5),
]


@pytest.mark.parametrize(("limit", "age_limit", "waits"), LIMITS)
def test_case_3_a_task_fails_when_both_of_its_limits_are_passed(
    machine: Machine, limit: int | None, age_limit: int | None, waits: list[float]
) -> None:
    options = TaskRetryOptions(
        task_retry_limit=limit, task_age_limit=age_limit, min_backoff_seconds=10, max_backoff_seconds=10
    )
    taskqueue.add(url="/a", name="n", retry_options=options)

    assert machine.run_until_over("500 No") == waits
    assert machine.dead() == ["n"]


def test_case_3_the_age_counts_from_the_first_try(machine: Machine) -> None:
    """A task that waited for hours is as young as one that was tried at once."""
    options = TaskRetryOptions(task_age_limit=15, min_backoff_seconds=10, max_backoff_seconds=10)
    taskqueue.add(url="/a", name="n", countdown=5 * HOUR, retry_options=options)

    assert machine.run() == 0
    machine.clock.advance(9 * HOUR)
    assert machine.run_until_over("500 No") == [10, 10]


# --- 4: the task's options and its queue's --------------------------------------------------------------


def test_case_4_without_options_of_its_own_a_task_has_its_queues(machine: Machine) -> None:
    taskqueue.add(url="/a", queue_name="careful")
    machine.run("500 No")
    machine.clock.advance(2 * 86400)

    waits = machine.run_until_over("500 No", "careful")

    assert waits == [20, 30, 40, 50, 60, 70], "seven retries, for the age limit was passed by then"


@pytest.mark.parametrize(
    ("options", "first_waits"),
    [
        ({"task_retry_limit": 2}, [0.1, 0.2]),
        ({"min_backoff_seconds": 3}, [3, 6, 12, 24]),
        ({"max_backoff_seconds": 0.3}, [0.1, 0.2, 0.3, 0.3]),
        ({"max_doublings": 1}, [0.1, 0.2, 0.4, 0.6]),
        ({"task_age_limit": 1}, [0.1, 0.2, 0.4, 0.8]),
        ({}, [0.1, 0.2, 0.4, 0.8]),
    ],
    ids=repr,
)
def test_case_4_a_task_with_one_option_has_nothing_of_its_queues_block(
    machine: Machine, options: dict[str, Any], first_waits: list[float]
) -> None:
    taskqueue.add(url="/a", name="n", queue_name="careful", retry_options=TaskRetryOptions(**options))
    is_limited = "task_retry_limit" in options or "task_age_limit" in options
    if is_limited:
        assert machine.run_until_over("500 No", "careful") == first_waits
        return
    machine.run("500 No")
    for wait in first_waits:
        machine.clock.advance(wait - 0.001)
        assert machine.run() == 0
        machine.clock.advance(0.002)
        assert machine.run("500 No") == 1


# --- 5: rates as they are written -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "bucket_size", "seconds", "attempts"),
    [
        ("1/h", 1, 10 * HOUR, 11),
        ("1/h", 5, 10 * HOUR, 15),
        ("20/m", 1, 60, 21),
        ("1.5/m", 1, 400, 11),
        ("2000/d", 1, 432, 11),
        ("7200./h", 1, 10, 21),
        ("0", 5, 24 * HOUR, 0),
        ("0/s", 5, 24 * HOUR, 0),
    ],
)
def test_case_5_a_queue_runs_as_many_tasks_as_its_file_says(
    machine: Machine, rate: str, bucket_size: int, seconds: float, attempts: int
) -> None:
    machine.deploy(f"queue:\n- name: default\n  rate: {rate}\n  bucket_size: {bucket_size}\n")
    Queue().add([Task(url="/a") for _ in range(50)])

    made = machine.run()
    for _ in range(400):
        machine.clock.advance(seconds / 400)
        made += machine.run()
    machine.clock.advance(0.001)
    made += machine.run()

    assert made == attempts


def test_case_5_a_rate_that_changes_while_tasks_wait_loses_none(machine: Machine) -> None:
    machine.deploy("queue:\n- name: default\n  rate: 1/h\n  bucket_size: 1\n")
    Queue().add([Task(url="/a") for _ in range(30)])
    assert machine.run() == 1
    assert machine.run() == 0

    machine.deploy("queue:\n- name: default\n  rate: 0\n")
    assert machine.run() == 0
    machine.deploy("queue:\n- name: default\n  rate: 10/s\n  bucket_size: 10\n")
    machine.clock.advance(1)
    assert machine.run() == 10
    for _ in range(19):
        machine.clock.advance(0.101)
        assert machine.run() == 1
    assert len(machine.asked) == 30


# --- 6: answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "is_success"),
    [
        ("200 OK", True),
        ("204 No Content", True),
        ("299 Odd", True),
        ("301 Moved Permanently", False),
        ("302 Found", False),
        ("304 Not Modified", False),
        ("404 Not Found", False),
        ("503 Service Unavailable", False),
    ],
)
def test_case_6_200_to_299_is_success_and_a_redirect_is_not_followed(
    machine: Machine, status: str, is_success: bool
) -> None:
    taskqueue.add(url="/a")
    assert machine.run(status) == 1
    machine.clock.advance(0.2)

    assert machine.run() == (0 if is_success else 1)
    assert {environ["PATH_INFO"] for environ in machine.asked} == {"/a"}
    if not is_success:
        [_, again] = machine.asked
        assert again["HTTP_X_APPENGINE_TASKPREVIOUSRESPONSE"] == status[:3]
        assert again["HTTP_X_APPENGINE_TASKRETRYCOUNT"] == "1"
        assert again["HTTP_X_APPENGINE_TASKEXECUTIONCOUNT"] == "1"


# --- a queue's life -----------------------------------------------------------------------------------


def test_the_default_queue_is_there_unasked_at_five_a_second(machine: Machine) -> None:
    Queue().add([Task(url="/a") for _ in range(20)])

    assert machine.run() == 5
    machine.clock.advance(0.999)
    assert machine.run() == 4
    assert Queue().fetch_statistics().enforced_rate == 5


def test_a_paused_queue_takes_tasks_and_delivers_none(machine: Machine) -> None:
    Queue().pause()
    taskqueue.add(url="/a", name="n")

    assert Queue().is_paused()
    assert machine.run() == 0
    assert Queue().fetch_statistics().enforced_rate == 0
    with pytest.raises(taskqueue.TaskAlreadyExistsError):
        taskqueue.add(url="/a", name="n")

    Queue().resume()
    assert not Queue().is_paused()
    assert machine.run() == 1


def test_a_retry_that_comes_due_while_its_queue_is_paused_waits(machine: Machine) -> None:
    taskqueue.add(url="/a")
    machine.run("500 No")
    Queue().pause()
    machine.clock.advance(HOUR)
    assert machine.run() == 0

    Queue().resume()
    assert machine.run() == 1


@pytest.mark.parametrize(("resume", "is_paused"), [("", True), ("resume_paused_queues: True\n", False)])
def test_a_pause_outlives_an_upload_unless_the_file_says_so(
    machine: Machine, resume: str, is_paused: bool
) -> None:
    Queue().pause()
    (machine.configuration.root / "queue.yaml").write_text(f"{resume}{QUEUES}- name: fresh\n  rate: 1/s\n")
    environ = {"SECRET_KEY": SECRET_KEY, "REDIS_URL": machine.store.url}
    queue_directory.upload_if_changed(machine.store, config.load(machine.configuration.root, environ))
    machine.clock.advance(1)

    assert Queue().is_paused() is is_paused


def test_a_purged_queue_is_empty_and_its_names_are_used_up(machine: Machine) -> None:
    for name, countdown in (("ready", 0), ("later", 60)):
        taskqueue.add(url="/a", name=name, countdown=countdown)
    Queue().purge()

    assert machine.run() == 0
    machine.clock.advance(HOUR)
    assert machine.run() == 0
    for name in ("ready", "later"):
        with pytest.raises(taskqueue.TombstonedTaskError):
            taskqueue.add(url="/a", name=name)
    taskqueue.add(url="/a", name="new")
    assert machine.run() == 1


def test_a_task_that_is_to_run_by_hand_is_purged_with_the_others(machine: Machine) -> None:
    taskqueue.add(url="/a", name="later", countdown=60)
    Queue().run_now("later")
    taskqueue.add(url="/a", queue_name="other", name="stays", countdown=60)
    Queue("other").run_now("stays")

    Queue().purge()

    assert machine.run() == 1
    assert machine.asked[0]["HTTP_X_APPENGINE_TASKNAME"] == "stays"


def test_a_queue_that_the_file_lists_no_more_keeps_its_tasks_disabled(machine: Machine) -> None:
    taskqueue.add(url="/a", queue_name="other", name="waits")
    machine.deploy("queue:\n- name: default\n")

    assert machine.run() == 0
    assert Queue("other").fetch_statistics().tasks == 1
    assert Queue("other").fetch_statistics().enforced_rate == 0

    machine.deploy(QUEUES)
    assert machine.run() == 1


def test_a_running_task_of_a_queue_that_vanishes_is_retried_when_it_is_back(machine: Machine) -> None:
    """The answer to an attempt counts, whatever the file says by then."""
    taskqueue.add(url="/a", queue_name="careful", name="n")
    machine.run("500 No")
    machine.deploy("queue:\n- name: default\n")
    machine.clock.advance(HOUR)
    assert machine.run() == 0

    machine.deploy(QUEUES)

    assert machine.run() == 1
    assert machine.asked[1]["HTTP_X_APPENGINE_TASKRETRYCOUNT"] == "1"
