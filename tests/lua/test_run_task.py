"""run_task: one task runs now, whatever its eta and its queue's limits."""

from typing import Any

import pytest

from lastacross import store
from tests.support.scripts import Scripts
from tests.support.uploads import upload


def run_now(scripts: Scripts, task_id: str = "default_a") -> str:
    """The script's answer."""
    return str(scripts.run("run_task", task_id, scripts.now))


def names(scripts: Scripts, *queues: str, **options: Any) -> list[str]:
    """The ids of what a worker is given."""
    return [task for task, _ in scripts.lease(*queues, **options)]


def test_a_scheduled_task_runs_before_its_eta(scripts: Scripts) -> None:
    scripts.add("default_a", countdown=3600)

    assert run_now(scripts) == "ready"

    assert names(scripts) == ["default_a"]
    assert scripts.places("default_a") == ["leased"]


def test_neither_rate_nor_bucket_nor_concurrency_nor_a_pause_counts(scripts: Scripts) -> None:
    scripts.configure("default", rate=0.0001, bucket_size=1, most=1)
    scripts.add("default_first", "default_second", "default_a")
    assert len(names(scripts)) == 1
    scripts.run("pause_queue", "default", 1)

    run_now(scripts)

    assert names(scripts) == ["default_a"]


def test_it_takes_no_token_of_the_others(scripts: Scripts) -> None:
    scripts.configure("default", rate=0.0001, bucket_size=1)
    scripts.add("default_a", "default_b")
    run_now(scripts)

    assert sorted(names(scripts)) == ["default_a", "default_b"]


@pytest.mark.parametrize("rate", [0.0, 500.0])
def test_a_queue_of_rate_0_or_disabled_is_no_hindrance(scripts: Scripts, rate: float) -> None:
    scripts.configure("default", rate=rate)
    scripts.redis.hset(store.settings_key("default"), "is_disabled", "1")
    scripts.add("default_a")

    run_now(scripts)

    assert names(scripts) == ["default_a"]


def test_a_task_asked_for_twice_runs_once(scripts: Scripts) -> None:
    scripts.add("default_a")

    assert [run_now(scripts), run_now(scripts)] == ["ready", "ready"]

    assert scripts.redis.lrange(store.RUN_NOW_PREFIX + "default", 0, -1) == [b"default_a"]
    assert names(scripts) == ["default_a"]
    assert run_now(scripts) == "running"
    assert names(scripts) == []


def test_a_dead_letter_has_its_retries_before_it_again(scripts: Scripts) -> None:
    scripts.dead("default_a")

    assert run_now(scripts) == "ready"

    [(task_id, lease, flat)] = scripts.ask_lease()[0]
    record = dict(zip(flat[::2], flat[1::2], strict=True))
    assert "failures" not in record
    assert scripts.state("default_a") == "leased"
    assert scripts.redis.ttl(store.record_key("default_a")) == -1
    assert scripts.ack((task_id, lease)) == [1]


def test_a_dead_member_that_runs_now_and_succeeds_corrects_its_batch(scripts: Scripts) -> None:
    scripts.open_batch("b")
    scripts.fill("b", 1)
    scripts.seal("b")
    [(task_id, lease)] = scripts.lease()
    scripts.run("dead_letter_task", scripts.now, task_id, lease, 500, "no")
    assert scripts.counts("b") == {"total": 1, "failed": 1}

    run_now(scripts, task_id)
    [(_, lease)] = scripts.lease()
    scripts.ack((task_id, lease))

    assert scripts.counts("b") == {"total": 1, "done": 1}


@pytest.mark.parametrize(("task_id", "answer"), [("default_none", "gone"), ("default_b-complete", "waiting")])
def test_what_cannot_run_is_said(scripts: Scripts, task_id: str, answer: str) -> None:
    scripts.open_batch("b", complete="default_b-complete")

    assert run_now(scripts, task_id) == answer

    assert names(scripts) == []


def test_a_task_that_runs_is_left_alone(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")

    assert run_now(scripts) == "running"

    assert scripts.ack(("default_a", lease)) == [1]


def test_the_workers_of_its_service_run_it(scripts: Scripts) -> None:
    upload(scripts.store, services=["counter"])
    scripts.add("default_a", target="counter", countdown=60)
    scripts.redis.delete(store.wakeup_key("counter"))
    run_now(scripts)

    assert scripts.redis.llen(store.wakeup_key("counter")) == 1
    assert names(scripts) == []
    scripts.groups = ["counter"]
    [(_, _, flat)] = scripts.ask_lease("default.counter")[0]
    assert dict(zip(flat[::2], flat[1::2], strict=True))["group"] == "counter"


def test_a_task_in_another_list_than_its_own_waits_in_one_place_afterwards(scripts: Scripts) -> None:
    """RQ's own `requeue` puts each job into the first list of its queue."""
    upload(scripts.store, services=["counter"])
    scripts.add("default_a", target="counter")
    scripts.redis.delete(store.ready_key("default.counter"))
    scripts.redis.rpush(store.ready_key("default"), "default_a")

    assert run_now(scripts) == "ready"

    assert scripts.redis.exists(store.ready_key("default")) == 0
    assert scripts.redis.lrange(store.RUN_NOW_PREFIX + "counter", 0, -1) == [b"default_a"]


def test_a_worker_without_a_free_thread_leaves_it_to_another(scripts: Scripts) -> None:
    scripts.add("default_a", countdown=60)
    run_now(scripts)

    assert names(scripts, free=0) == []
    assert names(scripts, free=1) == ["default_a"]


def test_it_fails_and_is_retried_like_any_other(scripts: Scripts) -> None:
    scripts.add("default_a", countdown=60)
    run_now(scripts)
    [(_, lease)] = scripts.lease()

    later = f"{scripts.clock.now() + 1:.6f}"
    assert scripts.run("retry_task", "default_a", lease, later, 500, scripts.now, 1) == 1

    assert scripts.state("default_a") == "scheduled"


@pytest.mark.parametrize("how", ["delete", "purge"])
def test_what_is_deleted_before_anybody_took_it_does_not_run(scripts: Scripts, how: str) -> None:
    scripts.add("default_a", countdown=60)
    run_now(scripts)

    if how == "delete":
        assert scripts.run("delete_tasks", scripts.now, "default_a") == [1]
    else:
        assert scripts.run("purge_queue", scripts.now, "default", 1000, scripts.now) == 1

    assert scripts.redis.keys(store.RUN_NOW_PREFIX + "*") == []
    assert names(scripts) == []
    assert scripts.state("default_a") == "gone"


def test_purging_another_queue_leaves_it(scripts: Scripts) -> None:
    scripts.add("default_a", countdown=60)
    run_now(scripts)

    scripts.run("purge_queue", scripts.now, "other", 1000, scripts.now)

    assert names(scripts) == ["default_a"]


def test_its_second_entry_in_a_long_list_does_no_harm(scripts: Scripts) -> None:
    filler = [f"default_{number}" for number in range(10_000)]
    scripts.redis.rpush(store.ready_key("default"), *filler)
    scripts.add("default_a")
    run_now(scripts)
    scripts.redis.ltrim(store.ready_key("default"), 10_000, -1)
    assert scripts.ready() == ["default_a"]

    assert names(scripts) == ["default_a"]
    assert names(scripts) == []
    assert scripts.ready() == []


def test_a_worker_of_other_queues_leaves_it_to_who_serves_its_queue(scripts: Scripts) -> None:
    scripts.add("default_a", countdown=60)
    scripts.add("other_b", countdown=60)
    run_now(scripts)
    run_now(scripts, "other_b")

    assert names(scripts, "other") == ["other_b"]
    assert names(scripts, "default") == ["default_a"]


def test_nobody_is_woken_again_and_again_for_what_waits_for_another(scripts: Scripts) -> None:
    scripts.add("default_a", countdown=60)
    run_now(scripts)

    scripts.lease("other")

    assert scripts.marker() is None


def test_more_than_a_worker_can_take_is_left_for_the_next(scripts: Scripts) -> None:
    for name in ("default_a", "default_b"):
        scripts.add(name, countdown=60)
        run_now(scripts, name)

    assert names(scripts, free=1) == ["default_a"]
    assert scripts.marker() == "ready"
    assert names(scripts) == ["default_b"]


def test_a_push_task_in_what_became_a_pull_queue_may_be_leased(scripts: Scripts) -> None:
    scripts.add("default_a", countdown=60, description="POST /a")
    upload(scripts.store, {"default": {"mode": "pull"}})

    assert run_now(scripts) == "ready"

    assert scripts.ready() == ["default_a"]
    assert scripts.redis.keys(store.RUN_NOW_PREFIX + "*") == []
