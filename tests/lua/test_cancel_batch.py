"""cancel_batch: members that have not been delivered are dropped; those that run finish."""

from lastacross import store
from tests.support.scripts import Scripts


def cancel(scripts: Scripts, batch: str = "b", most: int = 1000) -> list[int]:
    """Call until all members were seen, as the broker does; what each call returned."""
    answers = [0]
    while answers[-1] >= 0:
        answers.append(int(scripts.run("cancel_batch", scripts.now, batch, answers[-1], most)))
    return answers[1:]


def test_what_waits_is_dropped_and_what_runs_finishes(scripts: Scripts) -> None:
    scripts.open_batch("b", complete="default_end", success="default_win")
    scripts.fill("b", 3)
    scripts.fill("b", 1, first=3, countdown=9)
    leases = scripts.lease(wanted=1)

    assert cancel(scripts) == [-1]
    assert scripts.counts("b") == {"total": 4, "cancelled": 3}
    assert scripts.state("default_end") == "deferred"
    scripts.ack(*leases)

    assert scripts.counts("b") == {"total": 4, "done": 1, "cancelled": 3}
    assert scripts.lease() == [("default_end", scripts.entries()[0].partition(":")[2])]
    assert scripts.state("default_win") == "gone"


def test_a_large_batch_is_cancelled_part_by_part_and_fires_once(scripts: Scripts) -> None:
    scripts.open_batch("b", complete="default_end")
    scripts.fill("b", 20)

    assert cancel(scripts, most=10) == [10, 20, -1]

    assert scripts.counts("b") == {"total": 20, "cancelled": 20}
    assert scripts.ready().count("default_end") == 1


def test_a_dropped_name_stays_refused(scripts: Scripts) -> None:
    scripts.open_batch("b")
    scripts.fill_with("b", ["default_a"], tombstone=777)

    cancel(scripts)

    assert (scripts.places("default_a"), scripts.tombstone_seconds("default_a")) == (["ready"], 777)
    assert scripts.lease() == []
    assert scripts.counts("b") == {"total": 1, "cancelled": 1}


def test_cancelling_again_or_after_the_end_changes_nothing(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1, complete="default_end", success="default_win")
    scripts.ack(*scripts.lease())

    assert cancel(scripts) == [-1]

    assert scripts.counts("b") == {"total": 1, "done": 1}
    assert scripts.ready() == ["default_end", "default_win"]
    assert scripts.redis.hget(store.batch_key("b"), "cancelled_at") is None


def test_a_member_that_waits_for_its_children_keeps_its_own_outcome(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    [lease] = scripts.lease()
    scripts.open_batch("child", parent="b:0")
    scripts.ack(lease)

    cancel(scripts)
    assert not scripts.is_finished("b")
    scripts.seal("child")

    assert scripts.counts("b") == {"total": 1, "done": 1}


def test_an_empty_batch_that_is_cancelled_completes_without_success(scripts: Scripts) -> None:
    scripts.open_batch("b", complete="default_end", success="default_win")

    cancel(scripts)

    assert scripts.ready() == ["default_end"]
    assert scripts.state("default_win") == "gone"


def test_a_batch_that_is_not_known_is_told(scripts: Scripts) -> None:
    assert cancel(scripts) == [-2]
    assert scripts.redis.exists(store.batch_key("b")) == 0
