"""Queue: adding, deleting and purging through the public API, on a real Redis."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from lastacross import clock as clocks
from lastacross import store, taskqueue
from lastacross.store import Store
from lastacross.store.connections import Connections
from lastacross.taskqueue import Batch, Queue, Task
from tests.support.scripts import Scripts

QUEUES = """queue:
- name: default
  rate: 500/s
- name: other
  rate: 500/s
- name: pulled
  mode: pull
"""


@pytest.fixture
def app_root(tmp_path: Path) -> Path:
    """An application with two push queues and a pull queue."""
    (tmp_path / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    (tmp_path / "queue.yaml").write_text(QUEUES)
    return tmp_path


def new(count: int) -> list[Task]:
    return [Task(url=f"/{index}") for index in range(count)]


# --- add ----------------------------------------------------------------------------------------


def test_an_added_task_has_its_name_its_queue_and_a_place_in_line(scripts: Scripts) -> None:
    task = taskqueue.add(url="/work", params={"a": "1"}, queue_name="other")

    assert (task.was_enqueued, task.queue_name) == (True, "other")
    assert scripts.ready("other") == [f"other_{task.name}"]
    record = scripts.record(f"other_{task.name}")
    assert (record["description"], record["body"]) == ("POST /work", "a=1")


def test_add_returns_the_shape_that_it_was_given(scripts: Scripts) -> None:
    one, many = Task(url="/a"), new(2)

    assert Queue().add(one) is one
    assert Queue().add(many) == many
    assert Queue().add(iter([])) == []
    assert [task.was_enqueued for task in [one, *many]] == [True] * 3


def test_a_task_without_a_url_goes_to_its_queues_own(scripts: Scripts) -> None:
    task = taskqueue.add(b"x", queue_name="other")

    assert scripts.record(f"other_{task.name}")["description"] == "POST /_ah/queue/other"


def test_a_countdown_counts_from_the_time_of_the_redis_server(scripts: Scripts) -> None:
    task = taskqueue.add(url="/a", countdown=30)

    assert scripts.redis.zscore(store.scheduled_key("default"), f"default_{task.name}") == 1_800_000_030


@pytest.mark.parametrize(
    "options", [{"countdown": -60}, {"countdown": 0}, {"eta": datetime(2020, 1, 1, tzinfo=UTC)}]
)
def test_an_instant_that_has_passed_means_now(scripts: Scripts, options: dict[str, Any]) -> None:
    task = taskqueue.add(url="/a", **options)

    assert scripts.state(f"default_{task.name}") == "ready"


def test_a_hundred_tasks_are_added_in_one_step_and_a_hundred_and_one_refused(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    run = Store.run

    def counted(self: Store, script: str, keys: list[str], args: list[store.Arg]) -> object:
        steps.append(script)
        return run(self, script, keys, args)

    monkeypatch.setattr(Store, "run", counted)
    Queue().add(new(100))
    assert (steps, len(scripts.ready())) == (["add_tasks"], 100)

    too_many = new(101)
    with pytest.raises(taskqueue.TooManyTasksError, match="101"):
        Queue().add(too_many)
    assert len(scripts.ready()) == 100
    assert not any(task.was_enqueued for task in too_many)


def test_of_a_hundred_with_one_bad_eta_none_is_added(scripts: Scripts) -> None:
    too_late = clocks.utc(clocks.SYSTEM.now()) + timedelta(days=31)
    good = new(99)

    with pytest.raises(taskqueue.InvalidEtaError):
        Queue().add(task if task else Task(url="/bad", eta=too_late) for task in [*good, None])

    assert scripts.ready() == []
    assert not any(task.was_enqueued for task in good)


def test_of_three_with_one_tombstoned_two_are_added(scripts: Scripts) -> None:
    taskqueue.add(url="/a", name="used")
    scripts.ack(*scripts.lease())
    tasks = [Task(url="/1"), Task(url="/2", name="used"), Task(url="/3")]

    with pytest.raises(taskqueue.TombstonedTaskError, match="used"):
        Queue().add(tasks)

    assert [task.was_enqueued for task in tasks] == [True, False, True]
    assert scripts.ready() == [f"default_{tasks[0].name}", f"default_{tasks[2].name}"]


def bad_requests() -> Iterator[tuple[Any, type[Exception]]]:
    twice = Task(url="/twice")
    yield [Task(url="/a", name="n"), Task(url="/b", name="n")], taskqueue.DuplicateTaskNameError
    yield [twice, twice], taskqueue.BadTaskStateError
    yield [Task(url="/a"), Task(b"b", method="PULL")], taskqueue.InvalidTaskError
    yield Task(b"b", method="PULL"), taskqueue.InvalidQueueModeError
    yield [Task(url="/a"), "/b"], TypeError
    yield "/b", TypeError


@pytest.mark.parametrize(("request_", "error"), list(bad_requests()))
def test_of_a_request_that_is_bad_in_itself_nothing_is_added(
    scripts: Scripts, request_: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        Queue().add(request_)

    assert scripts.ready() == []


def test_a_task_object_is_added_once(scripts: Scripts) -> None:
    task = taskqueue.add(url="/a")

    with pytest.raises(taskqueue.BadTaskStateError):
        Queue().add([Task(url="/b"), task])
    assert len(scripts.ready()) == 1


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nowhere", taskqueue.UnknownQueueError),
        ("under_score", taskqueue.InvalidQueueNameError),
        ("", taskqueue.InvalidQueueNameError),
        ("n" * 101, taskqueue.InvalidQueueNameError),
    ],
)
def test_a_queue_that_is_not_there_takes_nothing(scripts: Scripts, name: str, error: type[Exception]) -> None:
    for act in (
        lambda: taskqueue.add(url="/a", queue_name=name),
        lambda: Queue(name).add([]),
        lambda: Queue(name).purge(),
        lambda: Queue(name).delete_tasks_by_name("n"),
    ):
        with pytest.raises(error):
            act()


def test_a_push_task_is_refused_by_a_pull_queue(scripts: Scripts) -> None:
    with pytest.raises(taskqueue.InvalidQueueModeError):
        taskqueue.add(url="/a", queue_name="pulled")


# --- names --------------------------------------------------------------------------------------


def test_one_name_may_be_used_in_two_queues(scripts: Scripts) -> None:
    taskqueue.add(url="/a", name="n")
    taskqueue.add(url="/a", name="n", queue_name="other")

    assert (scripts.ready("default"), scripts.ready("other")) == (["default_n"], ["other_n"])


@pytest.mark.parametrize("state", ["ready", "scheduled", "leased"])
def test_a_name_that_lives_exists_already(scripts: Scripts, state: str) -> None:
    taskqueue.add(url="/a", name="n", countdown=60 if state == "scheduled" else 0)
    if state == "leased":
        scripts.lease()

    again = Task(url="/a", name="n")
    with pytest.raises(taskqueue.TaskAlreadyExistsError, match="'n'"):
        Queue().add(again)
    assert not again.was_enqueued


@pytest.mark.parametrize("end", ["done", "dead", "deleted", "purged"])
def test_a_name_that_lived_is_tombstoned_for_nine_days(scripts: Scripts, end: str) -> None:
    task = taskqueue.add(url="/a", name="n")
    if end == "deleted":
        Queue().delete_tasks(task)
    elif end == "purged":
        Queue().purge()
    else:
        [lease] = scripts.lease()
        if end == "done":
            scripts.ack(lease)
        else:
            scripts.run("dead_letter_task", scripts.now, *lease, 500, "")

    with pytest.raises(taskqueue.TombstonedTaskError, match="'n'"):
        taskqueue.add(url="/a", name="n")
    assert scripts.tombstone_seconds("default_n") == 9 * 86400


def test_a_name_is_free_again_after_its_tombstone(scripts: Scripts) -> None:
    taskqueue.add(url="/a", name="n")
    scripts.ack(*scripts.lease())
    scripts.redis.delete(store.tombstone_key("default_n"))

    assert taskqueue.add(url="/a", name="n").was_enqueued


# --- delete and purge ---------------------------------------------------------------------------


def test_deleting_says_which_tasks_were_there(scripts: Scripts) -> None:
    task = taskqueue.add(url="/a")
    never = Task(url="/b", name="never")

    assert Queue().delete_tasks([task, never]) == [task, never]

    assert (task.was_deleted, never.was_deleted) == (True, False)
    assert scripts.ready() == []


def test_tasks_are_deleted_by_name_in_the_shape_that_was_given(scripts: Scripts) -> None:
    taskqueue.add(url="/a", name="n")

    one = Queue().delete_tasks_by_name("n")
    many = Queue().delete_tasks_by_name(["n", "m"])

    assert isinstance(one, Task)
    assert one.was_deleted
    assert isinstance(many, list)
    assert [task.was_deleted for task in many] == [False, False], "tombstoned, unknown"


def test_deleting_in_one_queue_leaves_the_name_in_another(scripts: Scripts) -> None:
    taskqueue.add(url="/a", name="n", queue_name="other")

    Queue().delete_tasks_by_name("n")

    assert scripts.state("other_n") == "ready"


def test_deleting_what_cannot_be_deleted_is_refused(scripts: Scripts) -> None:
    gone = taskqueue.add(url="/a")
    Queue().delete_tasks(gone)
    for bad, error in [
        (Task(url="/a"), taskqueue.BadTaskStateError),
        (gone, taskqueue.BadTaskStateError),
        ([Task(name="n"), Task(name="n")], taskqueue.DuplicateTaskNameError),
        ("n", TypeError),
    ]:
        with pytest.raises(error):
            Queue().delete_tasks(bad)  # type: ignore[arg-type]


def test_many_tasks_are_deleted_in_short_steps(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(task.name) for _ in range(3) for task in Queue().add(new(100))]
    sizes: list[int] = []
    run = Store.run

    def counted(self: Store, script: str, keys: list[str], args: list[store.Arg]) -> object:
        sizes.append(len(args))
        return run(self, script, keys, args)

    monkeypatch.setattr(Store, "run", counted)
    deleted = Queue().delete_tasks_by_name(names)

    assert isinstance(deleted, list)
    assert all(task.was_deleted for task in deleted)
    assert (scripts.ready(), max(sizes)) == ([], 101)


def test_a_deleted_task_that_runs_is_finished_unheard(scripts: Scripts) -> None:
    task = taskqueue.add(url="/a")
    [lease] = scripts.lease()
    Queue().delete_tasks(task)

    assert task.was_deleted
    assert scripts.ack(lease) == [0]


def test_purging_takes_every_task_of_one_queue(scripts: Scripts) -> None:
    for _ in range(15):
        Queue().add(new(100))
    taskqueue.add(url="/a", countdown=60)
    taskqueue.add(url="/a", queue_name="other")
    scripts.lease(wanted=10)

    Queue().purge()

    assert scripts.redis.keys("rq:job:default_*") == []
    assert (scripts.ready(), scripts.entries(), len(scripts.ready("other"))) == ([], [], 1)


# --- Redis is unavailable -----------------------------------------------------------------------


def lose_answers(monkeypatch: pytest.MonkeyPatch, opened: Store, count: int) -> None:
    """Break the connection after a script has run and before its answer is read, ``count`` times."""
    connection: Any = type(opened.redis.connection_pool.make_connection())
    read, send = connection.read_response, connection.send_packed_command
    left = [count]
    asked: set[int] = set()

    def sending(self: Any, packed: Any, **kwargs: Any) -> Any:
        if b"EVAL" in b"".join(packed)[:64]:
            asked.add(id(self))
        return send(self, packed, **kwargs)

    def reading(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = read(self, *args, **kwargs)
        if id(self) in asked:
            asked.discard(id(self))
            if left[0]:
                left[0] -= 1
                self.disconnect()
                raise redis.ConnectionError("lost")
        return answer

    monkeypatch.setattr(connection, "send_packed_command", sending)
    monkeypatch.setattr(connection, "read_response", reading)


@pytest.mark.parametrize("options", [{}, {"name": "n"}, {"countdown": 60}, {"name": "n", "countdown": 60}])
def test_an_add_whose_answer_was_lost_is_repeated_and_adds_once(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    taskqueue.add(url="/warm")
    with monkeypatch.context() as patch:
        lose_answers(patch, store.current(), 1)
        task = taskqueue.add(url="/a", **options)

    assert task.was_enqueued
    assert scripts.state(f"default_{task.name}") == ("scheduled" if "countdown" in options else "ready")


def test_a_name_that_somebody_else_took_is_refused_when_the_answer_was_lost_too(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    taskqueue.add(url="/theirs", name="n")
    with monkeypatch.context() as patch:
        lose_answers(patch, store.current(), 1)
        with pytest.raises(taskqueue.TaskAlreadyExistsError):
            taskqueue.add(url="/ours", name="n")

    assert scripts.record("default_n")["description"] == "POST /theirs"


def test_a_lost_answer_of_a_lease_loses_no_task(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = Queue().add(new(4))
    with monkeypatch.context() as patch:
        lose_answers(patch, store.current(), 1)
        second = scripts.lease(wanted=2)

    assert [task for task, _ in second] == [f"default_{task.name}" for task in tasks[2:]]
    scripts.clock.advance(8)
    scripts.run("rescue_expired", scripts.now, 100, "default")
    assert len(scripts.ready()) == 4


@pytest.fixture
def redis_is_unavailable(scripts: Scripts) -> Iterator[None]:
    """The store of this process cannot be reached."""
    there = store.current()
    away = Store("unix:///nowhere/redis.sock")
    store.use(away)
    yield
    store.use(there)
    away.close()


CALLS: list[tuple[str, Callable[[], object]]] = [
    ("add", lambda: taskqueue.add(url="/a")),
    ("delete", lambda: Queue().delete_tasks_by_name("n")),
    ("purge", lambda: Queue().purge()),
    ("batch", lambda: Batch(on_complete=Task(url="/e")).__enter__()),
    ("batch get", lambda: Batch.get("b")),
    ("progress", lambda: Batch(name="b").progress()),
    ("cancel", lambda: Batch(name="b").cancel()),
]


@pytest.mark.usefixtures("redis_is_unavailable")
@pytest.mark.parametrize("act", [act for _, act in CALLS], ids=[name for name, _ in CALLS])
def test_without_redis_every_call_says_that_it_may_be_repeated(act: Callable[[], object]) -> None:
    with pytest.raises(taskqueue.TransientError):
        act()


@pytest.mark.usefixtures("redis_is_unavailable")
def test_without_redis_tasks_stay_as_new_as_they_were() -> None:
    tasks = new(3)
    with pytest.raises(taskqueue.TransientError):
        Queue().add(tasks)

    assert [(task.name, task.was_enqueued) for task in tasks] == [(None, False)] * 3


def test_a_call_that_failed_for_redis_succeeds_when_repeated(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task(url="/a", name="n")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "run", _away)
        with pytest.raises(taskqueue.TransientError):
            Queue().add(task)

    Queue().add(task)

    assert scripts.ready() == ["default_n"]


def _away(self: Store, script: str, keys: list[str], args: list[store.Arg]) -> object:
    with store.translated_errors():
        raise redis.ConnectionError("away")


@pytest.mark.parametrize(
    "answer", ["MISCONF Redis is configured to save", "READONLY You can't write", "LOADING"]
)
def test_a_redis_that_takes_no_writes_is_unavailable_too(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise redis.ResponseError(answer)

    monkeypatch.setattr(Connections, "call", refuse)

    with pytest.raises(taskqueue.TransientError, match=answer.split()[0]):
        taskqueue.add(url="/a")


def test_a_redis_that_is_full_refuses_and_says_so(scripts: Scripts) -> None:
    scripts.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(taskqueue.TransientError):
            Queue().add(new(3))
    finally:
        scripts.redis.config_set("maxmemory", 0)

    assert scripts.ready() == []
    assert scripts.redis.keys("rq:job:*") == []
