"""release_tasks: what was leased and not started is given back, first in line."""

from lastacross import store
from tests.support.scripts import Scripts


def test_released_tasks_come_first_again_in_their_old_order(scripts: Scripts) -> None:
    scripts.add("default_a", "default_b", "default_c")
    leases = scripts.lease(wanted=2)
    scripts.marker()

    assert scripts.run("release_tasks", *leases[0], *leases[1]) == 2

    assert scripts.ready() == ["default_a", "default_b", "default_c"]
    assert scripts.state("default_a") == "ready"
    assert scripts.marker() == "ready"


def test_nothing_is_held_against_a_released_task(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")
    before = scripts.record("default_a")

    scripts.run("release_tasks", "default_a", lease)

    assert before.keys() - scripts.record("default_a").keys() == {"lease", "first_try_at"}


def test_the_first_try_of_a_task_that_was_tried_before_stays(scripts: Scripts) -> None:
    lease = scripts.leased("default_a", failures=1, first_try_at="1700000000.000000")

    scripts.run("release_tasks", "default_a", lease)

    assert scripts.record("default_a")["first_try_at"] == "1700000000.000000"


def test_a_lost_lease_gives_nothing_back(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")
    scripts.run("delete_tasks", scripts.now, "default_a")

    assert scripts.run("release_tasks", "default_a", lease) == 0
    assert scripts.run("release_tasks", "default_a", "w.999") == 0
    assert scripts.state("default_a") == "gone"


def test_a_task_whose_record_is_gone_is_left_to_the_lease_that_meets_it(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    [(task, lease)] = scripts.lease()
    scripts.redis.delete(store.record_key(task))

    assert scripts.run("release_tasks", task, lease) == 0
    scripts.lease()

    assert scripts.state(task) == "gone"
    assert scripts.counts("b") == {"total": 1, "cancelled": 1}
