"""dead_letter_task: the last attempt failed; the task is kept to be looked at."""

from lastacross import store
from tests.support.scripts import Scripts

MONTH = 30 * 86400


def test_a_dead_letter_is_kept_with_its_reason_and_its_name_is_refused(scripts: Scripts) -> None:
    lease = scripts.leased("default_a", tombstone=777)

    assert scripts.run("dead_letter_task", scripts.now, "default_a", lease, 500, "ValueError: no") == 1

    record = scripts.record("default_a")
    assert scripts.state("default_a") == "dead"
    assert (record["error"], record["failures"], record["previous_response"]) == (
        "ValueError: no",
        "1",
        "500",
    )
    assert float(record["dead_at"]) == scripts.clock.now()
    assert scripts.tombstone_seconds("default_a") == 777


def test_it_is_forgotten_after_thirty_days(scripts: Scripts) -> None:
    scripts.dead("default_a")

    assert scripts.redis.ttl(store.record_key("default_a")) == MONTH
    assert scripts.redis.zscore(store.dead_key("default"), "default_a") == scripts.clock.now() + MONTH


def test_it_is_forgotten_when_the_settings_say_so(scripts: Scripts) -> None:
    scripts.redis.hset(store.settings_key("default"), "dead_letter_seconds", 60)
    scripts.dead("default_a")

    assert scripts.redis.ttl(store.record_key("default_a")) == 60
    assert scripts.redis.zscore(store.dead_key("default"), "default_a") == scripts.clock.now() + 60


def test_a_dead_member_fails_its_batch_and_completes_it_without_success(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1, complete="default_end", success="default_win")
    [(task, lease)] = scripts.lease()

    scripts.run("dead_letter_task", scripts.now, task, lease, "", "")

    assert scripts.counts("b") == {"total": 1, "failed": 1}
    assert scripts.ready() == ["default_end"]
    assert scripts.state("default_win") == "gone"


def test_an_answer_whose_lease_was_lost_changes_nothing(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    [(task, lease)] = scripts.lease()

    assert scripts.run("dead_letter_task", scripts.now, task, "w.999", 500, "") == 0
    assert scripts.state(task) == "leased"
    assert scripts.run("dead_letter_task", scripts.now, task, lease, 500, "") == 1
    assert scripts.run("dead_letter_task", scripts.now, task, lease, 500, "") == 0
    assert scripts.counts("b") == {"total": 1, "failed": 1}


def test_a_member_whose_record_was_deleted_while_it_ran_counts_as_cancelled(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    [(task, lease)] = scripts.lease()
    scripts.redis.delete(store.record_key(task))

    assert scripts.run("dead_letter_task", scripts.now, task, lease, 500, "") == 1

    assert scripts.state(task) == "gone"
    assert scripts.counts("b") == {"total": 1, "cancelled": 1}


def test_a_freed_place_wakes_a_worker_where_places_are_limited(scripts: Scripts) -> None:
    scripts.configure("default", most=1)
    scripts.add("default_a", "default_b")
    [(task, lease)] = scripts.lease()

    scripts.run("dead_letter_task", scripts.now, task, lease, 500, "")

    assert scripts.marker() == "ready"
