"""add_task: one ready task, as `add_tasks` would have added it."""

from typing import Any

import pytest

from lastacross import store
from lastacross.broker.steps import ADDED, Broker, NewTask
from lastacross.taskqueue.task import Task, record_of
from tests.support.scripts import Scripts

FIRST = ("origin", "description", "data", "created_at", "eta")
VALUES: tuple[str | bytes, ...] = (
    "POST /a",
    b"\x80\x02.",
    "2027-01-15T08:00:00.000000Z",
    "1800000000.000000",
)
REST = ("body", b"\x00\xff", "headers", "[]")


def add(scripts: Scripts, task_id: str = "default_a", queue: str = "default") -> int:
    return int(scripts.run("add_task", task_id, queue, *VALUES, *REST))


def all_that_is_kept(scripts: Scripts) -> dict[bytes, bytes]:
    return {key: scripts.redis.dump(key) for key in scripts.redis.scan_iter()}


def test_it_leaves_what_add_tasks_leaves(scripts: Scripts) -> None:
    assert add(scripts) == 0
    one = all_that_is_kept(scripts)
    scripts.redis.flushdb()
    scripts.configure("default")
    scripts.configure("other")
    fields: list[str | bytes] = ["origin", "default"]
    for name, value in zip(FIRST[1:], VALUES, strict=True):
        fields += (name, value)
    fields += REST
    assert scripts.run("add_tasks", scripts.now, "default_a", "", "", len(fields), *fields) == [0]

    assert one == all_that_is_kept(scripts)
    assert scripts.state("default_a") == "ready"


@pytest.mark.parametrize("options", [{}, {"params": {"a": "b" * 200}}, {"headers": {"X-A": "1"}}])
def test_the_broker_gives_it_a_record_as_it_gives_it_to_add_tasks(
    scripts: Scripts, options: dict[str, Any]
) -> None:
    fields = record_of(Task(url="/a", **options), "default", scripts.clock.now())
    task = NewTask("default_a", None, fields)
    assert Broker(scripts.store).add_ready(task) == ADDED
    one = all_that_is_kept(scripts)
    scripts.redis.delete(store.record_key("default_a"), store.ready_key("default"))

    assert Broker(scripts.store).add([task]) == [ADDED]
    assert all_that_is_kept(scripts) == one


def test_a_task_is_ready_behind_those_that_came_before(scripts: Scripts) -> None:
    assert [add(scripts, f"default_{name}") for name in "abc"] == [0, 0, 0]

    assert scripts.ready() == ["default_a", "default_b", "default_c"]


@pytest.mark.parametrize("life", ["ready", "leased", "dead"])
def test_a_request_that_comes_again_after_a_lost_answer_adds_nothing(scripts: Scripts, life: str) -> None:
    if life == "dead":
        scripts.dead("default_a")
    else:
        add(scripts)
        if life == "leased":
            scripts.lease()
    before = all_that_is_kept(scripts)

    assert add(scripts) == 10
    assert all_that_is_kept(scripts) == before


@pytest.mark.parametrize("group", ["default", "reports"])
def test_the_workers_that_serve_the_queue_are_woken_once(scripts: Scripts, group: str) -> None:
    scripts.redis.hset(store.settings_key("default"), "group", group)
    add(scripts)
    add(scripts, "default_b")

    assert scripts.redis.lrange(store.wakeup_key(group), 0, -1) == [b"ready"]


def test_a_queue_without_settings_is_the_default_groups(scripts: Scripts) -> None:
    assert add(scripts, "unknown_a", "unknown") == 0

    assert scripts.redis.exists(store.wakeup_key("default"))
    assert scripts.redis.sismember(store.RQ_QUEUES, store.ready_key("unknown"))
