"""delete_dead: dead letters are deleted, and tasks in other states stay."""

import pytest

from lastacross import store
from tests.support.scripts import Scripts


def test_a_dead_letter_goes_and_its_name_stays_refused(scripts: Scripts) -> None:
    scripts.dead("default_a", tombstone=777)
    group = scripts.record("default_a")["dead_group"]
    # The tombstone that it left when it died has expired.
    scripts.redis.delete(store.tombstone_key("default_a"))

    assert scripts.run("delete_dead", scripts.now, "default_a", "default_a", "default_none") == [1, 0, 0]

    assert scripts.state("default_a") == "gone"
    assert scripts.tombstone_seconds("default_a") == 777
    assert scripts.redis.exists(store.DEAD_GROUPS, store.dead_group_key(group)) == 0


@pytest.mark.parametrize("state", ["ready", "scheduled", "leased", "deferred"])
def test_a_task_in_another_state_stays(scripts: Scripts, state: str) -> None:
    if state == "leased":
        scripts.leased("default_a", tombstone=777)
    elif state == "deferred":
        scripts.open_batch("b", complete="default_a")
    else:
        scripts.add("default_a", countdown=9 if state == "scheduled" else None, tombstone=777)
    before = scripts.record("default_a")

    assert scripts.run("delete_dead", scripts.now, "default_a") == [0]

    assert (scripts.state("default_a"), scripts.record("default_a")) == (state, before)


def test_a_letter_that_was_retried_stays(scripts: Scripts) -> None:
    scripts.dead("default_a")
    assert scripts.run("retry_dead", scripts.now, "default_a") == [1]

    assert scripts.run("delete_dead", scripts.now, "default_a") == [0]

    assert scripts.state("default_a") == "ready"


def test_a_job_that_failed_in_rq_stays(scripts: Scripts) -> None:
    """It has no time of death, because it is not a dead letter."""
    scripts.put_rq_job("job")
    scripts.redis.hset(store.record_key("job"), "status", "failed")

    assert scripts.run("delete_dead", scripts.now, "job") == [0]

    assert scripts.redis.exists(store.record_key("job")) == 1


def test_a_dead_member_stays_counted_as_failed(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    [(task, lease)] = scripts.lease()
    scripts.run("dead_letter_task", scripts.now, task, lease, "", "")

    assert scripts.run("delete_dead", scripts.now, task) == [1]

    assert scripts.counts("b") == {"total": 1, "failed": 1}


def test_a_dead_member_that_was_never_counted_completes_its_batch(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1, complete="default_end")
    # Another program has made it a dead letter.
    scripts.redis.delete(store.ready_key("default"))
    scripts.redis.hset(store.record_key("default_b-0"), mapping={"status": "failed", "dead_at": scripts.now})
    scripts.redis.zadd(store.dead_key("default"), {"default_b-0": 2e9})

    assert scripts.run("delete_dead", scripts.now, "default_b-0") == [1]

    assert scripts.counts("b") == {"total": 1, "cancelled": 1}
    assert scripts.state("default_end") == "ready"
