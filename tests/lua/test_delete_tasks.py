"""delete_tasks: tasks are forgotten, wherever they wait."""

import pytest

from lastacross import store
from tests.support.scripts import Scripts


@pytest.mark.parametrize("state", ["ready", "scheduled", "leased", "dead"])
def test_a_task_is_deleted_from_any_place_and_its_name_stays_refused(scripts: Scripts, state: str) -> None:
    if state == "dead":
        scripts.dead("default_a", tombstone=777)
    elif state == "leased":
        scripts.leased("default_a", tombstone=777)
    else:
        scripts.add("default_a", countdown=9 if state == "scheduled" else None, tombstone=777)
    assert scripts.state("default_a") == state

    assert scripts.run("delete_tasks", scripts.now, "default_a") == [1]

    assert scripts.state("default_a") == "gone"
    assert scripts.tombstone_seconds("default_a") == 777


def test_what_is_not_there_is_told_for_each_task(scripts: Scripts) -> None:
    scripts.add("default_a")

    assert scripts.run("delete_tasks", scripts.now, "default_none", "default_a", "default_a") == [0, 1, 0]
    assert scripts.tombstone_seconds("default_none") is None


def test_a_deleted_member_counts_as_cancelled_once(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 2, complete="default_end", success="default_win")

    scripts.run("delete_tasks", scripts.now, "default_b-0", "default_b-1", "default_b-1")

    assert scripts.counts("b") == {"total": 2, "cancelled": 2}
    assert scripts.ready() == ["default_end"]
    assert scripts.state("default_win") == "gone"


def test_deleting_a_dead_member_leaves_it_counted_as_failed(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    [(task, lease)] = scripts.lease()
    scripts.run("dead_letter_task", scripts.now, task, lease, "", "")

    assert scripts.run("delete_tasks", scripts.now, task) == [1]
    assert scripts.counts("b") == {"total": 1, "failed": 1}


def test_what_waits_for_a_batch_is_not_a_task_yet(scripts: Scripts) -> None:
    scripts.open_batch("b", complete="default_end")

    assert scripts.run("delete_tasks", scripts.now, "default_end") == [0]
    assert scripts.state("default_end") == "deferred"


def test_in_a_very_long_list_the_entry_stays_and_does_no_harm(scripts: Scripts) -> None:
    scripts.add("default_a")
    scripts.redis.rpush(store.ready_key("default"), *[f"default_{index}" for index in range(10_000)])

    assert scripts.run("delete_tasks", scripts.now, "default_a") == [1]
    assert scripts.redis.llen(store.ready_key("default")) == 10_001
    assert scripts.lease(wanted=1) == []
