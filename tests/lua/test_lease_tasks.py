"""lease_tasks: a worker gets ready tasks, as many as the limits of their queues allow."""

from typing import Any

import pytest

from lastacross import store
from tests.support.scripts import Scripts
from tests.support.uploads import upload


def names(count: int, queue: str = "default") -> list[str]:
    return [f"{queue}_{index:03}" for index in range(count)]


def test_tasks_are_leased_oldest_first_each_under_a_lease_of_its_own(scripts: Scripts) -> None:
    scripts.add("default_a", "default_b", "default_c")

    leases = scripts.lease(wanted=2, token="w")

    assert [task for task, _ in leases] == ["default_a", "default_b"]
    assert len({lease for _, lease in leases}) == 2
    assert all(lease.startswith("w.") for _, lease in leases)
    assert [scripts.state(task) for task in ("default_a", "default_b", "default_c")] == [
        "leased",
        "leased",
        "ready",
    ]
    assert scripts.expires_at(*leases[0]) == scripts.clock.now() + 8


def test_the_record_comes_with_the_lease(scripts: Scripts) -> None:
    scripts.add("default_a", body="a body")

    [[task, _, flat]] = scripts.ask_lease()[0]

    assert task == "default_a"
    assert dict(zip(flat[::2], flat[1::2], strict=True))["body"] == "a body"


def test_queues_are_served_in_the_order_asked_for(scripts: Scripts) -> None:
    scripts.add("default_a", "other_a")

    assert [task for task, _ in scripts.lease("other", "default", wanted=1)] == ["other_a"]
    assert [task for task, _ in scripts.lease("other", "default")] == ["default_a"]


def test_a_lease_that_leaves_work_behind_says_so_and_leaves_a_marker(scripts: Scripts) -> None:
    scripts.add("default_a", "default_b", "other_a")

    assert scripts.ask_lease("default", "other", wanted=1)[2] == 1
    assert scripts.marker() == "ready"
    assert scripts.ask_lease("default", "other", wanted=1)[2] == 1
    assert scripts.ask_lease("default", "other", wanted=1)[2] == 0
    assert scripts.marker() is None


@pytest.mark.parametrize(("countdown", "asks"), [(None, 0), (10.0, 1)])
def test_whoever_leases_takes_the_marker_and_hears_of_scheduled_tasks(
    scripts: Scripts, countdown: float | None, asks: int
) -> None:
    scripts.add("default_a", countdown=countdown)

    assert scripts.ask_lease()[4] == asks
    assert scripts.marker() is None


def test_a_worker_without_a_free_thread_leaves_the_marker_to_others(scripts: Scripts) -> None:
    scripts.configure("default", most=3)
    scripts.add("default_a")

    assert scripts.lease(free=0) == []
    assert scripts.marker() == "ready"


@pytest.mark.parametrize("reason", ["rate 0", "paused", "suspended"])
def test_a_queue_that_stands_still_gives_nothing_and_loses_nothing(scripts: Scripts, reason: str) -> None:
    scripts.add("default_a")
    if reason == "rate 0":
        scripts.configure("default", rate=0)
    elif reason == "paused":
        scripts.redis.sadd(store.PAUSED, "default")
    else:
        scripts.redis.set(store.RQ_SUSPENDED, 1)

    assert scripts.ask_lease()[:4] == [[], "", 0, []]

    scripts.configure("default")
    scripts.redis.delete(store.PAUSED, store.RQ_SUSPENDED)
    assert [task for task, _ in scripts.lease()] == ["default_a"]


def test_a_queue_whose_settings_are_missing_is_named(scripts: Scripts) -> None:
    scripts.redis.delete(store.settings_key("default"))
    scripts.add("default_a", "other_a")

    tasks, _, _, missing, _, _ = scripts.ask_lease("default", "other")

    assert [task[0] for task in tasks] == ["other_a"]
    assert missing == ["default"]
    assert scripts.state("default_a") == "ready"


def test_missing_settings_that_no_upload_brings_are_not_asked_for_again(scripts: Scripts) -> None:
    upload(scripts.store, ["default", "other"])
    scripts.redis.delete(store.settings_key("other"))
    scripts.add("other_a")

    upload(scripts.store, ["default"])

    assert scripts.ask_lease("default", "other")[:4] == [[], "", 0, []]
    upload(scripts.store, ["default", "other"])
    assert [task for task, _ in scripts.lease("other")] == ["other_a"]


# --- the token bucket -------------------------------------------------------------------------

# rate a second, bucket size, [(seconds to wait, tasks that are then granted)]
BUCKETS: list[tuple[str, float, int, list[tuple[float, int]]]] = [
    ("5/s, bucket 5", 5.0, 5, [(0, 5), (0, 0), (0.199, 0), (0.001, 1), (0.4, 2), (60, 5), (0, 0), (1, 5)]),
    ("20/m, bucket 1", 20 / 60, 1, [(0, 1), (2.999, 0), (0.001, 1), (3, 1), (3, 1), (3600, 1), (2, 0)]),
    ("1.5/m, bucket 2", 1.5 / 60, 2, [(0, 2), (39.99, 0), (0.01, 1), (40, 1), (80, 2), (20, 0), (20, 1)]),
    ("1/h, bucket 1", 1 / 3600, 1, [(0, 1), (3599, 0), (1, 1)]),
    ("500/s, bucket 3", 500.0, 3, [(0, 3), (0.001, 0), (0.001, 1), (1, 3)]),
]


@pytest.mark.parametrize(
    ("rate", "bucket_size", "grants"), [b[1:] for b in BUCKETS], ids=[b[0] for b in BUCKETS]
)
def test_a_token_bucket_is_exact(
    scripts: Scripts, rate: float, bucket_size: int, grants: list[tuple[float, int]]
) -> None:
    scripts.configure("default", rate=rate, bucket_size=bucket_size)
    scripts.add(*names(40))

    for wait, expected in grants:
        scripts.clock.advance(wait)
        assert len(scripts.lease()) == expected, f"after {wait} s more"


def test_over_an_hour_no_task_is_gained_or_lost_to_rounding(scripts: Scripts) -> None:
    scripts.configure("default", rate=1 / 3, bucket_size=2)
    scripts.add(*names(100))
    scripts.add(*[f"default_x{index}" for index in range(100)])
    granted = 0
    for _ in range(600):
        granted += len(scripts.lease())
        scripts.clock.advance(0.9)

    assert granted == 2 + int(599 * 0.9 / 3)


def test_a_queue_without_a_token_says_when_it_has_one_again_and_wakes_nobody(scripts: Scripts) -> None:
    scripts.configure("default", rate=20 / 60, bucket_size=1)
    scripts.add("default_a", "default_b")
    scripts.clock.advance(0.5)

    _, due, more, _, _, _ = scripts.ask_lease()

    assert float(due) == pytest.approx(scripts.clock.now() + 3, abs=2e-6)
    assert more == 0
    assert scripts.marker() is None
    scripts.clock.advance(3)
    assert [task for task, _ in scripts.lease()] == ["default_b"]


def test_of_several_throttled_queues_the_first_instant_counts(scripts: Scripts) -> None:
    scripts.configure("default", rate=0.1, bucket_size=1)
    scripts.configure("other", rate=0.5, bucket_size=1)
    scripts.add(*names(2), *names(2, "other"))

    due = float(scripts.ask_lease("default", "other")[1])
    assert due == pytest.approx(scripts.clock.now() + 2, abs=2e-6)


def test_a_bucket_that_is_empty_for_good_gives_nothing(scripts: Scripts) -> None:
    scripts.configure("default", rate=5, bucket_size=0)
    scripts.add("default_a")
    scripts.clock.advance(3600)

    assert scripts.lease() == []


def test_a_machine_whose_clock_is_behind_gains_no_tokens(scripts: Scripts) -> None:
    scripts.configure("default", rate=1000, bucket_size=1000)
    scripts.redis.hset(
        store.bucket_key("default"), mapping={"tokens": 0, "counted_at": f"{scripts.clock.now():.6f}"}
    )
    for first in range(0, 300, 100):
        scripts.add(*[f"default_{index}" for index in range(first, first + 100)])
    granted = 0
    for _ in range(50):
        # Two machines in turn, 2 ms apart by their clocks, 0.1 ms apart in truth.
        scripts.clock.advance(0.0021)
        granted += len(scripts.lease(wanted=1))
        scripts.clock.advance(-0.0019)
        granted += len(scripts.lease(wanted=1))

    assert 1000 * 50 * 0.0002 <= granted <= 1000 * 50 * 0.0002 + 1000 * 0.002 + 1


def test_a_server_clock_that_was_set_back_does_not_stop_a_queue(scripts: Scripts) -> None:
    scripts.configure("default", rate=5, bucket_size=1)
    scripts.add("default_a", "default_b", "default_c")
    scripts.lease()

    scripts.clock.advance(-3600)
    scripts.lease()
    scripts.clock.advance(0.2)

    assert len(scripts.lease()) == 1


def test_a_request_that_arrives_late_is_served_at_the_servers_time(scripts: Scripts) -> None:
    """It moves no bucket's clock back, and its leases do not expire at once."""
    seconds, _ = scripts.redis.time()
    scripts.configure("default", rate=0.001, bucket_size=2)
    scripts.add("default_a", "default_b")
    bucket = {"tokens": 1, "counted_at": f"{seconds:.6f}"}
    scripts.redis.hset(store.bucket_key("default"), mapping=bucket)

    def ask(number: int) -> Any:
        late = f"{seconds - 60:.6f}~4"
        return scripts.run("lease_tasks", late, 8.0, "w", number, 50, 50, 1, "default", "default")

    assert len(ask(100)[0]) == 1
    [(_, score)] = scripts.redis.zrange(f"{store.LEASED_PREFIX}default", 0, -1, withscores=True)
    assert 0 <= score - store.LEASE_SCORE_SHIFT_SECONDS - (seconds + 8) < 60
    assert ask(200)[0] == []
    assert float(scripts.redis.hget(store.bucket_key("default"), "counted_at")) >= seconds


def test_a_stale_entry_costs_no_token(scripts: Scripts) -> None:
    scripts.configure("default", rate=5, bucket_size=2)
    scripts.redis.rpush(store.ready_key("default"), "default_gone", "default_gone2")
    scripts.add("default_a", "default_b")

    tasks, _, more, _, _, _ = scripts.ask_lease()

    assert (tasks, more) == ([], 1)
    assert len(scripts.lease()) == 2


# --- places -----------------------------------------------------------------------------------


def test_no_more_than_max_concurrent_are_leased_at_once(scripts: Scripts) -> None:
    scripts.configure("default", most=3)
    scripts.add(*names(5))

    leases = scripts.lease()
    assert len(leases) == 3
    assert scripts.lease(token="another") == []

    scripts.ack(leases[0])
    assert len(scripts.lease(token="another")) == 1
    scripts.ack(leases[1], leases[2])
    assert len(scripts.lease()) == 1


@pytest.mark.parametrize("limits", [{"most": 30}, {"rate": 100.0, "bucket_size": 20}])
def test_where_a_limit_binds_no_more_is_leased_than_threads_are_free(
    scripts: Scripts, limits: dict[str, Any]
) -> None:
    scripts.configure("default", **limits)
    scripts.add(*names(40))

    assert len(scripts.lease(wanted=50, free=2)) == 2
    assert scripts.lease(wanted=50, free=0) == []


def test_what_one_worker_has_no_thread_for_wakes_another(scripts: Scripts) -> None:
    scripts.configure("default", most=30)
    scripts.add(*names(40))

    assert scripts.ask_lease(free=8)[2] == 0, "this worker is full"
    assert scripts.marker() == "ready"


def test_what_a_worker_filled_by_another_queue_leaves_wakes_others(scripts: Scripts) -> None:
    """It has taken the marker, and does not listen while it is full: it does not wake itself by this."""
    scripts.configure("other", most=1)
    scripts.add("default_a", "default_b", "other_a")

    tasks, due, more, _, _, _ = scripts.ask_lease("default", "other", wanted=3, free=2)

    assert [task[0] for task in tasks] == ["default_a", "default_b"]
    assert (due, more) == ("", 0)
    assert scripts.marker() == "ready"


def test_a_queue_with_all_its_places_taken_wakes_nobody(scripts: Scripts) -> None:
    scripts.configure("default", most=3)
    scripts.add(*names(5))

    assert scripts.ask_lease()[2] == 0
    assert scripts.marker() is None


def test_an_unthrottled_queue_prefetches_beyond_the_free_threads(scripts: Scripts) -> None:
    scripts.configure("default", rate=1000)
    scripts.add(*names(40))

    assert len(scripts.lease(wanted=30, free=1)) == 30


def test_tokens_that_the_rate_does_not_make_up_for_are_spent_on_tasks_that_start(scripts: Scripts) -> None:
    """A worker gives back what has waited for 0.05 s; its tokens are not given back."""
    scripts.configure("default", rate=100, bucket_size=500)
    scripts.add(*names(40))

    assert len(scripts.lease(wanted=30, free=8)) == 8


# --- entries that are no ready task -------------------------------------------------------------


def test_stale_and_doubled_entries_do_no_harm(scripts: Scripts) -> None:
    scripts.add("default_a", "default_b")
    scripts.redis.rpush(store.ready_key("default"), "default_a", "default_gone", "default_b", "default_a")

    assert [task for task, _ in scripts.lease()] == ["default_a", "default_b"]
    assert scripts.ready() == []
    assert len(scripts.entries()) == 2


@pytest.mark.parametrize("state", ["scheduled", "dead"])
def test_an_entry_of_a_task_that_is_elsewhere_is_dropped(scripts: Scripts, state: str) -> None:
    if state == "dead":
        scripts.dead("default_a")
    else:
        scripts.add("default_a", countdown=60)
    scripts.redis.rpush(store.ready_key("default"), "default_a")

    assert scripts.lease() == []
    assert scripts.state("default_a") == state


@pytest.mark.parametrize("job_id", ["0ffb1a2e-6b0c-4a0b-9a43-0ef2b6f1c001", "default_job", "other_job"])
def test_a_plain_rq_job_becomes_a_dead_letter_that_says_why(scripts: Scripts, job_id: str) -> None:
    scripts.add("default_a")
    scripts.put_rq_job(job_id)
    scripts.add("default_b")

    assert [task for task, _ in scripts.lease()] == ["default_a", "default_b"]

    assert scripts.redis.zscore(store.dead_key("default"), job_id) is not None
    assert scripts.record(job_id)["status"] == "failed"
    assert "plain RQ job" in scripts.record(job_id)["error"]


@pytest.mark.parametrize("queue_of_id", ["default", "nowhere"])
def test_a_member_whose_record_is_gone_counts_as_cancelled(scripts: Scripts, queue_of_id: str) -> None:
    scripts.sealed_batch("b", 2)
    scripts.redis.delete(store.record_key("default_b-0"))
    scripts.redis.rpush(store.ready_key("default"), f"{queue_of_id}_b-1")

    scripts.ack(*scripts.lease())

    assert scripts.counts("b") == {"total": 2, "done": 1, "cancelled": 1}


def test_a_lost_task_that_only_looks_like_a_member_cancels_nobody(scripts: Scripts) -> None:
    scripts.open_batch("report")
    scripts.fill_with("report", ["default_own"])
    scripts.redis.rpush(store.ready_key("default"), "default_report-0", "default_report-7", "default_none-1")

    scripts.lease()

    assert scripts.counts("report") == {"total": 1}


# --- tries ------------------------------------------------------------------------------------


def first_try_of(answer: list[Any]) -> float:
    [[_, _, flat]] = answer[0]
    return float(dict(zip(flat[::2], flat[1::2], strict=True))["first_try_at"])


def test_the_first_try_is_noted_once_and_told_from_the_first_time_on(scripts: Scripts) -> None:
    scripts.add("default_a")
    first = scripts.clock.now()

    answer = scripts.ask_lease()
    assert first_try_of(answer) == first
    [[task, lease, _]] = answer[0]
    scripts.run("retry_task", task, lease, f"{first + 5:.6f}", 500, scripts.now, 1)
    scripts.clock.advance(5)
    scripts.run("promote_due", scripts.now, 100, "default")

    assert first_try_of(scripts.ask_lease()) == first


def test_a_dead_letter_that_is_run_again_begins_anew(scripts: Scripts) -> None:
    scripts.dead("default_a", body="a body")
    scripts.redis.hset(store.record_key("default_a"), mapping={"status": "queued", "lost": 4, "crashes": 4})
    scripts.redis.rpush(store.ready_key("default"), "default_a")
    scripts.clock.advance(1000)

    [[_, _, flat]] = scripts.ask_lease()[0]

    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    assert not fields.keys() & {
        "dead_at",
        "error",
        "failures",
        "lost",
        "crashes",
        "suspect",
        "previous_response",
    }
    assert (fields["body"], float(fields["first_try_at"])) == ("a body", scripts.clock.now())
    assert scripts.state("default_a") == "leased"
    assert scripts.redis.ttl(store.record_key("default_a")) == -1


def test_a_redis_without_memory_gives_or_refuses_but_loses_nothing(scripts: Scripts) -> None:
    scripts.add(*names(5))
    scripts.redis.config_set("maxmemory", 1)
    try:
        leases = scripts.lease(wanted=3)
        scripts.ack(*leases)
    finally:
        scripts.redis.config_set("maxmemory", 0)

    assert scripts.ready() == names(5)[len(leases) :]


# --- what only a free thread may be given ----------------------------------------------------------


def test_a_task_that_was_left_for_want_of_a_thread_is_told_and_others_are_leased(scripts: Scripts) -> None:
    scripts.configure("other", most=1)
    scripts.add("default_a", "other_a")

    answer = scripts.ask_lease("default", "other", wanted=5, free=0)

    assert [task[0] for task in answer[0]] == ["default_a"]
    assert answer[5] == "other"
    answer = scripts.ask_lease("other", "default", wanted=5, free=1)
    assert [task[0] for task in answer[0]] == ["other_a"]
    assert answer[5] == ""


def test_a_worker_without_a_free_thread_takes_the_marker_that_asks_to_promote_and_no_other(
    scripts: Scripts,
) -> None:
    marker = store.wakeup_key("default")
    scripts.redis.delete(marker)
    scripts.redis.rpush(marker, "scheduled")
    assert scripts.ask_lease(free=0)[4] == 1
    assert scripts.redis.llen(marker) == 0

    scripts.redis.rpush(marker, "task")
    assert scripts.ask_lease(free=0)[4] == 0
    assert scripts.redis.llen(marker) == 1
