"""Pull queues through the public API, on a real Redis with a stopped clock."""

import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import rq
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, clean_registries

from lastacross import config, datastore, store, taskqueue
from lastacross.broker import queue_directory
from lastacross.clock import SYSTEM
from lastacross.datastore import outbox, relay
from lastacross.store import Store
from lastacross.taskqueue import Batch, Queue, Task
from tests.integration.test_queue import lose_answers
from tests.support import databases
from tests.support.clock import StoppedClock
from tests.support.scripts import Scripts

QUEUES = """queue:
- name: default
  rate: 500/s
- name: pulled
  mode: pull
- name: limited
  mode: pull
  retry_parameters:
    task_retry_limit: 2
- name: aged
  mode: pull
  retry_parameters:
    task_retry_limit: 1
    task_age_limit: 1s
"""
pulled = Queue("pulled")


@pytest.fixture
def app_root(tmp_path: Path) -> Path:
    """An application with a push queue and three pull queues."""
    (tmp_path / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    (tmp_path / "queue.yaml").write_text(QUEUES)
    return tmp_path


@pytest.fixture
def opened(test_store: Store, configuration: config.Config) -> Store:
    """An empty store that the queues were uploaded to."""
    queue_directory.upload(test_store, configuration)
    return test_store


def pull_tasks(count: int, **options: Any) -> list[Task]:
    return [Task(f"payload {index}", method="PULL", **options) for index in range(count)]


def add(queue: Queue = pulled, **options: Any) -> Task:
    return queue.add(Task(options.pop("payload", "x"), method="PULL", **options))


def names(tasks: list[Task]) -> list[str | None]:
    return [task.name for task in tasks]


@pytest.fixture
def later(opened: Store, clock: StoppedClock) -> Callable[..., None]:
    """Let time pass; by default as little as makes a task added now eligible.

    Two microseconds: one, added to a float of today's size, may come to less than one.
    """

    def advance(seconds: float = 0.000002) -> None:
        clock.advance(seconds)

    return advance


# --- add ------------------------------------------------------------------------------------------


def test_an_added_task_waits_to_be_leased_and_no_worker_is_given_it(
    later: Callable[..., None], opened: Store
) -> None:
    task = taskqueue.add(b"\x00\xff", method="PULL", queue_name="pulled", tag="t")

    assert (task.was_enqueued, task.queue_name, task.url) == (True, "pulled", "")
    assert opened.redis.llen(store.ready_key("pulled")) == 0
    later()
    assert names(pulled.lease_tasks(10, 10)) == [task.name]


def test_a_hundred_tasks_are_added_in_one_step_and_a_hundred_and_one_refused(
    later: Callable[..., None],
) -> None:
    tasks = pulled.add(pull_tasks(100))
    later()

    assert sorted(map(str, names(tasks))) == sorted(map(str, names(pulled.lease_tasks(10, 1000))))
    with pytest.raises(taskqueue.TooManyTasksError):
        pulled.add(pull_tasks(101))


def test_a_payload_of_a_mebibyte_comes_back_as_it_was(later: Callable[..., None]) -> None:
    payload = bytes(range(256)) * 4092
    add(payload=payload)
    later()

    [task] = pulled.lease_tasks(10, 1)
    assert task.payload == payload
    with pytest.raises(taskqueue.TaskTooLargeError):
        add(payload=b"x" * (1024 * 1024 + 1))


def test_a_hundred_of_the_largest_tasks_are_added_in_short_steps(
    later: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = Store.run

    def weighed(self: Store, script: str, keys: list[str], args: list[store.Arg]) -> object:
        sizes.append(sum(len(arg) for arg in args if isinstance(arg, str | bytes)))
        return run(self, script, keys, args)

    tasks = [Task(b"x" * 1_048_000, method="PULL", countdown=number - 1000) for number in range(100)]
    with monkeypatch.context() as patch:
        patch.setattr(Store, "run", weighed)
        pulled.add(tasks)

    assert max(sizes) < 9 << 20
    assert all(task.was_enqueued for task in tasks)
    first = pulled.lease_tasks(10, 1000)
    assert names(first) == names(tasks)[: len(first)]
    assert len(first) == 32


def test_countdown_and_eta_say_from_when_on_a_task_may_be_leased(later: Callable[..., None]) -> None:
    soon = add(countdown=5)
    before = add(countdown=-3600)
    long_ago = add(eta=datetime(2020, 1, 1, tzinfo=UTC))

    assert names(pulled.lease_tasks(100, 10)) == [long_ago.name, before.name]
    later(5)
    assert pulled.lease_tasks(100, 10) == []
    later()
    assert names(pulled.lease_tasks(100, 10)) == [soon.name]


def test_names_are_refused_while_they_live_and_for_their_tombstones_life(
    later: Callable[..., None], opened: Store
) -> None:
    add(name="n")
    with pytest.raises(taskqueue.TaskAlreadyExistsError, match="'n'"):
        add(name="n")
    later()
    assert len(pulled.lease_tasks(10, 1)) == 1
    with pytest.raises(taskqueue.TaskAlreadyExistsError):
        add(name="n")

    pulled.delete_tasks_by_name("n")

    fresh = [Task("1", method="PULL"), Task("2", method="PULL", name="n"), Task("3", method="PULL")]
    with pytest.raises(taskqueue.TombstonedTaskError, match="'n'"):
        pulled.add(fresh)
    assert [task.was_enqueued for task in fresh] == [True, False, True]
    assert opened.redis.ttl(store.tombstone_key("pulled_n")) == 9 * 86_400


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (lambda: pulled.add(Task(url="/a")), taskqueue.InvalidQueueModeError),
        (lambda: Queue().add(Task("x", method="PULL")), taskqueue.InvalidQueueModeError),
        (lambda: pulled.add([Task("x", method="PULL"), Task(url="/a")]), taskqueue.InvalidTaskError),
        (lambda: pulled.add(Task(method="PULL")), taskqueue.InvalidTaskError),
        (lambda: add(tag="t" * 501), taskqueue.InvalidTagError),
        (lambda: add(tag="\ud800"), taskqueue.InvalidTagError),
        (lambda: add(tag=5), taskqueue.InvalidTagError),
        (lambda: add(url="/a"), taskqueue.InvalidTaskError),
        (lambda: pulled.add([Task("x", method="PULL", name="n")] * 2), taskqueue.BadTaskStateError),
        (lambda: Batch(queue_name="pulled").__enter__(), taskqueue.InvalidTaskError),
    ],
)
def test_of_a_request_that_is_bad_in_itself_nothing_is_added(
    later: Callable[..., None], request_: Callable[[], object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        request_()

    later()
    assert pulled.lease_tasks(1, 1) == []


def test_a_pull_task_is_no_member_of_a_batch(opened: Store) -> None:
    with pytest.raises(taskqueue.InvalidTaskError, match="pull task"), Batch() as batch:
        batch.add(Task("x", method="PULL"))


# --- lease ----------------------------------------------------------------------------------------


def test_a_leased_task_is_what_was_added_and_says_how_long_it_is_held(
    later: Callable[..., None], clock: StoppedClock
) -> None:
    added = add(params={"a": "1", "b": ["2", "ü"]}, payload=None, tag="grün")
    later(1)

    [task] = pulled.lease_tasks(2.5, 10)

    assert task is not added
    assert (task.name, task.tag, task.method, task.queue_name) == (added.name, "grün", "PULL", "pulled")
    assert task.extract_params() == {"a": "1", "b": ["2", "ü"]}
    assert (task.retry_count, task.was_enqueued, task.was_deleted) == (1, True, False)
    assert task.eta_posix == clock.now() + 2.5
    assert task.eta == datetime.fromtimestamp(clock.now() + 2.5, UTC)
    assert (task.url, task.target, task.retry_options) == ("", None, None)


@pytest.mark.parametrize("tag", [None, ""])
def test_an_empty_tag_is_none(later: Callable[..., None], tag: str | None) -> None:
    add(tag=tag)
    later()

    [task] = pulled.lease_tasks(1, 1)
    assert task.tag is None


def test_a_task_that_has_been_leased_cannot_be_added_again(later: Callable[..., None]) -> None:
    add()
    later()
    [task] = pulled.lease_tasks(1, 1)

    with pytest.raises(taskqueue.BadTaskStateError):
        pulled.add(task)


def test_nobody_else_is_given_a_leased_task_until_its_lease_ends(later: Callable[..., None]) -> None:
    task = add()
    later()
    pulled.lease_tasks(10, 1)

    later(10)
    assert pulled.lease_tasks(10, 1) == []
    later()
    [again] = pulled.lease_tasks(10, 1)
    assert (again.name, again.retry_count) == (task.name, 2)


def test_tasks_of_one_eta_come_in_the_order_of_their_names(later: Callable[..., None]) -> None:
    pulled.add([Task("x", method="PULL", name=name) for name in ("b", "10", "a", "9", "B")])
    later()

    assert names(pulled.lease_tasks(1, 10)) == ["10", "9", "B", "a", "b"]


def test_by_tag_one_tag_is_leased_and_without_one_that_of_the_oldest(later: Callable[..., None]) -> None:
    for name, tag, countdown in [
        ("a", None, -9),
        ("b", "t", -8),
        ("c", "u", -7),
        ("d", "t", -6),
        ("e", None, -5),
    ]:
        add(name=name, tag=tag, countdown=countdown)

    assert names(pulled.lease_tasks_by_tag(100, 10, "t")) == ["b", "d"]
    assert pulled.lease_tasks_by_tag(100, 10, tag="nobody's") == []
    assert names(pulled.lease_tasks_by_tag(100, 10)) == ["a", "e"]
    assert names(pulled.lease_tasks_by_tag(100, 10)) == ["c"]


@pytest.mark.parametrize("tag", [None, ""])
def test_an_empty_tag_asks_for_that_of_the_oldest(later: Callable[..., None], tag: str | None) -> None:
    add(name="a", countdown=-9, tag="t")
    add(name="b", countdown=-8)

    assert names(pulled.lease_tasks_by_tag(100, 10, tag)) == ["a"]


def test_a_thousand_tasks_are_leased_in_one_call(later: Callable[..., None]) -> None:
    for _ in range(11):
        pulled.add(pull_tasks(100))
    later()

    assert len(pulled.lease_tasks(604_800, 1000)) == 1000
    assert len(pulled.lease_tasks(604_800, 1000)) == 100


@pytest.mark.parametrize("seconds", [0, 0.0, 0.25, 604_800, 604_800.0])
def test_a_lease_lasts_from_nothing_to_a_week(
    later: Callable[..., None], clock: StoppedClock, seconds: float
) -> None:
    add()
    later()

    [task] = pulled.lease_tasks(seconds, 1)
    assert task.eta_posix == clock.now() + seconds


BAD_SECONDS: list[tuple[Any, type[Exception]]] = [
    (-1, taskqueue.InvalidLeaseTimeError),
    (-0.000001, taskqueue.InvalidLeaseTimeError),
    (604_801, taskqueue.InvalidLeaseTimeError),
    (604_800.5, taskqueue.InvalidLeaseTimeError),
    (math.nan, taskqueue.InvalidLeaseTimeError),
    (math.inf, taskqueue.InvalidLeaseTimeError),
    (10**400, taskqueue.InvalidLeaseTimeError),
    (True, TypeError),
    ("10", TypeError),
    (None, TypeError),
    (timedelta(seconds=5), TypeError),
]


@pytest.mark.parametrize(("seconds", "error"), BAD_SECONDS)
def test_a_lease_of_a_wrong_length_is_refused_and_nothing_is_leased(
    later: Callable[..., None], seconds: Any, error: type[Exception]
) -> None:
    task = add()
    later()
    for call in (
        lambda: pulled.lease_tasks(seconds, 1),
        lambda: pulled.lease_tasks_by_tag(seconds, 1),
        lambda: pulled.modify_task_lease(task, seconds),
    ):
        with pytest.raises(error, match="lease_seconds"):
            call()

    assert len(pulled.lease_tasks(1, 1)) == 1


@pytest.mark.parametrize(
    ("most", "error"),
    [
        (0, taskqueue.InvalidMaxTasksError),
        (-1, taskqueue.InvalidMaxTasksError),
        (1001, taskqueue.InvalidMaxTasksError),
        (True, TypeError),
        (1.0, TypeError),
        ("1", TypeError),
        (None, TypeError),
    ],
)
def test_a_wrong_number_of_tasks_is_refused(opened: Store, most: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_tasks"):
        pulled.lease_tasks(1, most)
    with pytest.raises(error, match="max_tasks"):
        pulled.lease_tasks_by_tag(1, most)


@pytest.mark.parametrize("tag", ["t" * 501, b"t", 7, "\ud800"])
def test_a_wrong_tag_is_refused(opened: Store, tag: Any) -> None:
    with pytest.raises(taskqueue.InvalidTagError):
        pulled.lease_tasks_by_tag(1, 1, tag)


@pytest.mark.parametrize(
    ("deadline", "error"),
    [
        *((out_of_range, taskqueue.InvalidDeadlineError) for out_of_range in (0, -1, math.nan, math.inf)),
        *((no_number, TypeError) for no_number in (True, "5", None)),
    ],
)
def test_a_wrong_deadline_is_refused(opened: Store, deadline: Any, error: type[Exception]) -> None:
    calls: list[Callable[[], object]] = [
        lambda: pulled.lease_tasks(1, 1, deadline=deadline),
        lambda: pulled.lease_tasks_by_tag(1, 1, deadline=deadline),
        lambda: pulled.fetch_statistics(deadline=deadline),
        lambda: taskqueue.QueueStatistics.fetch(pulled, deadline=deadline),
    ]
    for call in calls:
        with pytest.raises(error, match="deadline"):
            call()


@pytest.mark.parametrize(
    ("queue", "error"),
    [("default", taskqueue.InvalidQueueModeError), ("nowhere", taskqueue.UnknownQueueError)],
)
def test_only_a_pull_queue_can_be_leased_from(opened: Store, queue: str, error: type[Exception]) -> None:
    for call in (
        lambda: Queue(queue).lease_tasks(1, 1),
        lambda: Queue(queue).lease_tasks_by_tag(1, 1, "t"),
        lambda: Queue(queue).modify_task_lease(Task("x", method="PULL", name="n"), 1),
    ):
        with pytest.raises(error, match=queue):
            call()


def test_a_paused_queue_can_be_leased_from_and_added_to(later: Callable[..., None], opened: Store) -> None:
    opened.redis.sadd(store.PAUSED, "pulled")
    task = add()
    later()

    assert names(pulled.lease_tasks(1, 1)) == [task.name]


# --- how often ------------------------------------------------------------------------------------


def lease_counts(queue: Queue, later: Callable[..., None], calls: int) -> list[int]:
    """The retry counts that so many calls, each after the lease before, saw; 0 for an empty answer."""
    found = []
    for _ in range(calls):
        later(2)
        found.append(sum(task.retry_count for task in queue.lease_tasks(1, 10)))
    return found


def test_a_task_is_leased_as_often_as_its_queues_limit_says(
    later: Callable[..., None], opened: Store, caplog: pytest.LogCaptureFixture
) -> None:
    add(Queue("limited"), name="n")

    assert lease_counts(Queue("limited"), later, 4) == [1, 2, 0, 0]

    assert opened.redis.hget(store.record_key("limited_n"), "status") == b"failed"
    assert opened.redis.zscore(store.dead_key("limited"), "limited_n") is not None
    with pytest.raises(taskqueue.TombstonedTaskError):
        add(Queue("limited"), name="n")


def test_with_an_age_limit_as_well_a_task_is_never_taken_out(later: Callable[..., None]) -> None:
    add(Queue("aged"))

    assert lease_counts(Queue("aged"), later, 5) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"task_retry_limit": 1}, [1, 0, 0]),
        ({"task_retry_limit": 3}, [1, 2, 3]),
        ({"task_retry_limit": 0}, [0, 0, 0]),
        ({"task_retry_limit": 0, "task_age_limit": 60}, [1, 2, 3]),
        ({"min_backoff_seconds": 1}, [1, 2, 3]),
        ({}, [1, 2, 3]),
    ],
)
def test_a_tasks_own_options_replace_the_queues_whole(
    later: Callable[..., None], options: dict[str, Any], counts: list[int]
) -> None:
    add(Queue("limited"), retry_options=taskqueue.TaskRetryOptions(**options))

    assert lease_counts(Queue("limited"), later, 3) == counts


# --- modify ---------------------------------------------------------------------------------------


def leased(later: Callable[..., None], **options: Any) -> Task:
    """A task under a lease of 10 s."""
    add(**options)
    later()
    [task] = pulled.lease_tasks(10, 1)
    return task


def test_a_lease_is_lengthened_from_now_and_the_task_knows(
    later: Callable[..., None], clock: StoppedClock
) -> None:
    task = leased(later, tag="t")
    later(9)

    pulled.modify_task_lease(task, 30)

    assert task.eta_posix == pytest.approx(clock.now() + 30, abs=1e-6)
    assert task.retry_count == 1
    later(29)
    assert pulled.lease_tasks_by_tag(1, 1, "t") == []
    pulled.modify_task_lease(task, 5.5)
    later(5.6)
    [again] = pulled.lease_tasks_by_tag(1, 1, "t")
    assert again.retry_count == 2


def test_no_seconds_give_the_task_back_at_once(later: Callable[..., None]) -> None:
    task = leased(later)

    pulled.modify_task_lease(task, 0)
    later()

    assert names(pulled.lease_tasks(1, 1)) == [task.name]


def test_a_lease_that_ran_out_or_went_to_another_cannot_be_changed(later: Callable[..., None]) -> None:
    task = leased(later)
    later(11)
    with pytest.raises(taskqueue.TaskLeaseExpiredError, match="has expired"):
        pulled.modify_task_lease(task, 10)

    [other] = pulled.lease_tasks(10, 1)
    with pytest.raises(taskqueue.TaskLeaseExpiredError):
        pulled.modify_task_lease(task, 10)

    pulled.modify_task_lease(other, 10)


def test_a_paused_queue_refuses_to_change_a_lease(later: Callable[..., None], opened: Store) -> None:
    task = leased(later)
    opened.redis.sadd(store.PAUSED, "pulled")
    with pytest.raises(taskqueue.QueuePausedError, match="pulled"):
        pulled.modify_task_lease(task, 10)

    opened.redis.srem(store.PAUSED, "pulled")
    pulled.modify_task_lease(task, 10)


@pytest.mark.parametrize("name", [None, "n"])
def test_the_lease_of_a_task_that_was_done_is_gone(later: Callable[..., None], name: str | None) -> None:
    task = leased(later, name=name)
    pulled.delete_tasks_by_name(str(task.name))

    with pytest.raises(taskqueue.TombstonedTaskError, match=str(task.name)):
        pulled.modify_task_lease(task, 10)


def test_a_task_that_never_was_has_no_lease(opened: Store) -> None:
    with pytest.raises(taskqueue.Error, match="does not exist") as raised:
        pulled.modify_task_lease(Task("x", method="PULL", name="never"), 10)
    assert type(raised.value) is taskqueue.Error


def test_the_task_of_another_queue_has_no_lease_here(later: Callable[..., None]) -> None:
    task = leased(later)
    with pytest.raises(taskqueue.Error, match="does not exist"):
        Queue("limited").modify_task_lease(task, 10)


def test_what_is_no_leased_task_is_refused(opened: Store) -> None:
    with pytest.raises(taskqueue.BadTaskStateError):
        pulled.modify_task_lease(Task("x", method="PULL"), 10)
    with pytest.raises(TypeError, match="str"):
        pulled.modify_task_lease("n", 10)  # type: ignore[arg-type]


# --- delete, purge --------------------------------------------------------------------------------


def test_a_task_that_is_done_is_deleted_and_never_leased_again(
    later: Callable[..., None], opened: Store
) -> None:
    task = leased(later, tag="t")

    assert pulled.delete_tasks(task) is task

    assert task.was_deleted
    later(11)
    assert pulled.lease_tasks(1, 1) == []
    assert opened.redis.keys("lastacross:pull*") == []
    with pytest.raises(taskqueue.BadTaskStateError):
        pulled.delete_tasks(task)


def test_a_task_may_be_deleted_after_its_lease_by_whoever_did_it(later: Callable[..., None]) -> None:
    task = leased(later)
    later(11)
    pulled.lease_tasks(10, 1)

    pulled.delete_tasks(task)

    assert task.was_deleted


def test_a_thousand_leased_tasks_are_deleted_in_one_call(later: Callable[..., None], opened: Store) -> None:
    for _ in range(10):
        pulled.add(pull_tasks(100, tag="t"))
    later()
    tasks = pulled.lease_tasks(10, 1000)

    pulled.delete_tasks(tasks)

    assert all(task.was_deleted for task in tasks)
    assert opened.redis.keys("rq:job:*") == []


def test_a_purge_takes_leased_and_waiting_tasks(later: Callable[..., None], opened: Store) -> None:
    leased(later, name="n")
    add(tag="t", countdown=60)

    pulled.purge()

    later(100)
    assert pulled.lease_tasks(1, 10) == []
    assert opened.redis.keys("lastacross:pull*") == []
    with pytest.raises(taskqueue.TombstonedTaskError):
        add(name="n")


# --- operators ------------------------------------------------------------------------------------


def test_statistics_count_what_waits_and_what_is_held(
    later: Callable[..., None], clock: StoppedClock
) -> None:
    empty = pulled.fetch_statistics()
    assert (empty.tasks, empty.oldest_eta_usec, empty.in_flight) == (0, None, 0)
    pulled.add(pull_tasks(3, countdown=-2))
    [task] = pulled.lease_tasks(10, 1)

    found = pulled.fetch_statistics()

    assert (found.tasks, found.in_flight) == (3, 1)
    assert found.oldest_eta_usec == round((clock.now() - 2) * 1e6)
    pulled.delete_tasks(task)
    assert pulled.fetch_statistics().executed_last_minute == 1


def test_a_task_that_lies_ahead_is_leased_when_it_is_to_run_now(later: Callable[..., None]) -> None:
    task = add(countdown=60)

    pulled.run_now(str(task.name))

    later()
    assert names(pulled.lease_tasks(10, 1)) == [task.name]
    with pytest.raises(taskqueue.BadTaskStateError, match="is already running"):
        pulled.run_now(str(task.name))


def test_pausing_stops_changes_of_leases_and_nothing_else(later: Callable[..., None]) -> None:
    task = leased(later)
    pulled.pause()

    assert add().was_enqueued
    later()
    assert len(pulled.lease_tasks(10, 10)) == 1
    with pytest.raises(taskqueue.QueuePausedError):
        pulled.modify_task_lease(task, 10)
    pulled.resume()
    pulled.modify_task_lease(task, 10)


# --- transactions, twins, outages ---------------------------------------------------------------------


@pytest.fixture
def tables(configuration: config.Config) -> Iterator[None]:
    """The engine's tables in a database of this test."""
    databases.upgrade()
    yield
    datastore.dispose()


@pytest.mark.usefixtures("tables")
def test_a_transactional_task_can_be_leased_once_its_transaction_has_committed(
    later: Callable[..., None], clock: StoppedClock
) -> None:
    clock.advance(outbox.now() - clock.now() + 60)
    with datastore.transaction():
        task = taskqueue.add("x", method="PULL", queue_name="pulled", tag="t", transactional=True)
        later()
        assert pulled.lease_tasks(1, 1) == []

    later()
    [leased_task] = pulled.lease_tasks_by_tag(1, 10, "t")
    assert (leased_task.name, leased_task.payload) == (task.name, b"x")


@pytest.mark.usefixtures("tables")
def test_the_relay_sends_pull_and_push_tasks_to_their_queues(
    later: Callable[..., None], clock: StoppedClock, opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.advance(outbox.now() - clock.now() + 60)
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "_send_committed", lambda noted: None)
        with datastore.transaction():
            push = taskqueue.add(url="/a", transactional=True)
            pull = taskqueue.add("x", method="PULL", queue_name="pulled", transactional=True)

    assert relay.relay(outbox.now() + 60) == 2

    assert opened.redis.lrange(store.ready_key("default"), 0, -1) == [f"default_{push.name}".encode()]
    assert names(pulled.lease_tasks(1, 10)) == [pull.name]


@pytest.mark.usefixtures("tables")
def test_a_task_of_a_transaction_that_was_rolled_back_is_never_leased(later: Callable[..., None]) -> None:
    def fail() -> None:
        with datastore.transaction():
            taskqueue.add("x", method="PULL", queue_name="pulled", transactional=True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    later(100)
    assert pulled.lease_tasks(1, 1) == []


def test_the_async_twins_return_and_raise_the_same(later: Callable[..., None]) -> None:
    add(tag="t")
    later()

    assert pulled.lease_tasks_by_tag_async(0, 1, "t").get_result()[0].tag == "t"
    later()
    [task] = pulled.lease_tasks_async(1, 1).get_result()
    pulled.modify_task_lease_async(task, 5).check_success()
    with pytest.raises(taskqueue.InvalidLeaseTimeError):
        pulled.lease_tasks_async(-1, 1).get_result()
    pulled.delete_tasks_async(task).get_result()
    with pytest.raises(taskqueue.TombstonedTaskError):
        pulled.modify_task_lease_async(task, 5).check_success()


def test_a_lease_whose_answer_was_lost_on_the_way_is_not_lost(
    later: Callable[..., None], opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled.add([Task("x", method="PULL", name=name) for name in "abcd"])
    later()
    assert names(pulled.lease_tasks(0, 1)) == ["a"]
    later()
    with monkeypatch.context() as patch:
        lose_answers(patch, opened, 2)
        held = pulled.lease_tasks(604_800, 3)

    assert names(held) == ["b", "c", "d"]
    with monkeypatch.context() as patch:
        lose_answers(patch, opened, 1)
        pulled.modify_task_lease(held[0], 5)
    later(6)
    assert held[0].name in names(pulled.lease_tasks(1, 10))


def test_without_redis_the_calls_say_that_they_may_be_repeated(opened: Store) -> None:
    task = add()
    away = Store("unix:///nowhere/redis.sock")
    store.use(away)
    try:
        for call in (
            lambda: add(),
            lambda: pulled.lease_tasks(1, 1),
            lambda: pulled.lease_tasks_by_tag(1, 1, "t"),
            lambda: pulled.modify_task_lease(task, 1),
            lambda: pulled.delete_tasks(task),
        ):
            with pytest.raises(taskqueue.TransientError):
                call()
    finally:
        store.use(opened)
        away.close()


# --- RQ's tools and other eyes ------------------------------------------------------------------------


@pytest.fixture
def machines_clock(clock: StoppedClock) -> None:
    """The clock stands where RQ's does, which reads the machine's."""
    clock.advance(SYSTEM.now() - clock.now())


@pytest.mark.usefixtures("machines_clock")
def test_rqs_tools_read_pull_tasks_and_leave_them_where_they_are(
    later: Callable[..., None], opened: Store
) -> None:
    task = leased(later)
    connection = opened.redis

    job = Job.fetch(f"pulled_{task.name}", connection=connection)
    assert (job.get_status(), job.origin, job.description) == (JobStatus.SCHEDULED, "pulled", "PULL ")
    clean_registries(rq.Queue("pulled", connection=connection))

    later(11)
    assert names(pulled.lease_tasks(1, 1)) == [task.name]


@pytest.mark.usefixtures("machines_clock")
def test_a_dead_letter_that_rq_requeues_is_leased_again(later: Callable[..., None], opened: Store) -> None:
    limited = Queue("limited")
    add(limited, name="n", tag="t", payload=b"\x00\xff")
    assert lease_counts(limited, later, 3) == [1, 2, 0]

    FailedJobRegistry("limited", connection=opened.redis).requeue("limited_n")

    [task] = limited.lease_tasks_by_tag(1, 10)
    assert (task.name, task.tag, task.payload, task.retry_count) == ("n", "t", b"\x00\xff", 1)


def test_the_maintenance_of_workers_leaves_pull_tasks_alone(
    later: Callable[..., None], scripts: Scripts, clock: StoppedClock
) -> None:
    waiting, held = add(countdown=60), leased(later)
    before = [scripts.record(f"pulled_{task.name}") for task in (waiting, held)]
    later(1000)

    scripts.run("promote_due", scripts.now, 100, "pulled")
    scripts.run("rescue_expired", scripts.now, 100, "pulled")
    scripts.run("sweep_foreign", 100, 0, "pulled")
    scripts.run("restore_orphans", f"pulled_{waiting.name}", f"pulled_{held.name}")

    assert [scripts.record(f"pulled_{task.name}") for task in (waiting, held)] == before


# --- many at once -------------------------------------------------------------------------------------


def test_clients_that_lease_at_once_never_get_the_same_task(later: Callable[..., None]) -> None:
    for number in range(20):
        pulled.add(pull_tasks(100, tag=f"t{number % 3}"))
    later()
    got: list[str] = []

    def lease(index: int) -> None:
        mine: list[Task] = []
        while found := (pulled.lease_tasks(1000, 7) if index % 2 else pulled.lease_tasks_by_tag(1000, 7)):
            mine += found
        got.extend(str(task.name) for task in mine)

    threads = [threading.Thread(target=lease, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(got) == len(set(got)) == 2000


def commands(opened: Store) -> int:
    """How many commands the server has been asked for, those of scripts included."""
    stats = opened.redis.info("commandstats")
    return sum(entry["calls"] for entry in stats.values())


def test_a_call_adds_small_tasks_together_and_large_ones_apart(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One script for all would hold up everybody when they are large."""

    def scripts_of(size: int) -> int:
        def calls() -> int:
            return sum(
                entry["calls"]
                for name, entry in opened.redis.info("commandstats").items()
                if name in ("cmdstat_fcall", "cmdstat_evalsha", "cmdstat_eval")
            )

        before = calls()
        pulled.add([Task(b"x" * size, method="PULL") for _ in range(10)])
        return calls() - before

    monkeypatch.setattr("lastacross.broker.pull.PORTION_BYTES", 10_000)
    scripts_of(1)  # the first call may have to load the scripts
    assert (scripts_of(100), scripts_of(20_000)) == (1, 10)


def measured(opened: Store, call: Callable[[], object]) -> tuple[int, float]:
    """Commands and seconds of one call."""
    before = commands(opened)
    began = time.perf_counter()
    call()
    seconds = time.perf_counter() - began
    return commands(opened) - before, seconds


@pytest.mark.alone
def test_a_call_costs_what_it_leases_and_not_what_the_queue_holds(
    later: Callable[..., None], opened: Store
) -> None:
    for number in range(100):
        pulled.add(pull_tasks(100, tag=f"t{number}", countdown=-1 - number))
    add(tag="rare")
    later()
    calls: list[Callable[[], object]] = [
        lambda: pulled.lease_tasks(1000, 10),
        lambda: pulled.lease_tasks_by_tag(1000, 10, "t3"),
        lambda: pulled.lease_tasks_by_tag(1000, 10),
        lambda: pulled.lease_tasks_by_tag(1000, 10, "rare"),
    ]
    for call in calls:
        call()
    cost = []
    for _ in range(5):
        for call in calls:
            later(0.001)
            cost.append(measured(opened, call))

    assert max(number for number, _ in cost) < 60
    median = statistics.median(seconds for _, seconds in cost)
    print(f"measured pull lease beside 10,000 tasks: {median * 1000:.1f} ms")
    assert median < 0.05


def test_leases_that_end_by_the_thousand_cost_the_next_call_nothing(
    later: Callable[..., None], opened: Store
) -> None:
    for _ in range(30):
        pulled.add(pull_tasks(100))
    later()
    for _ in range(3):
        assert len(pulled.lease_tasks(1, 1000)) == 1000
        later(0.001)
    later(10)

    number, _ = measured(opened, lambda: pulled.lease_tasks(1, 10))

    assert number < 60
