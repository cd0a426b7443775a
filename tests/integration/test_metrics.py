"""The counts of attempts per queue and handler, in a process and in Redis."""

import math
from typing import Any

import pytest

from lastacross import deferred, metrics, taskqueue
from lastacross.errors import StoreUnavailableError
from lastacross.metrics import BUCKETS, HANDLER, KEPT_MINUTES, OTHER, QUEUE, Attempt, Counts, Recorder
from lastacross.store import METRICS_PREFIX, Store, metrics_hour_key, metrics_total_key, record_key
from tests.support.clock import StoppedClock
from tests.support.lab import running_lab
from tests.support.processes import wait_until

NOW = 1_800_000_000.0
"""The beginning of a minute and of an hour."""


def attempt(
    queue: str = "mail",
    handler: str = "workers.send",
    outcome: str = "done",
    seconds: float = 0.003,
    wait_seconds: float = 0.02,
) -> Attempt:
    """An attempt that ran for 3 ms after it had waited 20 ms."""
    return (queue, handler, outcome, seconds, wait_seconds)


def record(store: Store, *attempts: Attempt) -> None:
    """Count attempts as one process in one second does."""
    recorder = Recorder(store)
    recorder.record(attempts)
    recorder.flush()


def in_buckets(**numbers: int) -> tuple[int, ...]:
    """A histogram with these numbers, by ``b<bucket>``."""
    return tuple(numbers.get(f"b{bucket}", 0) for bucket in range(BUCKETS))


def test_attempts_are_counted_per_queue_and_handler_and_minute(
    test_store: Store, clock: StoppedClock
) -> None:
    record(test_store, attempt(), attempt(outcome="retried", seconds=0.5), attempt("web", "/tasks/.*"))
    clock.advance(60)
    record(test_store, attempt())

    found = metrics.minutes(test_store, QUEUE, "mail", NOW, NOW + 120)
    assert list(found) == [NOW, NOW + 60]
    first = found[int(NOW)]
    assert first.outcomes == {"done": 1, "retried": 1, "dead": 0, "crashed": 0, "lost": 0}
    assert first.attempts == 2
    assert (first.seconds, first.wait_seconds) == (0.503, 0.04)
    assert first.times == in_buckets(b2=1, b9=1)
    assert first.waits == in_buckets(b5=2)
    assert found[int(NOW) + 60].attempts == 1
    assert metrics.minutes(test_store, HANDLER, "/tasks/.*", NOW, NOW + 60)[int(NOW)].attempts == 1
    assert metrics.names(test_store, QUEUE) == ["mail", "web"]
    assert metrics.names(test_store, HANDLER) == ["/tasks/.*", "workers.send"]


def test_processes_add_to_the_same_minute(test_store: Store) -> None:
    first, second = Recorder(test_store), Recorder(test_store)
    first.record([attempt()] * 300)
    second.record([attempt(seconds=0.1), attempt(outcome="dead")])
    first.flush()
    second.flush()

    counts = metrics.minutes(test_store, QUEUE, "mail", NOW, NOW + 60)[int(NOW)]

    assert counts.outcomes["done"] == 301
    assert counts.outcomes["dead"] == 1
    assert counts.times == in_buckets(b2=301, b7=1)
    assert metrics.totals(test_store, QUEUE) == {"mail": counts}


def test_totals_never_decrease_while_minutes_go(test_store: Store, clock: StoppedClock) -> None:
    record(test_store, attempt())
    clock.advance(3600)
    record(test_store, attempt(outcome="crashed"))

    totals = metrics.totals(test_store, HANDLER)

    assert list(totals) == ["workers.send"]
    assert totals["workers.send"].outcomes["done"] == totals["workers.send"].outcomes["crashed"] == 1
    kept = test_store.redis.ttl(metrics_hour_key(QUEUE, int(NOW // 3600), "mail"))
    assert KEPT_MINUTES * 60 < kept <= (KEPT_MINUTES + 60) * 60


def test_only_the_wanted_minutes_are_read(test_store: Store, clock: StoppedClock) -> None:
    for _ in range(5):
        record(test_store, attempt())
        clock.advance(60)

    def read(since: float, until: float) -> list[float]:
        return [at - NOW for at in metrics.minutes(test_store, QUEUE, "mail", since, until)]

    assert read(NOW + 61, NOW + 180) == [60, 120]
    assert read(NOW + 61, NOW + 181) == [60, 120, 180]
    assert read(NOW, NOW) == []
    assert read(0, NOW + 400) == [0, 60, 120, 180, 240]
    several = metrics.minutes_of_all(test_store, QUEUE, ["mail", "unknown"], NOW, NOW + 60)
    assert {name: list(found) for name, found in several.items()} == {"mail": [NOW], "unknown": []}


def test_names_beyond_the_limit_are_counted_together_until_one_is_unused(
    test_store: Store, clock: StoppedClock
) -> None:
    record(test_store, *(attempt(handler=f"f{number}") for number in range(250)))
    assert len(metrics.names(test_store, HANDLER)) == metrics.LIMITS[HANDLER] == 200
    totals = metrics.totals(test_store, HANDLER)
    assert (len(totals), totals[OTHER].attempts) == (201, 50)
    assert metrics.minutes(test_store, HANDLER, OTHER, NOW, NOW + 60)[int(NOW)].attempts == 50

    clock.advance(KEPT_MINUTES * 60)
    record(test_store, *(attempt(handler=f"f{number}") for number in range(1, 200)), attempt(handler="new"))

    assert "new" in metrics.names(test_store, HANDLER)
    assert {"f0", "new"} & metrics.totals(test_store, HANDLER).keys() == {"new"}


def test_an_attempt_that_reached_no_handler_is_counted_for_its_queue_only(test_store: Store) -> None:
    record(test_store, attempt(handler="", wait_seconds=-0.5))

    assert metrics.names(test_store, HANDLER) == []
    counts = metrics.totals(test_store, QUEUE)["mail"]
    assert (counts.attempts, counts.waits, counts.wait_seconds) == (1, in_buckets(b0=1), 0.0)


def test_times_without_an_upper_bound_are_in_the_last_bucket(test_store: Store) -> None:
    record(test_store, attempt(seconds=0.0, wait_seconds=1e6), attempt(seconds=16777.3))

    counts = metrics.totals(test_store, QUEUE)["mail"]

    assert counts.times == in_buckets(b0=1, b25=1)
    assert counts.waits == in_buckets(b5=1, b25=1)


def test_counts_wait_while_redis_is_unavailable(test_store: Store) -> None:
    recorder = Recorder(Store("redis://127.0.0.1:1", StoppedClock()))
    recorder.record([attempt()])
    with pytest.raises(StoreUnavailableError):
        recorder.flush()
    recorder.record([attempt()])

    recorder._store = test_store
    recorder.flush()
    recorder.flush()

    assert metrics.totals(test_store, QUEUE)["mail"].attempts == 2


def test_the_thread_writes_the_rest_when_it_is_stopped(test_store: Store) -> None:
    recorder = Recorder(test_store)
    recorder.start()
    assert recorder.is_alive
    recorder.record([attempt()])

    recorder.stop()

    assert not recorder.is_alive
    assert metrics.totals(test_store, QUEUE)["mail"].attempts == 1


def test_damaged_counts_begin_again(test_store: Store) -> None:
    key = metrics_hour_key(QUEUE, int(NOW // 3600), "mail")
    test_store.redis.hset(key, mapping={"0": b"\xc1", "w0": b"\x92\xa1x\x01"})
    test_store.redis.set(metrics_total_key(QUEUE), "text")
    test_store.redis.set(METRICS_PREFIX + "names:handler", "text")
    assert metrics.totals(test_store, QUEUE) == {}
    assert metrics.names(test_store, HANDLER) == []
    assert metrics.minutes(test_store, QUEUE, "mail", NOW, NOW + 60) == {int(NOW): Counts()}

    record(test_store, attempt())

    assert metrics.minutes(test_store, QUEUE, "mail", NOW, NOW + 60)[int(NOW)].attempts == 1
    assert metrics.totals(test_store, QUEUE)["mail"].attempts == 1
    assert metrics.names(test_store, HANDLER) == ["workers.send"]
    assert len(test_store.take_damages()) == 2


def test_a_minute_takes_the_promised_memory(test_store: Store, clock: StoppedClock) -> None:
    spread = [attempt(seconds=2.0**bits / 1000, wait_seconds=2.0**bits / 1000) for bits in range(25)]
    for _ in range(60):
        record(test_store, *(attempt(seconds=s, wait_seconds=2 * s) for s in (0.001, 0.004, 0.009) * 30))
        record(test_store, *(attempt("spread", "", *each[2:]) for each in spread))
        clock.advance(60)
    hour = int(NOW // 3600)

    redis: Any = test_store.redis
    usual = redis.memory_usage(metrics_hour_key(QUEUE, hour, "mail"), samples=0) / 60
    most = redis.memory_usage(metrics_hour_key(QUEUE, hour, "spread"), samples=0) / 60

    print(f"measured: {usual:.0f} bytes a minute, {most:.0f} with spread times; promised: 80 and 350")
    assert usual <= 80
    assert most <= 350


@pytest.mark.parametrize(
    ("numbers", "fraction", "expected"),
    [
        ({}, 0.5, None),
        ({"b3": 10}, 0.5, 0.006),
        ({"b0": 50, "b3": 50}, 0.5, 0.001),
        ({"b0": 50, "b3": 50}, 0.95, 0.0076),
        ({"b3": 10}, 1.0, 0.008),
        ({"b3": 10}, 0.0, 0.004),
        ({"b25": 1}, 0.5, 16777.216),
    ],
    ids=["none", "middle", "edge", "within", "highest", "lowest", "unbounded"],
)
def test_quantiles_are_estimated_within_a_bucket(
    numbers: dict[str, int], fraction: float, expected: float | None
) -> None:
    assert metrics.quantiles(in_buckets(**numbers), [fraction]) == [
        expected if expected is None else pytest.approx(expected)
    ]


def test_counts_of_several_minutes_are_added_up(test_store: Store, clock: StoppedClock) -> None:
    for seconds in (0.003, 70.0):
        record(test_store, attempt(seconds=seconds))
        clock.advance(60)

    whole = metrics.total(metrics.minutes(test_store, QUEUE, "mail", NOW, NOW + 120).values())

    assert whole == metrics.totals(test_store, QUEUE)["mail"]
    assert metrics.total([]) == Counts()


# --- counted by workers -------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_counts_how_its_attempts_ended_and_which_handler_ran() -> None:
    with running_lab() as lab:
        with lab.workers(1):
            taskqueue.add(url="/work", params={"seconds": "0.05"})
            taskqueue.add(url="/work", queue_name="limited", params={"statuses": "500"})
            deferred.defer(math.sqrt, 2)
            wait_until(lambda: lab.dead("limited") and not lab.open_tasks(), 60, "the tasks to end")
        # The worker has written the rest before it ended.
        queues = metrics.totals(lab.store, QUEUE)
        handlers = metrics.totals(lab.store, HANDLER)

    assert queues["default"].outcomes == {"done": 2, "retried": 0, "dead": 0, "crashed": 0, "lost": 0}
    assert queues["limited"].outcomes == {"done": 0, "retried": 1, "dead": 1, "crashed": 0, "lost": 0}
    assert {name: counts.attempts for name, counts in handlers.items()} == {"/.*": 3, "math.sqrt": 1}
    assert 0.05 <= queues["default"].seconds < 20
    assert sum(queues["default"].times) == sum(queues["default"].waits) == 2


@pytest.mark.slow
def test_a_suspect_is_counted_with_its_handler_and_a_crash_without_one() -> None:
    with running_lab() as lab:
        with lab.workers(1):
            taskqueue.add(url="/poison", name="poison")
            wait_until(lambda: lab.dead(), 60, "the task to be poison")
            taskqueue.add(url="/work", name="innocent", countdown=3600)
            lab.store.redis.hset(record_key("default_innocent"), "suspect", "1")
            taskqueue.Queue().run_now("innocent")
            lab.wait_for(1, "/work", 60)
        counts = metrics.totals(lab.store, QUEUE)["default"]
        handlers = metrics.totals(lab.store, HANDLER)

    # The first crash killed the worker process itself.
    assert (counts.outcomes["crashed"], counts.outcomes["done"]) == (4, 1)
    assert {name: found.attempts for name, found in handlers.items()} == {"/.*": 1}


def test_the_sum_over_all_queues_is_counted_as_well(test_store: Store, clock: StoppedClock) -> None:
    record(test_store, attempt(), attempt("web", outcome="dead"))
    clock.advance(60)
    record(test_store, attempt("web"))

    found = metrics.minutes(test_store, metrics.EVERYTHING, metrics.QUEUES, NOW, NOW + 120)

    assert [counts.outcomes["done"] for counts in found.values()] == [1, 1]
    assert [counts.outcomes["dead"] for counts in found.values()] == [1, 0]
    assert set(metrics.totals(test_store, QUEUE)) == {"mail", "web"}


def test_whole_hours_of_all_names_are_read_together(test_store: Store, clock: StoppedClock) -> None:
    for _ in range(4):
        record(test_store, attempt(), attempt(handler="/tasks/.*", seconds=0.2))
        clock.advance(1800)

    found = metrics.hours(test_store, HANDLER, NOW, NOW + 7200)
    later = metrics.hours(test_store, HANDLER, NOW + 1, NOW + 7200)

    assert {name: counts.attempts for name, counts in found.items()} == {"/tasks/.*": 4, "workers.send": 4}
    assert found["/tasks/.*"].times == in_buckets(b8=4)
    assert {name: counts.attempts for name, counts in later.items()} == {"/tasks/.*": 2, "workers.send": 2}
