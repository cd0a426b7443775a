"""Rows of large deferred calls: kept as long as any task may need them, and pruned after that."""

from typing import Any

import pytest
from sqlalchemy import select, update

from lastacross import clock, config, datastore, deferred, store, taskqueue
from lastacross.broker.record import body_of
from lastacross.datastore import DeferredPayload, OutboxRow, marking, outbox, relay
from lastacross.deferred import payloads
from lastacross.deferred.payloads import Pruner
from lastacross.errors import StoreUnavailableError, TransientError
from lastacross.store import Store
from lastacross.taskqueue import Batch, Queue
from tests.support.scripts import Scripts

LARGE = "x" * 200_000
HOUR = 3600.0
DAY = 86_400.0


def work(*_arguments: object) -> None:
    """What is deferred."""


@pytest.fixture(autouse=True)
def each_database(configuration: config.Config, database: str, scripts: Scripts) -> str:
    """On SQLite and on PostgreSQL, with an empty Redis."""
    return database


def rows() -> list[int]:
    """The ids of the rows that are there."""
    with datastore.session(read_only=True) as session:
        return list(session.scalars(select(DeferredPayload.id).order_by(DeferredPayload.id)))


def prune(*days: float) -> list[int]:
    """Let the pruner look so many days from now, one after the other; the rows that are left."""
    pruner = Pruner()
    # Days pass here in the moment after which a process marks by itself what it has sent.
    marking.flush()
    for day in days:
        pruner.act(clock.SYSTEM.now() + day * DAY)
    return rows()


def run_out(scripts: Scripts, task: taskqueue.Task, end: str) -> None:
    """Let a task end in the way that is named."""
    queue = Queue(str(task.queue_name))
    if end == "deleted":
        queue.delete_tasks(task)
    elif end == "purged":
        queue.purge()
    elif end == "done":
        scripts.ack(*scripts.lease())


@pytest.mark.parametrize("end", ["deleted", "purged", "done"])
def test_a_row_goes_three_days_after_its_task_was_found_gone(scripts: Scripts, end: str) -> None:
    task = deferred.defer(work, LARGE)
    run_out(scripts, task, end)

    assert len(prune(1, 3.9)) == 1
    assert prune(1, 3.9, 4.1) == []


def test_a_row_whose_task_waits_stays(scripts: Scripts) -> None:
    deferred.defer(work, LARGE)
    deferred.defer(work, LARGE, _countdown=30 * DAY - 60)

    assert len(prune(1, 5, 29, 100)) == 2


def test_a_row_whose_task_is_a_dead_letter_stays_as_long_as_that(scripts: Scripts) -> None:
    task = deferred.defer(work, LARGE)
    [lease] = scripts.lease()
    scripts.run("dead_letter_task", scripts.now, *lease, 500, "")

    assert len(prune(1, 29)) == 1
    scripts.redis.delete(store.record_key(f"default_{task.name}"))
    assert prune(30, 34) == []


def test_a_row_whose_task_is_still_to_be_relayed_stays(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "_send_committed", lambda noted: None)
        with datastore.transaction():
            deferred.defer(work, LARGE, _transactional=True)
    assert len(prune(1, 5)) == 1

    assert relay.relay(clock.SYSTEM.now() + 60) == 1

    assert len(prune(1, 5)) == 1
    Queue().purge()
    assert prune(6, 10) == []


def test_a_row_whose_task_is_set_aside_in_the_outbox_stays(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_send_committed", lambda noted: None)
    with datastore.transaction():
        deferred.defer(work, LARGE, _transactional=True)
    with datastore.session() as session:
        session.execute(update(OutboxRow).values(record=b"?"))
    relay.relay(clock.SYSTEM.now() + 60)

    assert len(prune(1, 5)) == 1


def test_rows_outlive_a_redis_that_is_put_back_from_a_backup(scripts: Scripts) -> None:
    deferred.defer(work, LARGE)
    backup = {key: scripts.redis.dump(key) for key in scripts.redis.keys("*")}
    scripts.redis.flushall()
    assert len(prune(1, 3.5)) == 1

    for key, value in backup.items():
        scripts.redis.restore(key, 0, value)

    assert len(prune(3.6, 10)) == 1


def test_a_task_that_came_back_begins_its_three_days_anew(scripts: Scripts) -> None:
    task = deferred.defer(work, LARGE)
    key = store.record_key(f"default_{task.name}")
    copy = scripts.redis.dump(key)
    scripts.redis.delete(key)
    prune(1)
    scripts.redis.restore(key, 0, copy)
    prune(2)
    scripts.redis.delete(key)

    assert len(prune(5, 7.9)) == 1
    assert prune(8.1) == []


def test_young_rows_are_not_looked_at(scripts: Scripts) -> None:
    deferred.task(work, LARGE)
    task = deferred.defer(work, LARGE)
    Queue().delete_tasks(task)

    Pruner().act(clock.SYSTEM.now() + HOUR - 60)

    with datastore.session(read_only=True) as session:
        assert list(session.scalars(select(DeferredPayload.unused_since))) == [None, None]


def test_a_row_whose_task_was_never_added_goes_when_no_task_can_need_it(scripts: Scripts) -> None:
    deferred.task(work, LARGE)

    assert len(prune(1, 5, 61)) == 1
    assert prune(63) == []


def test_a_task_kept_in_hand_for_long_has_its_row_when_it_is_added(scripts: Scripts) -> None:
    task = deferred.task(work, LARGE)
    prune(1, 50)
    Queue().add(task)

    assert len(prune(63, 70)) == 1


def test_a_batch_filled_twice_leaves_no_row_behind(scripts: Scripts) -> None:
    for _ in range(2):
        with Batch(name="twice", on_complete=deferred.task(work, LARGE)) as batch:
            batch.add(deferred.task(work, LARGE) for _ in range(3))
            if len(rows()) < 8:
                # Sealed by the end of the block: the second filling finds the members there.
                scripts.redis.hset(store.batch_key("twice"), "sealed", "0")
    assert len(rows()) == 8
    assert len(prune(1, 10)) == 8

    batch.cancel()
    scripts.ack(*scripts.lease())

    assert prune(11, 15) == []


def test_a_transactional_task_of_a_call_that_was_kept_before_is_claimed_with_the_commit(
    scripts: Scripts,
) -> None:
    task = deferred.task(work, LARGE)
    with datastore.transaction():
        Queue().add(task, transactional=True)
    assert len(prune(1, 70)) == 1

    Queue().delete_tasks(task)

    assert prune(71, 75) == []


def test_a_rolled_back_claim_is_none(scripts: Scripts) -> None:
    task = deferred.task(work, LARGE)
    with pytest.raises(KeyError), datastore.transaction():
        raise KeyError(Queue().add(task, transactional=True))

    Queue().add(task)

    assert len(prune(1, 70)) == 1


def test_a_large_call_whose_answer_was_lost_keeps_its_row(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may have the task."""
    run = Store.run

    def lose_the_answer(self: Store, *arguments: Any) -> Any:
        run(self, *arguments)
        raise StoreUnavailableError("the connection was lost")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "run", lose_the_answer)
        with pytest.raises(TransientError):
            deferred.defer(work, LARGE)

    [task_id] = scripts.ready()
    assert deferred.outcome(body_of(scripts.redis.hgetall(store.record_key(task_id)))) == 200
    assert rows() == []


def test_a_task_added_beside_an_open_transaction_of_sqlite_is_added_unclaimed(
    scripts: Scripts, each_database: str
) -> None:
    task = deferred.task(work, LARGE)
    with datastore.transaction() as transaction:
        transaction.session.execute(select(1))
        Queue().add(task)

    assert len(scripts.ready()) == 1
    assert len(prune(1, 61)) == 1


def test_one_call_looks_at_a_part_of_the_rows_and_the_next_goes_on(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads, "PRUNE_CHUNK", 2)
    tasks = [deferred.defer(work, LARGE) for _ in range(5)]
    Queue().delete_tasks(tasks)

    pruner = Pruner()
    numbers = [pruner.act(clock.SYSTEM.now() + day * DAY) for day in (1, 1, 1, 5, 5, 5, 5)]

    assert numbers == [0, 0, 0, 2, 2, 1, 0]


def test_any_number_of_schedulers_may_prune(scripts: Scripts) -> None:
    Queue().delete_tasks([deferred.defer(work, LARGE) for _ in range(3)])
    pruners = [Pruner(), Pruner()]

    numbers = [pruner.act(clock.SYSTEM.now() + day * DAY) for day in (1, 5) for pruner in pruners]

    assert numbers == [0, 0, 3, 0]


def test_nothing_is_pruned_while_redis_is_unavailable(scripts: Scripts) -> None:
    Queue().delete_tasks(deferred.defer(work, LARGE))
    prune(1)
    there = store.current()
    store.use(Store("unix:///nowhere/redis.sock"))

    with pytest.raises(StoreUnavailableError):
        prune(70)
    store.use(there)

    assert len(rows()) == 1
