"""sweep_batches: members whose record is gone count as cancelled, and abandoned batches are found."""

import pytest

from lastacross import store
from lastacross.broker import BatchSteps
from tests.support.scripts import Lease, Scripts


def sweep(scripts: Scripts, most: int = 1000) -> list[list[int]]:
    """Call until all was seen; the cursors on the way."""
    cursors = [[0, 0]]
    while len(cursors) == 1 or cursors[-1] != [0, 0]:
        cursors.append(list(scripts.run("sweep_batches", scripts.now, *cursors[-1], most))[:2])
        assert len(cursors) < 100
    return cursors[1:]


@pytest.mark.parametrize("how", ["deleted", "canceled", "deleted and noted upon"])
def test_members_that_another_tool_took_away_complete_their_batch(scripts: Scripts, how: str) -> None:
    scripts.open_batch("b", complete="default_end", success="default_win")
    scripts.fill("b", 2)
    scripts.fill_with("b", ["default_named"], first=2)
    scripts.seal("b")
    scripts.redis.delete(store.ready_key("default"))
    for task in ("default_b-0", "default_b-1", "default_named"):
        if how != "canceled":
            scripts.redis.delete(store.record_key(task))
        if how != "deleted":
            scripts.redis.hset(
                store.record_key(task), "status", "canceled" if how == "canceled" else "failed"
            )

    sweep(scripts)

    assert scripts.counts("b") == {"total": 3, "cancelled": 3}
    assert scripts.ready() == ["default_end"]


def test_members_that_live_or_have_ended_are_left_alone(scripts: Scripts) -> None:
    scripts.open_batch("b")
    scripts.fill("b", 4)
    scripts.fill("b", 1, first=4, countdown=9)
    done, dead, _ = scripts.lease(wanted=3)
    scripts.ack(done)
    scripts.run("dead_letter_task", scripts.now, *dead, 500, "")

    assert sweep(scripts) == [[0, 0]]

    assert scripts.counts("b") == {"total": 5, "done": 1, "failed": 1}


def test_a_member_that_waits_for_its_children_is_not_lost(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    [lease] = scripts.lease()
    scripts.open_batch("child", parent="b:0")
    scripts.ack(lease)

    sweep(scripts)
    assert not scripts.is_finished("b")
    scripts.seal("child")

    assert scripts.counts("b") == {"total": 1, "done": 1}


def open_child_of_a_member(scripts: Scripts) -> Lease:
    """A sealed batch whose one member has begun to fill a batch of its own; its lease."""
    scripts.sealed_batch("b", 1, complete="default_end")
    [lease] = scripts.lease()
    scripts.open_batch("child", parent="b:0")
    scripts.fill("child", 2)
    return lease


@pytest.mark.parametrize("how", ["deleted", "purged", "dead and then deleted", "canceled by RQ"])
def test_a_batch_whose_filling_task_is_gone_is_abandoned(scripts: Scripts, how: str) -> None:
    lease = open_child_of_a_member(scripts)
    if how.startswith("dead"):
        scripts.run("dead_letter_task", scripts.now, *lease, 500, "")
    if how == "purged":
        scripts.run("release_tasks", scripts.now, *lease)
        scripts.clock.advance(1)
        scripts.run("purge_queue", scripts.now, "default", 1000, scripts.now)
    elif how == "canceled by RQ":
        scripts.redis.hset(store.record_key("default_b-0"), "status", "canceled")
        sweep(scripts)
    else:
        scripts.run("delete_tasks", scripts.now, "default_b-0")

    assert scripts.run("sweep_batches", scripts.now, 0, 0, 1000)[2:] == ["child"]
    # Until it is cancelled, each look finds it.
    assert scripts.run("sweep_batches", scripts.now, 0, 0, 1000)[2:] == ["child"]
    scripts.run("cancel_batch", scripts.now, "child", 0, 1000)

    assert scripts.run("sweep_batches", scripts.now, 0, 0, 1000)[2:] == []
    assert scripts.is_finished("child")
    assert scripts.is_finished("b")
    assert scripts.state("default_end") == "ready"


@pytest.mark.parametrize("how", ["running", "retrying", "done", "dead", "done after it was dead"])
def test_a_batch_that_may_still_be_filled_is_not_abandoned(scripts: Scripts, how: str) -> None:
    if how == "done after it was dead":
        scripts.sealed_batch("b", 1)
        [lease] = scripts.lease()
        scripts.run("dead_letter_task", scripts.now, *lease, 500, "")
        scripts.run("retry_dead", scripts.now, "default_b-0")
        [lease] = scripts.lease()
        scripts.open_batch("child", parent="b:0")
        scripts.fill("child", 2)
        scripts.ack(lease)
    else:
        lease = open_child_of_a_member(scripts)
    if how == "retrying":
        scripts.run("retry_task", *lease, "1800000030", 500, scripts.now, 1)
    elif how == "done":
        scripts.ack(lease)
    elif how == "dead":
        scripts.run("dead_letter_task", scripts.now, *lease, 500, "")

    assert scripts.run("sweep_batches", scripts.now, 0, 0, 1000) == [0, 0]
    scripts.seal("child")
    assert not scripts.is_finished("child")


def test_a_batch_that_the_former_release_opened_for_an_ended_task_is_abandoned(scripts: Scripts) -> None:
    """Its create_batch accepted a late request of a process that had lost its task."""
    open_child_of_a_member(scripts)
    scripts.redis.delete(store.record_key("default_b-0"))
    scripts.redis.setbit(f"{store.OWN}batch:b:finished", 0, 1)

    assert scripts.run("sweep_batches", scripts.now, 0, 0, 1000)[2:] == ["child"]


def test_one_call_looks_at_no_more_than_asked_for_and_goes_on_where_it_was(scripts: Scripts) -> None:
    for batch, count in (("a", 16), ("b", 8), ("c", 0)):
        scripts.clock.advance(1)
        scripts.open_batch(batch)
        if count:
            scripts.fill(batch, count)

    assert sweep(scripts, most=10) == [[0, 10], [1, 3], [0, 0]]


def test_batches_that_are_completed_on_the_way_do_not_hide_the_next(scripts: Scripts) -> None:
    for batch in ("a", "b", "c"):
        scripts.clock.advance(1)
        scripts.sealed_batch(batch, 1)
        scripts.redis.delete(store.record_key(f"default_{batch}-0"))
    scripts.redis.zadd(store.OPEN_BATCHES, {"forgotten": 1})

    assert sweep(scripts) == [[0, 0]]

    assert [scripts.counts(batch) for batch in "abc"] == [{"total": 1, "cancelled": 1}] * 3
    assert scripts.redis.exists(store.OPEN_BATCHES) == 0


def test_without_open_batches_there_is_nothing_to_do(scripts: Scripts) -> None:
    assert sweep(scripts) == [[0, 0]]


DAYS = 86_400.0


@pytest.mark.parametrize(
    ("filled_after", "is_sealed", "is_found"),
    [(None, False, True), (1.0, False, False), (None, True, False)],
    ids=["left alone", "filled since", "sealed"],
)
def test_a_batch_that_nobody_fills_or_seals_for_30_days_is_found(
    scripts: Scripts, filled_after: float | None, is_sealed: bool, is_found: bool
) -> None:
    scripts.open_batch("b", complete="default_end")
    scripts.fill("b", 2)
    if is_sealed:
        scripts.seal("b")
    if filled_after is not None:
        scripts.clock.advance(filled_after * DAYS)
        scripts.fill("b", 1, first=2)
    scripts.clock.advance((30 - (filled_after or 0)) * DAYS)
    assert scripts.run("sweep_batches", scripts.now, 0, 0, 1000) == [0, 0]

    scripts.clock.advance(1)

    assert scripts.run("sweep_batches", scripts.now, 0, 0, 1000)[2:] == ["b"] * is_found


def test_a_batch_of_the_former_release_counts_from_the_first_sweep(scripts: Scripts) -> None:
    """Whether it was filled yesterday is not noted."""
    scripts.open_batch("b")
    scripts.fill("b", 1)
    scripts.redis.hdel(store.batch_key("b"), "added_at")
    scripts.clock.advance(30 * DAYS + 1)

    assert scripts.run("sweep_batches", scripts.now, 0, 0, 1000)[2:] == []
    scripts.clock.advance(30 * DAYS + 1)
    assert scripts.run("sweep_batches", scripts.now, 0, 0, 1000)[2:] == ["b"]


def test_a_batch_left_unsealed_is_cancelled_by_the_sweep_and_goes(scripts: Scripts) -> None:
    scripts.open_batch("b", complete="default_end")
    scripts.fill("b", 2)
    scripts.clock.advance(30 * DAYS + 1)

    BatchSteps(scripts.store).sweep(0, 0)

    assert scripts.counts("b") == {"total": 2, "cancelled": 2}
    assert scripts.state("default_end") == "ready"
    assert scripts.redis.ttl(store.batch_key("b")) > 0
    assert scripts.redis.zcard(store.OPEN_BATCHES) == 0
