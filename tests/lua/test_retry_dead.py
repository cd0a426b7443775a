"""retry_dead: dead letters are tried again, within the limits of their queue."""

from lastacross import store
from lastacross.taskqueue import Queue, Task
from tests.support.places import lease, lists
from tests.support.scripts import Scripts
from tests.support.uploads import upload


def retry(scripts: Scripts, *ids: str) -> list[int]:
    """The script's answer."""
    return list(scripts.run("retry_dead", scripts.now, *ids))


def test_a_dead_letter_is_ready_with_its_retries_anew(scripts: Scripts) -> None:
    scripts.dead("default_a", tombstone="60")

    assert retry(scripts, "default_a") == [1]

    assert scripts.state("default_a") == "ready"
    assert scripts.redis.ttl(store.record_key("default_a")) == -1
    [(_, _, flat)] = scripts.ask_lease()[0]
    assert {"failures", "dead_at", "error", "previous_response"}.isdisjoint(flat[::2])
    assert scripts.state("default_a") == "leased"


def test_its_queues_limits_count(scripts: Scripts) -> None:
    for number in range(3):
        scripts.dead(f"default_{number}")
    scripts.configure("default", most=1)

    assert retry(scripts, "default_0", "default_1", "default_2") == [1, 1, 1]

    assert len(scripts.lease()) == 1


def test_it_waits_for_its_service(scripts: Scripts) -> None:
    upload(scripts.store, services=["counter"])
    scripts.add("default_a", target="counter")
    scripts.groups = ["counter"]
    [(task_id, lease_id)] = scripts.lease("default.counter")
    scripts.run("dead_letter_task", scripts.now, task_id, lease_id, 500, "no")

    retry(scripts, "default_a")

    assert lists(scripts) == {"default.counter": ["default_a"]}
    assert lease(scripts, "counter", "default.counter") == ["default_a"]


def test_what_is_no_dead_letter_is_left_alone(scripts: Scripts) -> None:
    scripts.add("default_ready")
    scripts.add("default_scheduled", countdown=60)
    held = scripts.leased("other_leased")

    assert retry(scripts, "default_ready", "default_scheduled", "other_leased", "default_none") == [0] * 4

    assert scripts.ready() == ["default_ready"]
    assert scripts.state("default_scheduled") == "scheduled"
    assert scripts.ack(("other_leased", held)) == [1]


def test_twice_is_once(scripts: Scripts) -> None:
    scripts.dead("default_a")

    assert [retry(scripts, "default_a"), retry(scripts, "default_a")] == [[1], [0]]

    assert scripts.ready() == ["default_a"]


def test_a_pull_task_may_be_leased_again(scripts: Scripts) -> None:
    upload(scripts.store, {"work": {"mode": "pull", "retry": "[1, null, 0.1, 3600, 16]"}})
    queue = Queue("work")
    queue.add(Task("x", method="PULL", name="a", tag="t"))
    for _ in range(2):
        scripts.clock.advance(1)
        queue.lease_tasks(0, 1)
    scripts.clock.advance(1)
    assert queue.lease_tasks(0, 1) == []

    assert retry(scripts, "work_a") == [1]
    scripts.clock.advance(1)

    [task] = queue.lease_tasks_by_tag(5, 1, "t")
    assert task.retry_count == 1
