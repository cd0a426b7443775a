"""What RQ's own tools see of our tasks, and what they may do to them."""

from typing import Any

import pytest
import rq
from rq.job import Job, JobStatus
from rq.registry import (
    DeferredJobRegistry,
    FailedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
    clean_registries,
)
from rq.suspension import resume, suspend

from lastacross import store, taskqueue
from lastacross.broker.steps import BatchSteps, Broker
from lastacross.clock import SYSTEM
from lastacross.taskqueue import Batch, Task, stock
from tests.support.clock import StoppedClock
from tests.support.scripts import Scripts

DAY = 86_400


@pytest.fixture
def clock() -> StoppedClock:
    """A clock that stands where RQ's does, which reads the machine's: a minute behind it at most."""
    return StoppedClock(SYSTEM.now())


@pytest.fixture
def broker(scripts: Scripts) -> Broker:
    """The steps by their methods."""
    return Broker(scripts.store)


def queue(scripts: Scripts) -> rq.Queue:
    return rq.Queue("default", connection=scripts.redis)


def one_of_each(scripts: Scripts) -> None:
    """Two ready tasks, one scheduled, one leased, one dead, one that waits for its batch."""
    scripts.dead("default_dead")
    scripts.leased("default_leased")
    taskqueue.add(url="/a", name="scheduled", countdown=60)
    taskqueue.add(url="/a", name="ready")
    taskqueue.add(url="/a", name="ready2")
    Batch(name="b", on_complete=Task(url="/end")).__enter__()


def counts(scripts: Scripts) -> dict[str, int]:
    opened = queue(scripts)
    return {
        "ready": opened.count,
        "started": opened.started_job_registry.count,
        "scheduled": opened.scheduled_job_registry.count,
        "failed": opened.failed_job_registry.count,
        "deferred": opened.deferred_job_registry.count,
        "finished": opened.finished_job_registry.count,
    }


def test_rq_finds_our_queues_and_counts_our_tasks(scripts: Scripts) -> None:
    one_of_each(scripts)

    assert [each.name for each in rq.Queue.all(connection=scripts.redis)] == ["default"]
    assert counts(scripts) == {
        "ready": 2,
        "started": 1,
        "scheduled": 1,
        "failed": 1,
        "deferred": 1,
        "finished": 0,
    }
    assert queue(scripts).job_ids == ["default_ready", "default_ready2"]
    assert StartedJobRegistry(queue=queue(scripts)).get_job_ids() == ["default_leased"]


@pytest.mark.parametrize(
    ("task_id", "status"),
    [
        ("default_ready", JobStatus.QUEUED),
        ("default_scheduled", JobStatus.SCHEDULED),
        ("default_leased", JobStatus.STARTED),
        ("default_dead", JobStatus.FAILED),
        ("default_b-complete", JobStatus.DEFERRED),
    ],
)
def test_rq_reads_our_records(scripts: Scripts, task_id: str, status: JobStatus) -> None:
    one_of_each(scripts)

    job = Job.fetch(task_id, connection=scripts.redis)

    assert (job.get_status(), job.origin) == (status, "default")


def test_a_job_says_what_its_task_is_and_that_rq_cannot_run_it(scripts: Scripts) -> None:
    taskqueue.add(url="/a?b=c", name="n", method="GET")

    job = Job.fetch("default_n", connection=scripts.redis)

    assert job.description == "GET /a?b=c"
    assert job.created_at.timestamp() == pytest.approx(scripts.clock.now(), abs=1e-5)
    assert job.func is stock.refuse
    with pytest.raises(RuntimeError, match="lastacross worker"):
        job.func()


@pytest.mark.parametrize("hours", [0, 1, 23])
def test_cleaning_the_registries_as_rq_info_does_changes_nothing(scripts: Scripts, hours: int) -> None:
    """The worker of the leased task has been gone for hours, and nobody has rescued it."""
    scripts.clock.advance(-3600 * hours)
    one_of_each(scripts)
    before = {key: scripts.redis.dump(key) for key in scripts.redis.scan_iter()}

    clean_registries(queue(scripts))

    assert counts(scripts)["started"] == 1
    assert {key: scripts.redis.dump(key) for key in scripts.redis.scan_iter()} == before


def test_a_scheduled_task_has_its_eta_in_rqs_registry(scripts: Scripts) -> None:
    taskqueue.add(url="/a", name="n", countdown=60)

    eta = ScheduledJobRegistry(queue=queue(scripts)).get_scheduled_time("default_n")

    assert eta.timestamp() == pytest.approx(scripts.clock.now() + 60, abs=1e-5)


def test_a_requeued_dead_letter_is_a_fresh_task(scripts: Scripts, broker: Broker) -> None:
    scripts.redis.delete(store.tombstone_key("default_n"))
    task = Task(b"\x00\xff", url="/a", name="n", headers={"X-Own": "1"})
    taskqueue.Queue().add(task)
    [(task_id, lease)] = scripts.lease()
    scripts.run("dead_letter_task", scripts.now, task_id, lease, 500, "answered 500")

    FailedJobRegistry(queue=queue(scripts)).requeue(task_id)
    [again] = broker.lease(["default"], token="w", number=9, wanted=5, free=5, lease_seconds=8).tasks

    assert (again.failures, again.lost, again.previous_response, again.is_suspect) == (0, 0, None, False)
    assert (again.body, again.method_and_url, dict(again.headers)["X-Own"]) == (
        b"\x00\xff",
        ("POST", "/a"),
        "1",
    )
    assert counts(scripts)["failed"] == 0
    assert broker.ack([again]) == [True]
    with pytest.raises(taskqueue.TombstonedTaskError):
        taskqueue.add(url="/a", name="n")


def test_a_requeued_dead_member_corrects_its_batch(scripts: Scripts) -> None:
    with Batch(on_complete=Task(url="/end")) as batch:
        batch.add(Task(url="/a"))
    [lease] = scripts.lease()
    scripts.run("dead_letter_task", scripts.now, *lease, 500, "")
    scripts.ack(*scripts.lease())

    FailedJobRegistry(queue=queue(scripts)).requeue(lease[0])
    scripts.ack(*scripts.lease())

    assert (batch.progress().done, batch.progress().failed) == (1, 0)
    assert scripts.ready() == []


def test_a_suspended_rq_suspends_us(scripts: Scripts) -> None:
    taskqueue.add(url="/a")
    suspend(scripts.redis)
    assert scripts.lease() == []

    resume(scripts.redis)

    assert len(scripts.lease()) == 1


@pytest.mark.parametrize("tool", ["empty", "delete", "job.delete", "job.cancel"])
def test_members_that_an_rq_tool_took_away_count_as_cancelled(scripts: Scripts, tool: str) -> None:
    with Batch("default", on_complete=Task(url="/end")) as batch:
        batch.add([Task(url="/a"), Task(url="/b", name="named"), Task(url="/c", countdown=60)])
    scheduled = f"default_{batch.id}-2"
    if tool.startswith("job."):
        for task_id in [*scripts.ready(), scheduled]:
            job = Job.fetch(task_id, connection=scripts.redis)
            job.delete() if tool == "job.delete" else job.cancel()
    else:
        act: Any = getattr(queue(scripts), tool)
        act()
        scripts.redis.delete(store.record_key(scheduled))

    assert BatchSteps(scripts.store).sweep(0, 0) == (0, 0)

    progress = batch.progress()
    assert (progress.total, progress.cancelled) == (3, 3)
    assert scripts.state(f"default_{batch.id}-complete") == "ready"


def test_a_job_that_was_enqueued_with_rq_is_told_apart_and_kept(scripts: Scripts) -> None:
    job = queue(scripts).enqueue("os.getcwd")
    later = queue(scripts).enqueue("os.getcwd", job_id="has_underscore")
    task = taskqueue.add(url="/a")

    assert [task_id for task_id, _ in scripts.lease()] == [f"default_{task.name}"]

    registry = FailedJobRegistry(queue=queue(scripts))
    assert set(registry.get_job_ids()) == {job.id, later.id}
    assert b"plain RQ job" in scripts.redis.hget(store.record_key(job.id), "error")


def test_what_a_stock_worker_takes_by_mistake_comes_back(scripts: Scripts, broker: Broker) -> None:
    with Batch(on_complete=Task(url="/end")) as batch:
        batch.add([Task(url=f"/{index}") for index in range(3)])
    worker = rq.SimpleWorker([queue(scripts)], connection=scripts.redis)
    worker.work(burst=True, logging_level="CRITICAL")
    assert counts(scripts)["failed"] == 3

    assert len(broker.sweep_foreign(["default"])) == 3

    scripts.ack(*scripts.lease())
    assert batch.progress().done == 3
    assert [task for task, _ in scripts.lease()] == [f"default_{batch.id}-complete"]
    assert DeferredJobRegistry(queue=queue(scripts)).count == 0
