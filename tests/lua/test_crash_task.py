"""crash_task: the process that ran this one task alone has ended."""

from lastacross import store
from tests.support.scripts import Scripts


def crash_once(scripts: Scripts) -> str:
    [(task, lease)] = scripts.lease()
    return str(scripts.run("crash_task", scripts.now, task, lease))


def test_a_crashed_task_is_ready_and_suspect(scripts: Scripts) -> None:
    scripts.add("default_a")

    assert crash_once(scripts) == "ready"

    assert scripts.state("default_a") == "ready"
    assert scripts.record("default_a").items() >= {"crashes": "1", "lost": "1", "suspect": "1"}.items()


def test_the_fifth_crash_in_a_row_is_poison(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1, complete="default_end")

    assert [crash_once(scripts) for _ in range(5)] == ["ready"] * 4 + ["poison"]

    assert scripts.state("default_b-0") == "dead"
    assert scripts.ready() == ["default_end"]


def test_a_crash_whose_lease_was_lost_changes_nothing(scripts: Scripts) -> None:
    scripts.leased("default_a")

    assert scripts.run("crash_task", scripts.now, "default_a", "w.999") == "gone"

    assert scripts.state("default_a") == "leased"
    assert "crashes" not in scripts.record("default_a")


def test_a_crash_of_a_deleted_record_cancels_its_member(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 1)
    [(task, lease)] = scripts.lease()
    scripts.redis.delete(store.record_key(task))

    assert scripts.run("crash_task", scripts.now, task, lease) == "gone"
    assert scripts.counts("b") == {"total": 1, "cancelled": 1}
