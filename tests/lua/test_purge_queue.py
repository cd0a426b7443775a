"""purge_queue: all tasks of a queue are forgotten, but its dead letters."""

import pytest

from lastacross import store
from tests.support.scripts import Scripts


def purge(scripts: Scripts, most: int = 1000, started: str | None = None) -> list[int]:
    """Call until nothing is left, as the broker does; what each call returned."""
    counts = [-1]
    while counts[-1]:
        counts.append(int(scripts.run("purge_queue", scripts.now, "default", most, started or scripts.now)))
    return counts[1:]


def test_ready_scheduled_and_leased_tasks_go_and_leave_tombstones(scripts: Scripts) -> None:
    scripts.leased("default_leased", tombstone=777)
    scripts.add("default_ready", tombstone=777)
    scripts.add("default_scheduled", countdown=9, tombstone=777)
    scripts.add("default_unnamed")

    assert purge(scripts) == [4, 0]

    for task in ("default_leased", "default_ready", "default_scheduled"):
        assert (scripts.state(task), scripts.tombstone_seconds(task)) == ("gone", 777)
    assert scripts.state("default_unnamed") == "gone"


def test_dead_letters_and_other_queues_stay(scripts: Scripts) -> None:
    scripts.dead("default_dead")
    scripts.add("other_a")
    scripts.redis.rpush(store.ready_key("default"), "default_dead")

    purge(scripts)

    assert (scripts.state("default_dead"), scripts.state("other_a")) == ("dead", "ready")


def test_one_call_takes_no_more_than_asked_for(scripts: Scripts) -> None:
    scripts.add(*[f"default_{index}" for index in range(5)])
    scripts.add("default_s1", "default_s2", countdown=9)

    assert purge(scripts, most=3) == [3, 3, 1, 0]


def test_an_answer_of_a_purged_task_changes_nothing(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")
    purge(scripts)

    assert scripts.ack(("default_a", lease)) == [0]
    assert scripts.run("retry_task", "default_a", lease, scripts.now, 500, scripts.now, 1) == 0


def test_purged_members_count_as_cancelled_and_the_completion_survives_the_purge(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 3, complete="default_end")
    scripts.lease(wanted=1)
    scripts.redis.delete(store.record_key("default_b-2"))

    purge(scripts)

    assert scripts.counts("b") == {"total": 3, "cancelled": 3}
    assert scripts.state("default_end") == "ready"


def test_a_completion_that_an_earlier_purge_made_ready_survives_every_purge(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 2, complete="default_end")
    purge(scripts)
    scripts.clock.advance(60)

    assert purge(scripts) == [0]

    assert scripts.state("default_end") == "ready"
    [lease] = scripts.lease()
    scripts.clock.advance(60)
    purge(scripts)
    assert scripts.state("default_end") == "leased"
    scripts.ack(lease)
    assert scripts.state("default_end") == "gone"


@pytest.mark.parametrize("state", ["ready", "scheduled", "leased"])
def test_tasks_that_stay_do_not_end_the_purge_early(scripts: Scripts, state: str) -> None:
    kept, purged = [f"default_end{number}" for number in range(4)], ["default_x", "default_y"]
    for number, completion in enumerate(kept):
        scripts.sealed_batch(f"b{number}", 1, complete=completion)
    purge(scripts)
    scripts.clock.advance(60)
    leases = [] if state == "ready" else scripts.lease()
    for task, lease in leases if state == "scheduled" else []:
        due = f"{scripts.clock.now() + 5:.6f}"
        assert scripts.run("retry_task", task, lease, due, 500, scripts.now, 1) == 1
    scripts.clock.advance(1)
    # These come after the tasks that stay.
    scripts.add(*purged, countdown=9 if state == "scheduled" else None)
    if state == "leased":
        scripts.lease()
    assert {scripts.state(task) for task in kept + purged} == {state}

    assert purge(scripts, most=2) == [2, 0]

    assert {scripts.state(task) for task in kept} == {state}
    assert {scripts.state(task) for task in purged} == {"gone"}


def test_a_completion_that_was_there_before_is_purged(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 0, complete="default_end")
    assert scripts.state("default_end") == "ready"
    scripts.clock.advance(1)

    purge(scripts)

    assert scripts.state("default_end") == "gone"


def test_a_plain_rq_job_is_purged_too(scripts: Scripts) -> None:
    scripts.put_rq_job("0ffb1a2e-6b0c-4a0b-9a43-0ef2b6f1c001")

    assert purge(scripts) == [1, 0]
    assert scripts.redis.exists(store.record_key("0ffb1a2e-6b0c-4a0b-9a43-0ef2b6f1c001")) == 0
