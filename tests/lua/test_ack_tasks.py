"""ack_tasks: tasks that are done are deleted, and their bits set, in one step."""

import pytest

from lastacross import store
from tests.support.scripts import Scripts


def test_a_done_task_is_gone_and_leaves_its_tombstone(scripts: Scripts) -> None:
    lease = scripts.leased("default_a", tombstone=777)

    assert scripts.ack(("default_a", lease)) == [1]

    assert scripts.state("default_a") == "gone"
    assert scripts.tombstone_seconds("default_a") == 777


def test_a_task_whose_caller_gave_no_name_leaves_nothing(scripts: Scripts) -> None:
    scripts.ack(("default_a", scripts.leased("default_a")))

    assert scripts.tombstone_seconds("default_a") is None
    assert scripts.redis.exists(store.record_key("default_a")) == 0


def test_each_task_has_an_answer_of_its_own(scripts: Scripts) -> None:
    scripts.add("default_a", "default_b", "other_c")
    leases = scripts.lease("default", "other")

    assert scripts.ack(leases[0], ("default_b", "w.999"), leases[2], leases[0]) == [1, 0, 1, 0]

    assert [scripts.state(task) for task, _ in leases] == ["gone", "leased", "gone"]


@pytest.mark.parametrize("how", ["rescued", "leased again", "deleted", "dead"])
def test_an_answer_whose_lease_was_lost_changes_nothing(scripts: Scripts, how: str) -> None:
    scripts.sealed_batch("b", 1)
    [(task, lease)] = scripts.lease()
    if how in ("rescued", "leased again"):
        scripts.clock.advance(8)
        scripts.run("rescue_expired", scripts.now, 100, "default")
    if how == "leased again":
        scripts.lease(token="another")
    elif how == "deleted":
        scripts.run("delete_tasks", scripts.now, task)
    elif how == "dead":
        scripts.run("dead_letter_task", scripts.now, task, lease, "", "")
    state, counts = scripts.state(task), scripts.counts("b")

    assert scripts.ack((task, lease)) == [0]

    assert (scripts.state(task), scripts.counts("b")) == (state, counts)


def test_a_lease_that_ran_out_unnoticed_is_still_good(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")
    scripts.clock.advance(60)

    assert scripts.ack(("default_a", lease)) == [1]


def test_the_last_member_fires_the_completion_once(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 2, complete="default_end", success="default_win")
    leases = scripts.lease()

    scripts.ack(leases[0])
    assert scripts.state("default_end") == "deferred"
    scripts.ack(leases[1])
    scripts.ack(*leases)

    assert scripts.counts("b") == {"total": 2, "done": 2}
    assert scripts.ready() == ["default_end", "default_win"]
    assert scripts.marker() == "ready"


@pytest.mark.parametrize("has_child", [False, True])
def test_a_member_that_ends_twice_does_not_stand_in_for_another(scripts: Scripts, has_child: bool) -> None:
    scripts.sealed_batch("b", 3, complete="default_end")
    twice, other, last = scripts.lease()
    if has_child:
        scripts.open_batch("child", parent="b:1")
        scripts.seal("child")
    scripts.run("dead_letter_task", scripts.now, *twice, 500, "answered 500")
    scripts.run("retry_dead", scripts.now, twice[0])

    scripts.ack(*scripts.lease(), other)

    assert scripts.counts("b") == {"total": 3, "done": 2}
    assert scripts.state("default_end") == "deferred"
    scripts.ack(last)
    assert scripts.counts("b") == {"total": 3, "done": 3}
    assert scripts.ready() == ["default_end"]


def test_a_member_whose_record_was_deleted_while_it_ran_counts_as_cancelled(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    [lease] = scripts.lease()
    scripts.redis.delete(store.record_key("default_b-0"))

    scripts.ack(lease)

    assert scripts.counts("b") == {"total": 1, "cancelled": 1}
    assert scripts.is_finished("b")


def test_a_freed_place_wakes_a_worker_where_places_are_limited(scripts: Scripts) -> None:
    scripts.configure("default", most=1)
    scripts.add("default_a", "default_b")
    [lease] = scripts.lease()
    assert scripts.marker() is None

    scripts.ack(lease)

    assert scripts.marker() == "ready"


@pytest.mark.parametrize("most", ["", 1])
def test_nobody_is_woken_for_nothing(scripts: Scripts, most: int | str) -> None:
    scripts.configure("default", most=most)
    scripts.ack(("default_a", scripts.leased("default_a")))

    assert scripts.marker() is None
