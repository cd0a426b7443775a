"""add_members: tasks join an open batch, each index once."""

import pytest

from lastacross import store
from tests.support.scripts import Scripts


def test_members_are_ready_or_scheduled_and_counted(scripts: Scripts) -> None:
    scripts.open_batch("b")

    assert scripts.fill("b", 2) == [0, 0]
    assert scripts.fill("b", 1, first=2, countdown=9) == [0]

    assert scripts.counts("b") == {"total": 3}
    assert scripts.ready() == ["default_b-0", "default_b-1"]
    assert scripts.state("default_b-2") == "scheduled"
    assert scripts.marker() == "scheduled"


@pytest.mark.parametrize("meanwhile", ["nothing", "done", "dead", "deleted"])
def test_an_index_that_was_added_is_skipped_whatever_became_of_its_task(
    scripts: Scripts, meanwhile: str
) -> None:
    scripts.open_batch("b")
    scripts.fill("b", 1)
    if meanwhile == "deleted":
        scripts.run("delete_tasks", scripts.now, "default_b-0")
    elif meanwhile != "nothing":
        [(task, lease)] = scripts.lease()
        if meanwhile == "done":
            scripts.ack((task, lease))
        else:
            scripts.run("dead_letter_task", scripts.now, task, lease, "", "")

    assert scripts.fill("b", 2) == [1, 0]

    assert scripts.counts("b")["total"] == 2
    assert scripts.ready().count("default_b-1") == 1
    assert scripts.ready().count("default_b-0") == (1 if meanwhile == "nothing" else 0)


def test_a_batch_that_is_not_known_takes_nothing(scripts: Scripts) -> None:
    assert scripts.fill("b", 2) == -1
    assert scripts.ready() == []


def test_a_sealed_batch_takes_nothing_new_but_knows_its_members(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 2)

    assert scripts.fill("b", 2) == [1, 1]
    assert scripts.fill("b", 3) == -2
    assert scripts.counts("b") == {"total": 2}


def test_a_cancelled_batch_counts_what_comes_late_as_cancelled(scripts: Scripts) -> None:
    scripts.open_batch("b")
    scripts.fill("b", 1)
    scripts.run("cancel_batch", scripts.now, "b", 0, 100)

    assert scripts.fill("b", 3) == [1, 2, 2]

    assert scripts.counts("b") == {"total": 3, "cancelled": 3}
    assert scripts.lease() == []


def test_a_name_that_is_taken_outside_of_the_batch_is_refused_and_not_counted(scripts: Scripts) -> None:
    scripts.add("default_lives")
    scripts.ack(("default_lived", scripts.leased("default_lived", tombstone=777)))
    scripts.open_batch("b")

    assert scripts.fill_with("b", ["default_a", "default_lives", "default_lived"]) == [0, 10, 11]

    assert scripts.counts("b") == {"total": 1}


def test_the_name_of_a_dead_letter_older_than_its_tombstone_is_free(scripts: Scripts) -> None:
    scripts.dead("default_a", tombstone=777)
    scripts.open_batch("b")
    assert scripts.fill_with("b", ["default_a"]) == [11]
    scripts.redis.delete(store.tombstone_key("default_a"))

    assert scripts.fill_with("b", ["default_a"]) == [0]

    assert scripts.state("default_a") == "ready"
    assert "dead_at" not in scripts.record("default_a")


def test_a_member_with_a_name_is_known_by_its_index_when_filling_is_repeated(scripts: Scripts) -> None:
    scripts.open_batch("b")
    scripts.fill_with("b", ["default_a"], tombstone=777)
    assert scripts.fill_with("b", ["default_a"], tombstone=777) == [1]
    scripts.ack(*scripts.lease())

    assert scripts.fill_with("b", ["default_a"], tombstone=777) == [1]
    assert scripts.counts("b") == {"total": 1, "done": 1}


def test_one_name_twice_in_a_batch_is_refused(scripts: Scripts) -> None:
    scripts.open_batch("b")

    assert scripts.fill_with("b", ["default_a", "default_a"]) == [0, 10]


def test_a_member_without_a_name_does_not_overwrite_somebodys_task(scripts: Scripts) -> None:
    scripts.add("default_b-1", body="somebody's")
    scripts.open_batch("b")

    assert scripts.fill("b", 3) == [0, 10, 0]

    assert scripts.record("default_b-1")["body"] == "somebody's"
    assert scripts.ready().count("default_b-1") == 1
