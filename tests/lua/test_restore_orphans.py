"""restore_orphans: tasks that are in no list and no registry are put back."""

from lastacross import store
from tests.support.scripts import Scripts


def test_a_task_that_is_in_no_list_is_ready_again(scripts: Scripts) -> None:
    scripts.add("default_a", "default_b")
    scripts.redis.delete(store.ready_key("default"))
    scripts.redis.hset(store.record_key("default_b"), mapping={"status": "started", "lease": "w.1"})
    scripts.marker()

    assert scripts.run("restore_orphans", "default_a", "default_b") == ["default_a", "default_b"]

    assert [scripts.state(task) for task in ("default_a", "default_b")] == ["ready", "ready"]
    assert scripts.marker() == "ready"


def test_what_is_elsewhere_by_now_stays_there(scripts: Scripts) -> None:
    scripts.leased("default_leased")
    scripts.dead("default_dead")
    scripts.add("default_scheduled", countdown=9)
    states = {task: scripts.state(f"default_{task}") for task in ("leased", "dead", "scheduled")}

    assert scripts.run("restore_orphans", "default_none", *(f"default_{task}" for task in states)) == []

    assert {task: scripts.state(f"default_{task}") for task in states} == states


def test_a_second_entry_runs_once(scripts: Scripts) -> None:
    scripts.add("default_a")

    scripts.run("restore_orphans", "default_a")

    assert [task for task, _ in scripts.lease()] == ["default_a"]
    assert scripts.ready() == []
