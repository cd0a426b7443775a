"""sweep_foreign: what a stock worker or another RQ tool took out of our queues is put back."""

import pytest
import rq
from rq import registry

from lastacross import store
from lastacross.broker.record import DATA
from tests.support.scripts import Scripts

INTERMEDIATE = store.ready_key("default") + ":intermediate"


def sweep(scripts: Scripts, most: int = 100, seen: int = 0) -> list[str]:
    return list(scripts.run("sweep_foreign", most, seen, "default"))


def test_what_a_stock_worker_took_and_did_not_start_comes_back(scripts: Scripts) -> None:
    scripts.add("default_a")
    scripts.marker()
    scripts.redis.lmove(store.ready_key("default"), INTERMEDIATE)

    assert sweep(scripts) == ["default_a"]

    assert scripts.state("default_a") == "ready"
    assert scripts.redis.exists(INTERMEDIATE) == 0
    assert scripts.marker() == "ready"


def test_what_it_had_started_is_left_to_the_rescue(scripts: Scripts) -> None:
    scripts.add("default_a")
    scripts.redis.lmove(store.ready_key("default"), INTERMEDIATE)
    scripts.redis.hset(store.record_key("default_a"), "status", "started")

    assert sweep(scripts) == []
    assert scripts.ready() == []


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_what_a_stock_worker_failed_comes_back_for_good(scripts: Scripts, status: str) -> None:
    scripts.add("default_a")
    scripts.redis.lpop(store.ready_key("default"))
    scripts.redis.hset(store.record_key("default_a"), mapping={"status": status, "exc_info": "RuntimeError"})
    scripts.redis.expire(store.record_key("default_a"), 60)
    scripts.redis.zadd(store.dead_key("default"), {"default_a": 1})

    assert sweep(scripts) == ["default_a"]

    assert scripts.state("default_a") == "ready"
    assert "exc_info" not in scripts.record("default_a")
    assert scripts.redis.ttl(store.record_key("default_a")) == -1


def test_our_dead_letters_and_plain_jobs_stay_and_empty_entries_go(scripts: Scripts) -> None:
    scripts.dead("default_a")
    scripts.redis.hset(store.record_key("job"), mapping={"status": "failed", "data": "x"})
    scripts.redis.zadd(store.dead_key("default"), {"job": 5, "default_none": 6})

    assert sweep(scripts) == []

    assert scripts.state("default_a") == "dead"
    assert [id for id, _ in scripts.redis.zrange(store.dead_key("default"), 0, -1, withscores=True)] == [
        b"job",
        b"default_a",
    ]


def test_failed_jobs_are_found_behind_any_number_of_dead_letters(scripts: Scripts) -> None:
    for index in range(6):
        scripts.dead(f"default_dead{index}")
    for task, kept_until in (("default_first", 1), ("default_year", 4_000_000_000)):
        scripts.redis.hset(store.record_key(task), mapping={"status": "failed", "eta": 1, "data": "x"})
        scripts.redis.zadd(store.dead_key("default"), {task: kept_until})

    # RQ keeps what it fails for a year, so it lies at the end and is found at once.
    assert sweep(scripts, most=2, seen=2) == ["default_year"]
    assert [sweep(scripts, most=2, seen=seen) for seen in (2, 4, 6)] == [[], [], []]
    assert sweep(scripts, most=2, seen=7) == ["default_first"]


def test_what_a_stock_worker_noted_on_a_task_after_its_end_is_swept_up(scripts: Scripts) -> None:
    husk: dict[str, str] = {"status": "failed", "worker_name": "stock", "started_at": "2027-01-15T08:00:00Z"}
    scripts.redis.hset(f"{store.RQ}job:default_failed", mapping=husk)
    scripts.redis.zadd(f"{store.RQ}failed:default", {"default_failed": 1_900_000_000})
    scripts.redis.hset(f"{store.RQ}job:default_ready", mapping={**husk, "status": "queued"})
    scripts.redis.rpush(f"{store.RQ}queue:default", "default_ready")

    assert scripts.run("sweep_foreign", 100, 0, "default") == []
    assert scripts.lease() == []

    assert scripts.state("default_failed") == "gone"
    assert scripts.state("default_ready") == "gone"


def test_a_whole_record_that_a_stock_worker_wrote_after_the_end_is_swept_up(scripts: Scripts) -> None:
    """It failed the task after one of our workers had run it: RQ saves all fields of a failed job."""
    scripts.add("default_late", data=DATA, description="POST /work")
    job = rq.job.Job.fetch("default_late", connection=scripts.redis)
    scripts.redis.delete(f"{store.RQ}queue:default", f"{store.RQ}job:default_late")
    registry.FailedJobRegistry("default", scripts.redis).add(job, exc_string="RuntimeError")
    assert scripts.redis.hexists(f"{store.RQ}job:default_late", "data")

    assert scripts.run("sweep_foreign", 100, 0, "default") == []

    assert scripts.state("default_late") == "gone"
    assert scripts.redis.zcard(f"{store.RQ}failed:default") == 0


def test_a_failed_job_of_a_program_that_uses_rq_is_left_alone(scripts: Scripts) -> None:
    job = rq.Queue("default", connection=scripts.redis).enqueue("os.getcwd", job_id="default_theirs")
    scripts.redis.delete(f"{store.RQ}queue:default")
    registry.FailedJobRegistry("default", scripts.redis).add(job, exc_string="OSError")

    assert scripts.run("sweep_foreign", 100, 0, "default") == []

    assert scripts.redis.zrange(f"{store.RQ}failed:default", 0, -1) == [b"default_theirs"]
    assert scripts.redis.hexists(f"{store.RQ}job:default_theirs", "data")
