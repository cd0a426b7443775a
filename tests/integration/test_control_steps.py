"""An operator runs a task again with another body, and frees the name of a task."""

import pytest

from lastacross import store, taskqueue
from lastacross.broker import Control, Listing
from lastacross.errors import (
    InvalidTaskError,
    TaskAlreadyExistsError,
    TombstonedTaskError,
    TransientError,
)
from lastacross.taskqueue import Batch, Queue, Task, TaskRetryOptions
from tests.support.scripts import Scripts
from tests.support.uploads import upload


@pytest.fixture
def control(scripts: Scripts) -> Control:
    """Controls the queue "default" and the pull queue "work"."""
    upload(scripts.store, {"default": {}, "work": {"mode": "pull"}}, services=["counter"])
    return Control(scripts.store)


def die(scripts: Scripts) -> None:
    """Make the next task a dead letter."""
    [(task, lease)] = scripts.lease()
    scripts.run("dead_letter_task", scripts.now, task, lease, 500, "no")


def add(name: str = "a") -> None:
    """Add a task with everything that a copy must keep."""
    options = TaskRetryOptions(task_retry_limit=3)
    taskqueue.add(
        b'{"x": 1}',
        url="/work",
        name=name,
        headers={"X-Own": "1", "Content-Type": "application/json"},
        retry_options=options,
    )


# --- run again -------------------------------------------------------------------------------


def test_a_dead_task_runs_again_with_another_body(control: Control, scripts: Scripts) -> None:
    add()
    die(scripts)

    name = control.run_again("default", "a", body=b'{"x": 2}')

    listing = Listing(scripts.store)
    copy, original = listing.find("default", name), listing.find("default", "a")
    assert copy is not None
    assert original is not None
    assert (copy.task.state, copy.task.url, copy.body) == ("ready", "/work", b'{"x": 2}')
    assert (original.task.state, original.body) == ("dead", b'{"x": 1}')
    assert copy.headers == original.headers
    kept = ("retry", "description", "origin")
    assert [copy.fields[each] for each in kept] == [original.fields[each] for each in kept]
    assert copy.fields.keys().isdisjoint({"error", "failures", "dead_at", "dead_group", "tombstone"})
    assert [task for task, _ in scripts.lease()] == [f"default_{name}"]


@pytest.mark.parametrize("state", ["ready", "scheduled", "leased"])
def test_a_task_in_any_state_can_be_copied(control: Control, scripts: Scripts, state: str) -> None:
    taskqueue.add(b"x" * 1000, url="/work", name="a", countdown=60 if state == "scheduled" else 0)
    if state == "leased":
        scripts.lease()

    name = control.run_again("default", "a")

    found = Listing(scripts.store).find("default", name)
    assert found is not None
    assert (found.body, found.task.state) == (b"x" * 1000, "ready")
    assert scripts.state("default_a") == state


def test_a_copy_of_a_member_belongs_to_no_batch(control: Control, scripts: Scripts) -> None:
    with Batch(name="b") as batch:
        batch.add(Task(url="/m"))

    name = control.run_again("default", "b-0")

    assert "batch" not in scripts.record(f"default_{name}")


def test_a_copy_keeps_its_target(control: Control, scripts: Scripts) -> None:
    taskqueue.add(url="/m", name="a", target="counter")

    name = control.run_again("default", "a")

    assert scripts.ready("default.counter") == ["default_a", f"default_{name}"]


def test_a_pull_task_is_copied_with_its_tag(control: Control, scripts: Scripts) -> None:
    Queue("work").add(Task("one", method="PULL", name="a", tag="t"))

    control.run_again("work", "a", body=b"two")
    scripts.clock.advance(1)

    leased = Queue("work").lease_tasks_by_tag(60, 10, "t")
    assert sorted(task.payload or b"" for task in leased) == [b"one", b"two"]


def test_the_rules_for_names_hold(control: Control, scripts: Scripts) -> None:
    add("a")
    add("b")

    assert control.run_again("default", "a", new_task_name="c") == "c"
    with pytest.raises(TaskAlreadyExistsError, match="'b'"):
        control.run_again("default", "a", new_task_name="b")
    for lease in scripts.lease():
        if lease[0] != "default_a":
            scripts.ack(lease)
    with pytest.raises(TombstonedTaskError, match="'c'"):
        control.run_again("default", "a", new_task_name="c")


def test_a_finished_task_cannot_be_copied(control: Control, scripts: Scripts) -> None:
    add()
    scripts.ack(*scripts.lease())

    with pytest.raises(InvalidTaskError, match="no task named 'a'"):
        control.run_again("default", "a", body=b"")


def test_a_large_body_and_a_draining_queue_are_refused(control: Control, scripts: Scripts) -> None:
    add()
    with pytest.raises(InvalidTaskError, match="1048577 bytes"):
        control.run_again("default", "a", body=b"x" * 1_048_577)
    Queue().drain()
    with pytest.raises(TransientError, match="draining"):
        control.run_again("default", "a")

    assert scripts.ready() == ["default_a"]


def test_damaged_options_are_left_out(control: Control, scripts: Scripts) -> None:
    add()
    fields = {"headers": b"\xff", "retry": "[1]", "deadline": "soon"}
    scripts.redis.hset(store.record_key("default_a"), mapping=fields)

    name = control.run_again("default", "a")

    assert scripts.record(f"default_{name}").keys().isdisjoint(fields)


# --- free a name -----------------------------------------------------------------------------


def test_a_deleted_tasks_name_is_free(control: Control, scripts: Scripts) -> None:
    add()

    assert control.delete_and_free("default", ["a", "b"]) == [True, False]

    assert scripts.state("default_a") == "gone"
    add()


def test_a_finished_tasks_name_is_free(control: Control, scripts: Scripts) -> None:
    add()
    scripts.ack(*scripts.lease())
    with pytest.raises(TombstonedTaskError):
        add()

    assert control.delete_and_free("default", ["a"]) == [False]

    add()
    assert control.delete_and_free("default", []) == []


def test_a_running_task_that_was_deleted_leaves_no_tombstone(control: Control, scripts: Scripts) -> None:
    add()
    leases = scripts.lease()
    control.delete_and_free("default", ["a"])

    assert scripts.ack(*leases) == [0]
    assert scripts.tombstone_seconds("default_a") is None
