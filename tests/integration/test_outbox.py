"""Transactional adds: a task is enqueued if, and only if, its transaction commits."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import func, select

from lastacross import clock, config, datastore, store, taskqueue
from lastacross.broker.steps import NewTask
from lastacross.datastore import OutboxRow, marking, outbox
from lastacross.datastore import relay as relays
from lastacross.errors import StoreUnavailableError
from lastacross.store import Store
from lastacross.taskqueue import Task
from tests.support import databases
from tests.support.scripts import Scripts


@pytest.fixture
def app_root(tmp_path: Path) -> Path:
    """An application with a push queue and a pull queue."""
    (tmp_path / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    (tmp_path / "queue.yaml").write_text(
        "queue:\n- name: default\n  rate: 500/s\n- name: pulled\n  mode: pull\n"
    )
    return tmp_path


@pytest.fixture(autouse=True)
def database(configuration: config.Config) -> Iterator[None]:
    """The engine's tables in a SQLite file."""
    databases.upgrade()
    yield
    datastore.dispose()


@pytest.fixture
def redis_is_unavailable(scripts: Scripts, configuration: config.Config) -> Iterator[Store]:
    """The store of this process cannot be reached; yields the one that will be."""
    there = store.current()
    unavailable = Store("unix:///nowhere/redis.sock")
    store.use(unavailable)
    yield there
    store.use(there)


def add(count: int = 1) -> list[Task]:
    return [taskqueue.add(url=f"/{index}", transactional=True) for index in range(count)]


def rows() -> int:
    """How many tasks are still to be sent."""
    marking.flush()
    with datastore.session(read_only=True) as session:
        query = select(func.count()).select_from(OutboxRow).where(OutboxRow.sent_at.is_(None))
        return session.scalar(query) or 0


def relay(*, seconds_later: float = 60) -> int:
    return relays.relay(clock.SYSTEM.now() + seconds_later)


def test_a_task_is_sent_right_after_the_commit(scripts: Scripts) -> None:
    with datastore.transaction():
        [task] = add()
        assert scripts.ready() == []

    assert scripts.ready() == [f"default_{task.name}"]
    assert (task.was_enqueued, rows()) == (True, 0)


def test_an_exception_takes_the_task_back(scripts: Scripts) -> None:
    with pytest.raises(KeyError), datastore.transaction():
        raise KeyError(add())

    assert (scripts.ready(), rows(), relay()) == ([], 0, 0)


def test_a_savepoint_takes_its_own_tasks_back_and_no_others(scripts: Scripts) -> None:
    with datastore.transaction() as t:
        [before] = add()
        with pytest.raises(KeyError), t.session.begin_nested():
            raise KeyError(add())
        [after] = add()

    assert scripts.ready() == [f"default_{before.name}", f"default_{after.name}"]
    assert rows() == 0


def test_a_task_after_a_savepoint_that_failed_is_sent_at_once(scripts: Scripts) -> None:
    with datastore.transaction() as t:
        with pytest.raises(KeyError), t.session.begin_nested():
            raise KeyError(add())
        add()

    assert (len(scripts.ready()), rows()) == (1, 0)


def test_what_a_savepoint_took_back_does_not_count(scripts: Scripts) -> None:
    with datastore.transaction() as t:
        for _ in range(3):
            with pytest.raises(KeyError), t.session.begin_nested():
                raise KeyError(add(2))
        add(5)

    assert len(scripts.ready()) == 5


def test_an_inner_transaction_sends_with_the_outer_one(scripts: Scripts) -> None:
    with datastore.transaction():
        with datastore.transaction():
            add()
        assert scripts.ready() == []

    assert len(scripts.ready()) == 1


def test_all_of_a_task_survives_the_outbox(scripts: Scripts) -> None:
    task = Task(
        b"\x00\xff\n", url="/a?b=c", method="PUT", headers={"X-Own": "ä".encode("latin-1").decode("latin-1")}
    )
    with datastore.transaction():
        taskqueue.Queue().add(task, transactional=True)

    record = scripts.record(f"default_{task.name}")
    assert (record["body"], record["description"]) == ("\x00ÿ\n", "PUT /a?b=c")


def test_a_countdown_is_kept(scripts: Scripts) -> None:
    scripts.clock.advance(clock.SYSTEM.now() - scripts.clock.now())
    with datastore.transaction():
        task = taskqueue.add(url="/later", countdown=60, transactional=True)

    assert scripts.state(f"default_{task.name}") == "scheduled"


def test_a_pull_task_is_sent_with_the_commit_and_deleted_for_good(scripts: Scripts) -> None:
    pulled = taskqueue.Queue("pulled")
    with datastore.transaction():
        tasks = pulled.add([Task(b"x", method="PULL") for _ in range(2)], transactional=True)
        assert pulled.lease_tasks(60, 10) == []
    [first, second] = pulled.lease_tasks(60, 10)
    assert {first.name, second.name} == {task.name for task in tasks}
    pulled.delete_tasks(first)
    assert rows() == 0

    assert relays.forget_sent(clock.SYSTEM.now() + 62) == 0

    deleted = pulled.delete_tasks_by_name([str(task.name) for task in (first, second)])
    assert isinstance(deleted, list)
    assert [task.was_deleted for task in deleted] == [False, True]


# --- taken back -----------------------------------------------------------------------------


def test_a_task_that_was_rolled_back_may_be_added_again(scripts: Scripts) -> None:
    """As by a function that is called again after its transaction failed."""
    tasks = [Task(url="/a"), Task(b"body")]
    names: set[str | None] = set()

    def work(error: Exception | None) -> None:
        with datastore.transaction():
            taskqueue.Queue().add(tasks, transactional=True)
            names.update(task.name for task in tasks)
            assert all(task.was_enqueued for task in tasks)
            if error:
                raise error

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            work(ZeroDivisionError())
        assert [(task.was_enqueued, task.name, task.queue_name) for task in tasks] == [
            (False, None, None)
        ] * 2
    work(None)

    assert scripts.ready() == [f"default_{task.name}" for task in tasks]
    assert (rows(), len(names), tasks[1].relative_url) == (0, 6, "/_ah/queue/default")


def test_a_task_that_a_savepoint_took_back_may_be_added_again(scripts: Scripts) -> None:
    task = Task(url="/a")
    with datastore.transaction() as t:
        [other] = add()
        with pytest.raises(KeyError), t.session.begin_nested():
            raise KeyError(task.add(transactional=True))
        assert (task.was_enqueued, other.was_enqueued) == (False, True)
        task.add(transactional=True)

    assert scripts.ready() == [f"default_{other.name}", f"default_{task.name}"]


def test_a_task_that_was_committed_may_not_be_added_again(scripts: Scripts) -> None:
    with datastore.transaction():
        [task] = add()
        with pytest.raises(taskqueue.BadTaskStateError):
            task.add(transactional=True)
    with pytest.raises(taskqueue.BadTaskStateError):
        task.add()

    assert len(scripts.ready()) == 1


def test_a_commit_that_fails_takes_its_tasks_back(scripts: Scripts) -> None:
    task = Task(url="/a")

    def work() -> None:
        with datastore.transaction():
            task.add(transactional=True)
            with pytest.raises(ZeroDivisionError), datastore.transaction():
                raise ZeroDivisionError

    with pytest.raises(datastore.DatastoreUsageError):
        work()

    assert (task.was_enqueued, scripts.ready(), rows()) == (False, [], 0)


def test_tasks_are_sent_in_the_order_in_which_they_were_added(scripts: Scripts) -> None:
    seen = []
    with datastore.transaction() as t:
        t.after_commit(lambda: seen.append(len(scripts.ready())))
        tasks = add(3)
        t.after_commit(lambda: seen.append(len(scripts.ready())))

    assert scripts.ready() == [f"default_{task.name}" for task in tasks]
    assert seen == [0, 3]


def test_adding_no_task_is_no_transaction_s_business(scripts: Scripts) -> None:
    with datastore.transaction():
        assert taskqueue.Queue().add([], transactional=True) == []

    assert scripts.ready() == []


# --- limits -------------------------------------------------------------------------------------


def test_a_sixth_task_in_one_transaction_is_too_many(scripts: Scripts) -> None:
    with datastore.transaction():
        add(5)
        with pytest.raises(taskqueue.TooManyTasksError):
            add()
    with pytest.raises(taskqueue.TooManyTasksError), datastore.transaction():
        taskqueue.Queue().add([Task(url="/x") for _ in range(6)], transactional=True)

    assert len(scripts.ready()) == 5


def test_the_tasks_of_a_transaction_are_one_mebibyte_together(scripts: Scripts) -> None:
    with datastore.transaction():
        # Whatever its bytes are: what they take in the outbox does not count.
        taskqueue.Queue().add([Task(b"\x00\xff" * 50_000, url="/x") for _ in range(5)], transactional=True)
    assert (len(scripts.ready()), rows()) == (5, 0)

    pulled = taskqueue.Queue("pulled")
    with pytest.raises(taskqueue.TransactionalRequestTooLargeError), datastore.transaction():
        pulled.add([Task(b"x" * 600_000, method="PULL") for _ in range(2)], transactional=True)
    assert (len(scripts.ready("pulled")), rows()) == (0, 0)


def test_a_transactional_task_has_no_name(scripts: Scripts) -> None:
    with datastore.transaction(), pytest.raises(taskqueue.InvalidTaskError, match="'mine'"):
        taskqueue.add(url="/x", name="mine", transactional=True)


def test_outside_of_a_transaction_nothing_is_transactional(scripts: Scripts) -> None:
    with pytest.raises(taskqueue.BadTransactionStateError):
        add()
    assert scripts.ready() == []


def test_an_unknown_queue_is_refused_before_anything_is_written(scripts: Scripts) -> None:
    with datastore.transaction(), pytest.raises(taskqueue.UnknownQueueError):
        taskqueue.add(url="/x", queue_name="nowhere", transactional=True)
    assert rows() == 0


# --- the relay ----------------------------------------------------------------------------------


def test_unsent_tasks_are_relayed_once_redis_is_back(scripts: Scripts, redis_is_unavailable: Store) -> None:
    with datastore.transaction():
        tasks = add(3)
    assert rows() == 3
    with pytest.raises(StoreUnavailableError):
        relay()
    assert rows() == 3

    store.use(redis_is_unavailable)

    assert relay() == 3
    assert scripts.ready() == [f"default_{task.name}" for task in tasks]
    assert (rows(), relay()) == (0, 0)


def test_the_process_that_wrote_a_row_has_three_seconds_to_send_it(
    scripts: Scripts, redis_is_unavailable: Store
) -> None:
    with datastore.transaction():
        add()
    store.use(redis_is_unavailable)

    assert relay(seconds_later=2.5) == 0
    assert relay(seconds_later=3.5) == 1


@pytest.mark.parametrize("end", ["waits", "done", "dead", "deleted"])
def test_a_second_sending_adds_nothing_whatever_became_of_the_task(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A process that dies after sending leaves the row behind."""
    with monkeypatch.context() as patch:
        patch.setattr(marking.PROCESS, "note", lambda task_ids, at: None)
        with datastore.transaction():
            [task] = add()
    task_id = f"default_{task.name}"
    assert rows() == 1
    if end == "deleted":
        taskqueue.Queue().delete_tasks(task)
    elif end != "waits":
        [lease] = scripts.lease()
        if end == "done":
            scripts.ack(lease)
        else:
            scripts.run("dead_letter_task", scripts.now, *lease, 500, "")
    before = scripts.state(task_id)

    assert relay() == 1

    assert scripts.state(task_id) == before
    assert rows() == 0
    assert scripts.tombstone_seconds(task_id) == (None if end == "waits" else 3600)


def test_two_relays_at_once_add_each_task_once(scripts: Scripts, redis_is_unavailable: Store) -> None:
    with datastore.transaction():
        add(3)
    store.use(redis_is_unavailable)
    with datastore.session(read_only=True) as session:
        raw = list(session.scalars(select(OutboxRow.record)))

    relay()
    outbox.send([outbox.load(each) for each in raw])

    assert len(scripts.ready()) == 3


def test_a_backlog_is_relayed_at_once_the_oldest_first_in_steps_of_a_hundred(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "_send_committed", lambda noted: None)
        for _ in range(21):
            with datastore.transaction():
                names += [f"default_{task.name}" for task in add(5)]

    steps = []
    send = outbox.send

    def count_and_send(tasks: Sequence[NewTask]) -> None:
        steps.append(len(tasks))
        send(tasks)

    monkeypatch.setattr(outbox, "send", count_and_send)

    assert [relay(), relay()] == [105, 0]
    assert steps == [100, 5]
    assert scripts.ready() == names
