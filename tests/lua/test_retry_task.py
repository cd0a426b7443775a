"""retry_task: a failed attempt is followed by another one, later."""

import pytest

from lastacross import store
from lastacross.broker.record import Leased
from lastacross.broker.steps import Broker
from tests.support.scripts import Scripts


def test_a_failed_task_waits_until_its_eta(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")

    assert scripts.run("retry_task", "default_a", lease, "1800000003.250000", 503, scripts.now, 1) == 1

    assert scripts.state("default_a") == "scheduled"
    assert scripts.redis.zscore(store.scheduled_key("default"), "default_a") == 1_800_000_003.25
    record = scripts.record("default_a")
    assert (record["failures"], record["previous_response"]) == ("1", "503")
    assert record["eta"] == "1800000003.250000"
    assert scripts.marker() == "scheduled"


def test_an_attempt_without_an_answer_leaves_the_previous_response_as_it_was(scripts: Scripts) -> None:
    lease = scripts.leased("default_a", previous_response="418", failures=2)

    scripts.run("retry_task", "default_a", lease, "1800000003", "", scripts.now, 1)

    assert scripts.record("default_a").items() >= {"previous_response": "418", "failures": "3"}.items()


def test_living_through_a_failure_settles_what_crashes_were_held_against_a_task(scripts: Scripts) -> None:
    lease = scripts.leased("default_a", crashes=4, lost=4, suspect=1)

    scripts.run("retry_task", "default_a", lease, "1800000003", 500, scripts.now, 1)

    record = scripts.record("default_a")
    assert not record.keys() & {"crashes", "suspect", "lease", "started"}
    assert record["lost"] == "4"


def test_a_task_that_had_to_be_killed_stays_suspect(scripts: Scripts) -> None:
    lease = scripts.leased("default_a", crashes=1, lost=1, suspect=1)

    scripts.run("retry_task", "default_a", lease, "1800000003", 500, scripts.now, 1, 1)

    record = scripts.record("default_a")
    assert record["suspect"] == "1"
    assert "crashes" not in record


def test_an_answer_whose_lease_was_lost_changes_nothing(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")

    assert scripts.run("retry_task", "default_a", "w.999", "1800000003", 500, scripts.now, 1) == 0
    assert scripts.state("default_a") == "leased"
    assert scripts.run("retry_task", "default_a", lease, "1800000003", 500, scripts.now, 1) == 1
    assert scripts.run("retry_task", "default_a", lease, "1800000009", 500, scripts.now, 1) == 0
    assert scripts.record("default_a")["failures"] == "1"


def test_a_member_whose_record_was_deleted_while_it_ran_counts_as_cancelled(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    [(task, lease)] = scripts.lease()
    scripts.redis.delete(store.record_key(task))

    assert scripts.run("retry_task", task, lease, "1800000003", 500, scripts.now, 1) == 1

    assert scripts.state(task) == "gone"
    assert scripts.counts("b") == {"total": 1, "cancelled": 1}


def test_a_member_of_a_cancelled_batch_is_not_run_again(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1, complete="default_b-complete")
    [(task, lease)] = scripts.lease()
    scripts.run("cancel_batch", scripts.now, "b", 0, 100)
    assert not scripts.is_finished("b")

    assert scripts.run("retry_task", task, lease, "1800000003", 500, scripts.now, 1) == 1

    assert scripts.state(task) == "gone"
    assert scripts.counts("b") == {"total": 1, "cancelled": 1}
    assert scripts.ready() == ["default_b-complete"]


def test_the_chosen_name_of_a_dropped_member_stays_refused(scripts: Scripts) -> None:
    scripts.open_batch("b")
    scripts.fill_with("b", ["default_a"], tombstone=777)
    [(task, lease)] = scripts.lease()
    scripts.run("cancel_batch", scripts.now, "b", 0, 100)

    assert scripts.run("retry_task", task, lease, "1800000003", 500, scripts.now, 1) == 1

    assert scripts.state("default_a") == "gone"
    assert scripts.tombstone_seconds("default_a") == 777
    assert scripts.add("default_a") == [11]


@pytest.mark.parametrize(("reached", "unreached"), [(1, None), (0, "1")])
def test_every_attempt_counts_as_a_failure_whether_or_not_it_reached_the_application(
    scripts: Scripts, reached: int, unreached: str | None
) -> None:
    lease = scripts.leased("default_a")

    scripts.run("retry_task", "default_a", lease, "1800000003", "", scripts.now, reached)

    record = scripts.record("default_a")
    assert (record["failures"], record.get("unreached")) == ("1", unreached)


def test_a_retry_wakes_another_service_that_waits_for_the_freed_place(scripts: Scripts) -> None:
    scripts.run("register_service", "counter")
    scripts.configure("default", most=1)
    lease = scripts.leased("default_a")
    scripts.add("default_b", target="counter")
    scripts.redis.delete(store.wakeup_key("counter"))

    scripts.run("retry_task", "default_a", lease, "1800000003", 500, scripts.now, 1)

    assert scripts.redis.lrange(store.wakeup_key("counter"), 0, -1) == [b"ready"]


def test_a_dropped_member_wakes_a_worker_for_the_freed_place(scripts: Scripts) -> None:
    scripts.configure("default", most=1)
    scripts.sealed_batch("b", 1)
    [(task, lease)] = scripts.lease()
    scripts.run("cancel_batch", scripts.now, "b", 0, 100)
    scripts.add("default_next")
    scripts.marker()

    scripts.run("retry_task", task, lease, "1800000003", 500, scripts.now, 1)

    assert scripts.marker() == "ready"


def test_a_dead_letter_of_a_cancelled_batch_that_is_run_again_is_not_lost(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 2)
    [(task, lease), _] = scripts.lease()
    scripts.run("dead_letter_task", scripts.now, task, lease, 500, "answered 500")
    scripts.run("cancel_batch", scripts.now, "b", 0, 100)
    scripts.redis.hset(store.record_key(task), "status", "queued")
    scripts.redis.rpush(store.ready_key("default"), task)
    [(_, lease)] = scripts.lease()

    assert scripts.run("retry_task", task, lease, "1800000003", 500, scripts.now, 1) == 1

    assert scripts.state(task) == "scheduled"
    assert scripts.counts("b") == {"total": 2, "failed": 1}


@pytest.mark.parametrize(("was_reached", "unreached"), [(True, None), (False, "1")])
def test_the_broker_says_whether_the_attempt_reached_the_application(
    scripts: Scripts, was_reached: bool, unreached: str | None
) -> None:
    lease = scripts.leased("default_a")
    task = Leased("default_a", lease, {})

    assert Broker(scripts.store).retry(task, scripts.clock.now() + 3, 503, was_reached=was_reached)

    assert scripts.record("default_a").get("unreached") == unreached
