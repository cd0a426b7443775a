"""promote_due: scheduled tasks whose eta has come become ready."""

from lastacross import store
from tests.support.scripts import Scripts


def test_a_task_becomes_ready_at_its_eta_and_not_before(scripts: Scripts) -> None:
    scripts.add("default_a", countdown=0.5)
    scripts.clock.advance(0.499999)
    assert scripts.run("promote_due", scripts.now, 100, "default") == [0, "1800000000.500000"]

    scripts.clock.advance(0.000001)

    assert scripts.run("promote_due", scripts.now, 100, "default") == [1, ""]
    assert scripts.state("default_a") == "ready"


def test_due_tasks_come_in_the_order_of_their_etas(scripts: Scripts) -> None:
    scripts.add("default_late", countdown=2)
    scripts.add("default_early", countdown=1)
    scripts.marker()
    scripts.clock.advance(3)

    scripts.run("promote_due", scripts.now, 100, "default")

    assert scripts.ready() == ["default_early", "default_late"]
    assert scripts.marker() == "ready"


def test_each_queue_moves_no_more_than_asked_for(scripts: Scripts) -> None:
    scripts.add("default_a", "default_b", "default_c", "other_a", countdown=1)
    scripts.clock.advance(1)

    assert scripts.run("promote_due", scripts.now, 2, "default", "other")[0] == 3
    assert scripts.run("promote_due", scripts.now, 2, "default", "other")[0] == 1
    assert scripts.run("promote_due", scripts.now, 2, "default", "other") == [0, ""]


def test_the_next_eta_of_all_queues_is_told(scripts: Scripts) -> None:
    scripts.add("default_a", countdown=30)
    scripts.add("other_a", countdown=20.25)

    assert scripts.run("promote_due", scripts.now, 100, "default", "other") == [0, "1800000020.250000"]


def test_an_entry_of_a_task_that_is_elsewhere_is_dropped(scripts: Scripts) -> None:
    scripts.leased("default_a")
    scripts.redis.zadd(store.scheduled_key("default"), {"default_a": 1})

    assert scripts.run("promote_due", scripts.now, 100, "default") == [0, ""]
    assert scripts.state("default_a") == "leased"


def test_a_member_whose_record_is_gone_counts_as_cancelled(scripts: Scripts) -> None:
    scripts.open_batch("b")
    scripts.fill("b", 1, countdown=5)
    scripts.seal("b")
    scripts.redis.delete(store.record_key("default_b-0"))
    scripts.clock.advance(5)

    scripts.run("promote_due", scripts.now, 100, "default")

    assert scripts.counts("b") == {"total": 1, "cancelled": 1}
    assert scripts.is_finished("b")
