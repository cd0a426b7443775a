"""pause_queue: a paused queue accepts tasks and hands out none; resuming wakes whoever waits."""

import pytest

from lastacross import store
from tests.support.scripts import Scripts
from tests.support.uploads import upload


def test_a_paused_queue_accepts_and_hands_out_nothing(scripts: Scripts) -> None:
    assert scripts.run("pause_queue", "default", 1) == 1

    assert scripts.add("default_a") == [0]
    assert scripts.lease() == []
    assert scripts.state("default_a") == "ready"


def test_the_other_queues_go_on(scripts: Scripts) -> None:
    scripts.run("pause_queue", "default", 1)
    scripts.add("other_a")

    assert [task for task, _ in scripts.lease("default", "other")] == ["other_a"]


def test_what_runs_finishes_and_its_retry_waits(scripts: Scripts) -> None:
    done, fails = scripts.leased("default_done"), scripts.leased("default_fails")
    scripts.run("pause_queue", "default", 1)

    assert scripts.ack(("default_done", done)) == [1]
    later = f"{scripts.clock.now() + 1:.6f}"
    assert scripts.run("retry_task", "default_fails", fails, later, 500, scripts.now, 1) == 1
    scripts.clock.advance(2)
    scripts.run("promote_due", scripts.now, 100, "default")
    assert scripts.lease() == []

    assert scripts.run("pause_queue", "default", 0) == 1
    assert [task for task, _ in scripts.lease()] == ["default_fails"]


def test_a_second_pause_and_a_second_resume_change_nothing(scripts: Scripts) -> None:
    answers = [scripts.run("pause_queue", "default", pause) for pause in (1, 1, 0, 0)]

    assert answers == [1, 0, 1, 0]


def test_a_pause_takes_no_tokens(scripts: Scripts) -> None:
    scripts.configure("default", rate=0.001, bucket_size=1)
    scripts.add("default_a")
    scripts.run("pause_queue", "default", 1)
    scripts.lease()
    scripts.run("pause_queue", "default", 0)

    assert len(scripts.lease()) == 1


@pytest.mark.parametrize("target", ["", "counter"])
def test_resuming_wakes_the_workers_of_every_list(scripts: Scripts, target: str) -> None:
    """Also the default service's, whose tasks may wait in a queue that is another's."""
    upload(scripts.store, {"default": {"target": target}}, services=["counter", "remote"])
    scripts.run("pause_queue", "default", 1)
    for group in ("default", "counter", "remote"):
        scripts.redis.delete(store.wakeup_key(group))

    scripts.run("pause_queue", "default", 0)

    assert [scripts.redis.llen(store.wakeup_key(group)) for group in ("default", "counter", "remote")] == [
        1
    ] * 3


def test_side_lists_are_paused_with_their_queue(scripts: Scripts) -> None:
    upload(scripts.store, services=["counter"])
    scripts.add("default_a", target="counter")
    scripts.groups = ["counter"]
    scripts.run("pause_queue", "default", 1)

    assert scripts.lease("default.counter") == []
    scripts.run("pause_queue", "default", 0)
    assert [task for task, _ in scripts.lease("default.counter")] == ["default_a"]
