"""Tasks that a killed stock worker took off every list are found again."""

import pytest
import rq

from lastacross import store, taskqueue
from lastacross.broker import queue_directory
from lastacross.broker.steps import Broker
from lastacross.worker.maintenance import Orphans

QUEUES = ["default"]


@pytest.fixture
def orphans(test_store: store.Store) -> Orphans:
    """Looks after the queue "default"; nothing is in it."""
    queue_directory.upload_if_missing(test_store)
    return Orphans(Broker(test_store))


def register(opened: store.Store, name: str) -> None:
    """What a stock worker writes when it starts."""
    opened.redis.sadd("rq:workers", f"rq:worker:{name}")


def take(opened: store.Store) -> None:
    """What BLPOP does: off the list, and nowhere else."""
    opened.redis.lpop("rq:queue:default")


def ready(opened: store.Store) -> list[bytes]:
    return list(opened.redis.lrange("rq:queue:default", 0, -1))  # type: ignore[arg-type]


def test_a_task_seen_in_no_list_at_two_looks_is_put_back(orphans: Orphans, test_store: store.Store) -> None:
    register(test_store, "9f0b6e5f")
    taskqueue.add(url="/work", name="taken")
    taskqueue.add(url="/work", name="waits")
    take(test_store)

    assert orphans.restore(QUEUES) == []
    assert orphans.restore(QUEUES) == ["default_taken"]
    assert ready(test_store) == [b"default_waits", b"default_taken"]
    assert orphans.restore(QUEUES) == []


def test_a_task_that_came_back_by_itself_is_left_alone(orphans: Orphans, test_store: store.Store) -> None:
    register(test_store, "9f0b6e5f")
    taskqueue.add(url="/work", name="taken")
    take(test_store)
    assert orphans.restore(QUEUES) == []
    test_store.redis.rpush("rq:queue:default", "default_taken")
    assert orphans.restore(QUEUES) == []
    assert ready(test_store) == [b"default_taken"]


def test_a_second_look_happens_even_when_the_stock_worker_has_gone(
    orphans: Orphans, test_store: store.Store
) -> None:
    register(test_store, "9f0b6e5f")
    taskqueue.add(url="/work", name="taken")
    take(test_store)
    assert orphans.restore(QUEUES) == []
    test_store.redis.delete("rq:workers")
    assert orphans.restore(QUEUES) == ["default_taken"]


def test_without_a_foreign_worker_no_record_is_read(orphans: Orphans, test_store: store.Store) -> None:
    register(test_store, "lastacross-here-1-abcdef")
    taskqueue.add(url="/work", name="taken")
    take(test_store)
    assert [orphans.restore(QUEUES) for _ in range(3)] == [[], [], []]


def test_a_task_that_is_to_run_now_is_no_orphan(orphans: Orphans, test_store: store.Store) -> None:
    register(test_store, "9f0b6e5f")
    taskqueue.add(url="/work", name="now", countdown=60)
    taskqueue.Queue().run_now("now")

    assert [orphans.restore(QUEUES) for _ in range(3)] == [[], [], []]
    assert ready(test_store) == []


def test_leased_scheduled_dead_and_waiting_tasks_are_no_orphans(
    orphans: Orphans, test_store: store.Store
) -> None:
    register(test_store, "9f0b6e5f")
    broker = Broker(test_store)
    for name in ("dead", "leased"):
        taskqueue.add(url="/work", name=name)
    grant = broker.lease(QUEUES, token="w", number=0, wanted=2, free=8, lease_seconds=8)
    broker.dead_letter(grant.tasks[0], 500, "why")
    taskqueue.add(url="/work", name="scheduled", countdown=60)
    with taskqueue.Batch(on_complete=taskqueue.Task(url="/complete")) as batch:
        batch.add(taskqueue.Task(url="/work"))
    assert [orphans.restore(QUEUES) for _ in range(3)] == [[], [], []]


def test_a_job_of_somebody_else_is_not_ours_to_put_back(orphans: Orphans, test_store: store.Store) -> None:
    register(test_store, "9f0b6e5f")
    rq.Queue("default", connection=test_store.redis).enqueue("os.getpid", job_id="default_plain")
    take(test_store)
    assert [orphans.restore(QUEUES) for _ in range(3)] == [[], [], []]


def test_thousands_are_found_too(orphans: Orphans, test_store: store.Store) -> None:
    register(test_store, "9f0b6e5f")
    for _ in range(25):
        taskqueue.Queue().add([taskqueue.Task(url="/work") for _ in range(100)])
    test_store.redis.ltrim("rq:queue:default", 1200, -1)
    assert orphans.restore(QUEUES) == []
    assert len(orphans.restore(QUEUES)) == 1200
    assert len(ready(test_store)) == 2500
    assert len(set(ready(test_store))) == 2500
