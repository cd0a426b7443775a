"""The history of a task's failed attempts, which lives as long as the task's record."""

from typing import Any

import pytest

from lastacross import store, taskqueue
from lastacross.broker import Broker, FailedAttempt, History, Leased, Listing
from lastacross.broker.history import load
from lastacross.taskqueue import Batch, Queue, Task
from lastacross.worker.delivery import Outcome
from lastacross.worker.outcomes import OutcomeRecorder
from tests.support.clock import StoppedClock
from tests.support.scripts import Scripts
from tests.support.uploads import upload


class Bench:
    """Leases tasks, and records the outcomes that a test gives them."""

    def __init__(self, scripts: Scripts) -> None:
        self.scripts = scripts
        self.broker = Broker(scripts.store)
        self.recorder = OutcomeRecorder(self.broker, lambda _: None, worker="worker-1")
        self.number = 0

    def lease(self) -> Leased:
        """Lease the next task."""
        self.scripts.clock.advance(5000)
        self.broker.promote_due(["default"])
        request: Any = {
            "token": "token678.1",
            "number": self.number,
            "wanted": 1,
            "free": 1,
            "lease_seconds": 8,
        }
        [task] = self.broker.lease(["default"], **request).tasks
        self.number += 1
        return task

    def end(self, status: int, reason: str = "", *, is_final: bool = False) -> Leased:
        """Lease the next task and end its attempt."""
        task = self.lease()
        self.recorder.record([Outcome(task, status, reason, is_final)])
        return task

    def history(self, name: str = "a") -> list[FailedAttempt]:
        """The task's history."""
        return History(self.scripts.store).history("default", name)

    def keys(self) -> list[bytes]:
        """All histories in Redis."""
        return list(self.scripts.redis.keys(store.HISTORY_PREFIX + "*"))


@pytest.fixture
def bench(scripts: Scripts) -> Bench:
    """A worker of the queue "default", which has the task "a"."""
    upload(scripts.store)
    taskqueue.add(url="/a", name="a")
    return Bench(scripts)


def test_a_reason_with_a_lone_surrogate_is_recorded(bench: Bench) -> None:
    """An exception may quote one, which UTF-8 cannot hold."""
    bench.end(500, "no \ud800")
    bench.end(500, "no \ud800", is_final=True)

    [task] = Listing(bench.scripts.store).tasks("default")
    assert (task.state, task.error) == ("dead", "no ?")


def test_each_failed_attempt_is_kept(bench: Bench) -> None:
    bench.end(500, "answered 500: no")
    at = bench.scripts.clock.now()
    bench.end(503, "answered 503: busy")

    first, second = bench.history()

    assert (first.status, first.reason, first.worker) == (500, "answered 500: no", "worker-1")
    assert (second.status, second.reason, first.is_lost) == (503, "answered 503: busy", False)
    assert (first.started_at, first.next_at) == (at, at + 0.1)
    assert second.started_at == at + 5000


def test_a_task_that_succeeds_the_first_time_has_none(bench: Bench) -> None:
    task = bench.lease()
    seen = bench.scripts.redis.info("commandstats")
    bench.recorder.record([Outcome(task, 200)])
    after = bench.scripts.redis.info("commandstats")

    called = {name for name in after if after[name]["calls"] != seen.get(name, {"calls": 0})["calls"]}
    assert "cmdstat_unlink" not in called
    assert "cmdstat_evalsha" in called
    assert bench.keys() == []


def test_a_success_after_failures_ends_it(bench: Bench) -> None:
    bench.end(500)
    assert len(bench.history()) == 1

    bench.end(200)

    assert (bench.history(), bench.keys()) == ([], [])


def test_an_ack_whose_lease_was_lost_keeps_it(bench: Bench) -> None:
    bench.end(500)
    task = bench.lease()
    bench.scripts.redis.delete(store.leased_key("default"))

    bench.recorder.record([Outcome(task, 200)])

    assert len(bench.history()) == 1


def test_the_last_twenty_are_kept(bench: Bench) -> None:
    for number in range(23):
        bench.end(500, f"answer {number}")

    assert [attempt.reason for attempt in bench.history()] == [f"answer {number}" for number in range(3, 23)]


def test_a_dead_letter_keeps_it_until_it_expires(bench: Bench) -> None:
    bench.end(500, "one")
    bench.end(500, "two", is_final=True)

    assert [(each.reason, each.next_at is None) for each in bench.history()] == [
        ("one", False),
        ("two", True),
    ]
    record, history = store.record_key("default_a"), store.history_key("default_a")
    assert bench.scripts.redis.ttl(history) == bench.scripts.redis.ttl(record) == 30 * 86400


def test_a_dead_letter_that_runs_again_keeps_it_until_it_succeeds(bench: Bench) -> None:
    bench.end(500, "one", is_final=True)
    Queue().retry_dead(["a"])
    bench.end(500, "two")
    assert [each.reason for each in bench.history()] == ["one", "two"]

    bench.end(200)

    assert bench.keys() == []


def test_a_lost_attempt_is_noted(bench: Bench, clock: StoppedClock) -> None:
    task = bench.lease()
    bench.broker.renew([task], {task.entry}, 8)
    assert bench.broker.crash(task) == "ready"

    [attempt] = bench.history()

    assert (attempt.is_lost, attempt.status, attempt.worker) == (True, None, "token678")
    assert attempt.started_at == pytest.approx(clock.now(), abs=1)


def end_by_delete(bench: Bench) -> None:
    """Delete the task."""
    Queue().delete_tasks_by_name("a")


def end_by_purge(bench: Bench) -> None:
    """Purge the queue."""
    Queue().purge()


def end_by_deleting_the_letter(bench: Bench) -> None:
    """Delete the task once it is a dead letter."""
    bench.end(500, is_final=True)
    Queue().delete_tasks_by_name("a")


def end_by_a_new_task(bench: Bench) -> None:
    """Add a task with the name of a dead letter whose tombstone has expired."""
    bench.end(500, is_final=True)
    bench.scripts.redis.delete(store.tombstone_key("default_a"))
    taskqueue.add(url="/a", name="a")


@pytest.mark.parametrize("end", [end_by_delete, end_by_purge, end_by_deleting_the_letter, end_by_a_new_task])
def test_it_goes_with_the_record(bench: Bench, end: Any) -> None:
    bench.end(500)
    assert len(bench.keys()) == 1

    end(bench)

    assert (bench.keys(), bench.history()) == ([], [])


def test_it_goes_with_a_dropped_and_a_cancelled_member(bench: Bench) -> None:
    Queue().purge()
    with Batch(name="b") as batch:
        batch.add([Task(url="/m"), Task(url="/m")])
    for _ in range(2):
        bench.end(500)
    running = bench.lease()
    assert len(bench.keys()) == 2

    batch.cancel()
    assert len(bench.keys()) == 1
    bench.recorder.record([Outcome(running, 500, "no")])

    assert bench.keys() == []


def test_a_task_with_the_name_of_a_lost_one_begins_a_new_history(bench: Bench) -> None:
    bench.end(500, "of the former task")
    bench.scripts.redis.delete(store.record_key("default_a"), store.scheduled_key("default"))
    taskqueue.add(url="/a", name="a")
    assert bench.history() == []

    bench.end(500, "of this task")

    assert [each.reason for each in bench.history()] == ["of this task"]


def test_damaged_entries_are_skipped(bench: Bench) -> None:
    bench.end(500, "one")
    bench.scripts.redis.rpush(store.history_key("default_a"), b"\xff", b"[]", b'{"lease":1}', b"7")

    assert [each.reason for each in bench.history()] == ["one"]
    assert load(b"{}") is None
