"""rescue_expired: tasks whose lease ran out go back to ready."""

import pytest

from lastacross import store
from tests.support.scripts import Scripts


def rescue(scripts: Scripts, *queues: str, most: int = 100) -> list[str]:
    return list(scripts.run("rescue_expired", scripts.now, most, *(queues or ("default",))))


def lose_once(scripts: Scripts, *, has_started: bool) -> list[str]:
    """Lease the task "default_a", let its lease run out, rescue."""
    [(task, lease)] = scripts.lease()
    if has_started:
        scripts.run("renew_leases", scripts.now, task, lease, 1)
    scripts.clock.advance(9)
    return rescue(scripts)


def test_a_lease_is_kept_until_its_last_microsecond(scripts: Scripts) -> None:
    scripts.leased("default_a")
    scripts.clock.advance(7.999999)
    assert rescue(scripts) == []

    scripts.clock.advance(0.000001)

    assert rescue(scripts) == ["default_a", "ready"]
    assert scripts.state("default_a") == "ready"
    assert scripts.marker() == "ready"


def test_a_task_of_which_nobody_knows_whether_it_started_runs_alone_but_is_not_blamed(
    scripts: Scripts,
) -> None:
    scripts.add("default_a")

    for _ in range(8):
        assert lose_once(scripts, has_started=False) == ["default_a", "ready"]

    record = scripts.record("default_a")
    assert record["suspect"] == "1"
    assert not record.keys() & {"crashes", "lost", "lease", "started"}


def test_a_started_task_counts_its_losses(scripts: Scripts) -> None:
    scripts.add("default_a")

    lose_once(scripts, has_started=True)

    assert scripts.record("default_a").items() >= {"crashes": "1", "lost": "1", "suspect": "1"}.items()


def test_five_losses_in_a_row_are_poison(scripts: Scripts) -> None:
    scripts.add("default_a", tombstone=777)

    outcomes = [lose_once(scripts, has_started=True)[1] for _ in range(5)]

    assert outcomes == ["ready"] * 4 + ["poison"]
    assert scripts.state("default_a") == "dead"
    assert scripts.record("default_a")["error"].startswith("poison: ")
    assert scripts.tombstone_seconds("default_a") == 777


def test_four_losses_and_an_answer_are_forgiven(scripts: Scripts) -> None:
    scripts.add("default_a")
    for _ in range(4):
        lose_once(scripts, has_started=True)
    [(task, lease)] = scripts.lease()
    scripts.run("retry_task", task, lease, scripts.now, 500, scripts.now, 1)
    scripts.run("promote_due", scripts.now, 100, "default")

    assert [lose_once(scripts, has_started=True)[1] for _ in range(5)] == ["ready"] * 4 + ["poison"]


def test_a_poison_member_fails_its_batch(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    for _ in range(5):
        lose_once(scripts, has_started=True)

    assert scripts.counts("b") == {"total": 1, "failed": 1}
    assert scripts.is_finished("b")


def test_each_queue_moves_no_more_than_asked_for_and_the_last_leased_first(scripts: Scripts) -> None:
    scripts.add("default_a", "default_b", "other_c")
    scripts.lease(wanted=1)
    scripts.clock.advance(1)
    scripts.lease("default", "other")
    scripts.clock.advance(60)

    assert rescue(scripts, "default", "other", most=1) == ["default_b", "ready", "other_c", "ready"]
    assert rescue(scripts, "default", "other", most=1) == ["default_a", "ready"]
    assert scripts.ready() == ["default_a", "default_b"]


def test_a_lost_lease_whose_record_is_gone_cancels_its_member(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    scripts.lease()
    scripts.redis.delete(store.record_key("default_b-0"))
    scripts.clock.advance(9)

    assert rescue(scripts) == ["default_b-0", "gone"]
    assert scripts.counts("b") == {"total": 1, "cancelled": 1}
    assert scripts.entries() == []


def test_a_stale_lease_beside_a_live_one_is_only_removed(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")
    scripts.redis.zadd(store.leased_key("default"), {"default_a:stale.1": 1, "default_none": 1})

    assert rescue(scripts) == ["default_a", "gone", "default_none", "gone"]
    assert scripts.entries() == [f"default_a:{lease}"]
    assert scripts.state("default_a") == "leased"


def _stale_entry_of(task: str, scripts: Scripts) -> None:
    """A lease's entry that outlived its lease, as after a reload of a shortened append-only file."""
    scripts.redis.zadd(store.leased_key("default"), {f"{task}:stale.1": 1})


@pytest.mark.parametrize("place", ["ready", "scheduled", "dead", "deferred"])
def test_a_stale_lease_does_not_give_back_a_task_that_is_already_elsewhere(
    scripts: Scripts, place: str
) -> None:
    if place == "dead":
        scripts.dead("default_a")
    elif place == "deferred":
        scripts.open_batch("b", complete="default_a")
    else:
        scripts.add("default_a", countdown=60 if place == "scheduled" else None)
    before = scripts.record("default_a")
    _stale_entry_of("default_a", scripts)

    assert rescue(scripts) == ["default_a", "gone"]

    assert scripts.state("default_a") == place
    assert scripts.record("default_a") == before


def test_a_lost_lease_wakes_a_worker_of_another_service_for_the_freed_place(scripts: Scripts) -> None:
    scripts.run("register_service", "counter")
    scripts.configure("default", most=1)
    scripts.add("default_a")
    scripts.lease()
    scripts.add("default_b", target="counter")
    scripts.redis.delete(store.wakeup_key("counter"))
    scripts.clock.advance(9)

    rescue(scripts)

    assert scripts.redis.lpop(store.wakeup_key("counter")) == b"ready"


@pytest.mark.parametrize("job_id", ["0ffb1a2e-6b0c-4a0b-9a43-0ef2b6f1c001", "my_job"])
def test_a_plain_job_in_the_hands_of_a_stock_worker_does_not_stop_the_rescue(
    scripts: Scripts, job_id: str
) -> None:
    scripts.leased("default_a")
    scripts.redis.hset(store.record_key(job_id), mapping={"status": "started", "data": "x"})
    scripts.redis.zadd(store.leased_key("default"), {f"{job_id}:execution": scripts.clock.now() + 60})
    scripts.clock.advance(9)

    assert rescue(scripts) == ["default_a", "ready", job_id, "ready"]
    assert [task for task, _ in scripts.lease()] == ["default_a"]
    assert scripts.record(job_id)["status"] == "failed"


def test_what_a_stock_worker_took_comes_back_at_once(scripts: Scripts) -> None:
    scripts.add("default_a")
    scripts.redis.lpop(store.ready_key("default"))
    scripts.redis.hset(store.record_key("default_a"), "status", "started")
    scripts.redis.zadd(store.leased_key("default"), {"default_a:execution": scripts.clock.now() + 60})

    assert rescue(scripts) == ["default_a", "ready"]
    assert scripts.state("default_a") == "ready"


def test_a_member_of_a_cancelled_batch_whose_worker_died_is_not_run_again(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    scripts.lease()
    scripts.run("cancel_batch", scripts.now, "b", 0, 100)
    scripts.clock.advance(9)

    assert rescue(scripts) == ["default_b-0", "gone"]

    assert scripts.state("default_b-0") == "gone"
    assert scripts.is_finished("b")
    assert scripts.counts("b") == {"total": 1, "cancelled": 1}


def test_the_chosen_name_of_a_member_dropped_with_its_worker_stays_refused(scripts: Scripts) -> None:
    scripts.open_batch("b")
    scripts.fill_with("b", ["default_a"], tombstone=777)
    scripts.lease()
    scripts.run("cancel_batch", scripts.now, "b", 0, 100)
    scripts.clock.advance(9)

    assert rescue(scripts) == ["default_a", "gone"]

    assert scripts.tombstone_seconds("default_a") == 777
    assert scripts.add("default_a") == [11]


HOUR = 3600


def _by_the_servers_clock(scripts: Scripts, *, ends_in: float) -> float:
    """Lease the task "default_a" until so many seconds from now; returns the server's time."""
    lease = scripts.leased("default_a")
    seconds, microseconds = scripts.redis.time()
    now = float(seconds + microseconds / 1e6)
    score = now + ends_in + store.LEASE_SCORE_SHIFT_SECONDS
    scripts.redis.zadd(store.leased_key("default"), {f"default_a:{lease}": score})
    return now


@pytest.mark.parametrize("script", ["rescue_expired", "maintain_queues"])
@pytest.mark.parametrize(
    ("ends_in", "differs", "is_rescued"),
    [(-1, 0, True), (-1, 2, True), (60, HOUR, False), (-HOUR - 1, -HOUR, False), (-60, HOUR, False)],
)
def test_a_caller_that_does_not_know_the_servers_time_ends_no_lease(
    scripts: Scripts, script: str, ends_in: float, differs: float, is_rescued: bool
) -> None:
    """Somebody has set the server's clock, or the call was on its way for long."""
    now = _by_the_servers_clock(scripts, ends_in=ends_in) + differs
    args: list[store.Arg] = [f"{now:.6f}~4", 100, "default"]
    if script == "maintain_queues":
        args.insert(2, 1)

    answer = scripts.run(script, *args)

    rescued = answer[2] if script == "maintain_queues" else answer
    assert rescued == (["default_a", "ready"] if is_rescued else [])
    assert scripts.state("default_a") == ("ready" if is_rescued else "leased")


def test_more_tasks_than_one_call_moves_come_back_in_the_order_of_their_leases(scripts: Scripts) -> None:
    """Their names and the ends of their leases do not tell that order."""
    names = [f"default_{(number * 7) % 25:02}" for number in range(25)]
    scripts.add(*names)
    leases = [lease for _ in names for lease in scripts.lease(wanted=1, free=1)]
    assert [task for task, _ in leases] == names
    for task, lease in reversed(leases):
        scripts.run("renew_leases", scripts.now, task, lease, 0)
    scripts.add("default_waiting")
    scripts.clock.advance(9)

    moved = []
    while found := rescue(scripts, most=10):
        moved.append(len(found) // 2)

    assert moved == [10, 10, 5]
    assert scripts.ready() == [*names, "default_waiting"]


def test_a_lease_without_a_number_beyond_the_limit_is_rescued_later(scripts: Scripts) -> None:
    scripts.leased("default_a")
    scripts.leased("default_b")
    [entry] = [each for each in scripts.entries() if each.startswith("default_a:")]
    scripts.redis.zrem(store.leased_key("default"), entry)
    scripts.redis.zadd(store.leased_key("default"), {"default_a": 0})
    scripts.redis.hdel(f"{store.RQ}job:default_a", "lease")
    scripts.clock.advance(9)

    outcomes = [*rescue(scripts, most=1), *rescue(scripts, most=1)]

    assert sorted(outcomes) == ["default_a", "default_b", "ready", "ready"]
    assert scripts.entries() == []
