"""The numbers of queues, and why a queue runs nothing: each reason is set up in a real Redis."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lastacross import store, taskqueue
from lastacross.broker import (
    STATUS_FIELD,
    Disabled,
    Draining,
    LeasedByClients,
    LimitReached,
    NextDue,
    NothingWaiting,
    NoWorker,
    Paused,
    QueueReader,
    RateIsZero,
    Reason,
    Suspended,
    WaitsForToken,
    WorkersBusy,
    WorkerStatus,
)
from lastacross.store import Store
from lastacross.taskqueue import Queue, Task
from lastacross.worker.rq_compat import RqWorker
from tests.support.clock import StoppedClock
from tests.support.scripts import Scripts
from tests.support.uploads import upload


@pytest.fixture
def reader(scripts: Scripts) -> QueueReader:
    """Reads the queues; "counter" is a service, and "work" a pull queue."""
    upload(
        scripts.store,
        {
            "default": {},
            "slow": {"rate": "0.1", "bucket_size": "1"},
            "stopped": {"rate": "0"},
            "three": {"max_concurrent": "3"},
            "counts": {"target": "counter"},
            "work": {"mode": "pull"},
        },
        services=["counter"],
    )
    return QueueReader(scripts.store)


@contextmanager
def worker(opened: Store, *lists: str) -> Iterator[None]:
    """A registered worker of these lists."""
    registered: Any = RqWorker(list(lists), name="lastacross-here-1", connection=opened.redis)
    registered.register_birth()
    yield
    registered.register_death()


def why(reader: QueueReader, queue: str = "default") -> list[Reason]:
    """The reasons while a worker serves every list of push tasks."""
    lists = ["default", "slow", "stopped", "three", "counts", "default.counter"]
    with worker(reader.store, *lists):
        return reader.why_idle(queue)


# --- why nothing runs ------------------------------------------------------------------------


def test_a_queue_that_could_run_has_no_reason(reader: QueueReader) -> None:
    taskqueue.add(url="/a")

    assert why(reader) == []


def test_nothing_waits(reader: QueueReader) -> None:
    assert why(reader) == [NothingWaiting()]


def test_the_next_task_is_due_later(reader: QueueReader, clock: StoppedClock) -> None:
    taskqueue.add(url="/a", name="a", countdown=30)
    taskqueue.add(url="/b", name="b", countdown=10)

    assert why(reader) == [NextDue(clock.now() + 10, "b", 2)]


def test_it_is_paused(reader: QueueReader) -> None:
    taskqueue.add(url="/a")
    Queue().pause()

    assert why(reader) == [Paused()]


def test_it_is_draining(reader: QueueReader) -> None:
    Queue().drain()

    assert why(reader) == [Draining(), NothingWaiting()]


def test_its_rate_is_zero(reader: QueueReader) -> None:
    Queue("stopped").add(Task(url="/a"))

    assert why(reader, "stopped") == [RateIsZero()]


def test_all_workers_are_suspended(reader: QueueReader) -> None:
    taskqueue.add(url="/a")
    reader.store.redis.set(store.RQ_SUSPENDED, 1)

    assert why(reader) == [Suspended()]


def test_it_is_not_in_the_last_upload(reader: QueueReader) -> None:
    taskqueue.add(url="/a")
    upload(reader.store, {"slow": {}})

    assert why(reader) == [Disabled()]


def test_it_waits_for_a_token_until_the_lease_gets_one(
    reader: QueueReader, scripts: Scripts, clock: StoppedClock
) -> None:
    Queue("slow").add([Task(url="/a"), Task(url="/b")])
    assert len(scripts.lease("slow")) == 1
    clock.advance(4)

    [reason] = why(reader, "slow")

    assert isinstance(reason, WaitsForToken)
    assert (round(reason.until - clock.now(), 3), reason.rate) == (6.0, 0.1)
    assert scripts.lease("slow") == []
    clock.advance(6.0001)
    assert why(reader, "slow") == []
    assert len(scripts.lease("slow")) == 1


def test_the_limit_is_reached_by_these_tasks(reader: QueueReader, scripts: Scripts) -> None:
    Queue("three").add([Task(url="/a", name=name) for name in "abcd"])
    assert len(scripts.lease("three")) == 3

    assert why(reader, "three") == [LimitReached(3, 3, ("a", "b", "c"))]


def test_no_worker_serves_the_queues_target(reader: QueueReader) -> None:
    Queue("counts").add(Task(url="/a"))

    with worker(reader.store, "default", "slow"):
        assert reader.why_idle("counts") == [NoWorker("counter", 1)]
    with worker(reader.store, "default", "counts"):
        assert reader.why_idle("counts") == []


def test_no_worker_serves_a_tasks_target(reader: QueueReader) -> None:
    taskqueue.add(url="/a", target="counter")

    with worker(reader.store, "default"):
        assert reader.why_idle("default") == [NoWorker("counter", 1)]
    with worker(reader.store, "default.counter"):
        assert reader.why_idle("default") == []


def test_a_worker_that_was_killed_serves_nothing_once_its_registration_expires(reader: QueueReader) -> None:
    taskqueue.add(url="/a")
    with worker(reader.store, "default"):
        [key] = reader.store.redis.smembers(store.RQ_WORKERS)
        reader.store.redis.delete(key)

        assert reader.why_idle("default") == [NoWorker("default", 1)]


@pytest.mark.parametrize(("busy", "reasons"), [(2, [WorkersBusy("default", 1, 1, 2)]), (1, [])])
def test_every_thread_runs_another_task(reader: QueueReader, busy: int, reasons: list[Reason]) -> None:
    taskqueue.add(url="/a")
    status = WorkerStatus("1", 2, busy, 0, (), 1, ("default",))
    with worker(reader.store, "default"):
        [key] = reader.store.redis.smembers(store.RQ_WORKERS)
        reader.store.redis.hset(key, STATUS_FIELD, status.dump())

        assert reader.why_idle("default") == reasons


def test_a_pull_queue_waits_for_its_clients(reader: QueueReader, clock: StoppedClock) -> None:
    assert why(reader, "work") == [NothingWaiting()]
    Queue("work").add(Task("x", method="PULL", name="later", countdown=9))
    assert why(reader, "work") == [NextDue(clock.now() + 9, "later", 1)]
    Queue("work").add(Task("x", method="PULL"))

    assert why(reader, "work") == [LeasedByClients(1)]


def test_several_reasons_are_all_named(reader: QueueReader) -> None:
    taskqueue.add(url="/a", target="counter")
    Queue().pause()
    Queue().drain()

    with worker(reader.store, "default"):
        assert reader.why_idle("default") == [Paused(), Draining(), NoWorker("counter", 1)]


# --- facts -----------------------------------------------------------------------------------


def test_the_facts_of_a_queue(reader: QueueReader, scripts: Scripts, clock: StoppedClock) -> None:
    Queue("three").add([Task(url="/a", name=name) for name in "abcdef"])
    Queue("three").add(Task(url="/a", name="later", countdown=60))
    leases = scripts.lease("three")
    assert scripts.ack(leases[0]) == [1]
    scripts.run("dead_letter_task", scripts.now, *leases[1], 500, "no")
    clock.advance(5)
    Queue("three").pause()

    [facts] = reader.facts(["three"])

    assert (facts.rate, facts.effective_rate, facts.max_concurrent) == (500.0, 0.0, 3)
    assert (facts.ready, facts.in_flight, facts.scheduled, facts.dead) == (3, 1, 1, 1)
    assert (facts.tokens, facts.token_at, facts.is_paused) == (500, None, True)
    assert (facts.oldest_age_seconds, facts.next_due) == (5.0, clock.now() + 55)
    assert (facts.executed_last_minute, facts.seconds_to_drain) == (2, 120.0)


def test_tokens_are_those_that_the_lease_would_grant(
    reader: QueueReader, scripts: Scripts, clock: StoppedClock
) -> None:
    scripts.configure("default", rate=2, bucket_size=10)
    Queue().add([Task(url="/a") for _ in range(20)])
    assert len(scripts.lease(wanted=9)) == 9
    clock.advance(1.25)

    [facts] = reader.facts(["default"])

    assert facts.tokens == pytest.approx(3.5)
    assert len(scripts.lease()) == 3


def test_lists_for_other_services_and_requests_count_as_ready(reader: QueueReader, scripts: Scripts) -> None:
    taskqueue.add(url="/a", name="a")
    taskqueue.add(url="/b", target="counter")
    taskqueue.add(url="/c", name="c", countdown=60)
    Queue().run_now("c")

    [facts] = reader.facts(["default"])

    assert dict(facts.lists) == {"default": 1, "default.counter": 1, "": 1}


def test_an_unknown_queue_has_no_facts(reader: QueueReader) -> None:
    [facts] = reader.facts(["nowhere"])

    assert (facts.rate, facts.effective_rate, facts.ready, facts.oldest_age_seconds) == (None, 0.0, 0, None)
    assert facts.seconds_to_drain == 0.0


def test_the_time_to_drain_is_unknown_if_nothing_ran(reader: QueueReader) -> None:
    taskqueue.add(url="/a")

    assert reader.facts(["default"])[0].seconds_to_drain is None


def test_two_hundred_queues_take_two_round_trips(
    reader: QueueReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"q{number}" for number in range(200)]
    upload(reader.store, names)
    Queue("q199").add(Task(url="/a"))
    reader.store.run("read_queue_facts", (), [0])
    trips: list[str] = []
    run, redis = reader.store.run, reader.store.redis

    def counted(kind: str, call: Any) -> Any:
        def noted(*args: Any, **options: Any) -> Any:
            trips.append(kind)
            return call(*args, **options)

        return noted

    monkeypatch.setattr(reader.store, "run", counted("script", run))
    monkeypatch.setattr(redis, "pipeline", counted("pipeline", redis.pipeline))

    facts = reader.facts(names)

    assert [each.name for each in facts] == names
    assert (facts[0].ready, facts[199].ready) == (0, 1)
    assert trips == ["script", "pipeline"]


def test_a_server_that_forgot_the_script_is_told_again(
    reader: QueueReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"q{number}" for number in range(30)]
    pipeline = reader.store.redis.pipeline

    def forgetful(**options: Any) -> Any:
        reader.store.redis.script_flush()
        return pipeline(**options)

    monkeypatch.setattr(reader.store.redis, "pipeline", forgetful)

    assert [each.name for each in reader.facts(names)] == names
