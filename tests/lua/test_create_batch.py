"""create_batch: a batch is opened with the tasks that wait for it, or found again."""

import pytest

from lastacross import store
from tests.support.scripts import Scripts


def test_a_new_batch_is_open_and_empty_and_its_tasks_wait(scripts: Scripts) -> None:
    assert scripts.open_batch("b", complete="default_end", success="default_win") == 1

    assert scripts.counts("b") == {}
    assert not scripts.is_finished("b")
    assert [scripts.state(task) for task in ("default_end", "default_win")] == ["deferred", "deferred"]
    assert scripts.redis.zscore(store.OPEN_BATCHES, "b") == scripts.clock.now()


def test_opening_it_again_changes_nothing(scripts: Scripts) -> None:
    scripts.open_batch("b", complete="default_end")
    scripts.fill("b", 2)

    assert scripts.open_batch("b", complete="default_end", success="default_other") == 0

    assert scripts.counts("b") == {"total": 2}
    assert scripts.state("default_other") == "gone"


def test_a_finished_batch_is_found_and_not_opened_again(scripts: Scripts) -> None:
    scripts.sealed_batch("b", 0, complete="default_end")
    scripts.ack(*scripts.lease())

    assert scripts.open_batch("b", complete="default_end") == 0
    assert scripts.state("default_end") == "gone"


def test_a_child_needs_the_batch_of_its_parent(scripts: Scripts) -> None:
    assert scripts.open_batch("child", parent="none:0") == -1

    assert scripts.redis.keys(f"{store.OWN}batch*") == []


@pytest.mark.parametrize("how", ["done", "deleted"])
def test_a_member_that_has_ended_cannot_open_a_child(scripts: Scripts, how: str) -> None:
    scripts.sealed_batch("parent", 1)
    if how == "done":
        scripts.ack(*scripts.lease())
    else:
        scripts.run("delete_tasks", scripts.now, "default_parent-0")

    assert scripts.open_batch("child", parent="parent:0", complete="default_end") == -1

    assert scripts.redis.keys(f"{store.OWN}batch:child*") == []
    assert scripts.redis.exists(f"{store.OWN}batch:parent:children") == 0
    assert scripts.state("default_end") == "gone"


def test_a_dead_letter_that_runs_again_opens_a_child_that_expires_with_its_batch(scripts: Scripts) -> None:
    scripts.sealed_batch("parent", 1)
    [lease] = scripts.lease()
    scripts.run("dead_letter_task", scripts.now, *lease, 500, "")
    assert scripts.is_finished("parent")
    scripts.run("retry_dead", scripts.now, "default_parent-0")
    [lease] = scripts.lease()

    assert scripts.open_batch("child", parent="parent:0") == 1

    assert scripts.redis.ttl(f"{store.OWN}batch:parent:children") == 30 * 86400


def test_a_child_that_is_opened_twice_counts_once(scripts: Scripts) -> None:
    scripts.sealed_batch("parent", 1)
    scripts.open_batch("child", parent="parent:0")
    assert scripts.open_batch("child", parent="parent:0") == 0

    scripts.seal("child")
    scripts.ack(*scripts.lease())

    assert scripts.is_finished("parent")


@pytest.mark.parametrize("word", ["complete", "success"])
def test_a_task_of_the_same_name_is_not_overwritten(scripts: Scripts, word: str) -> None:
    scripts.add("default_end", body="somebody's")

    assert scripts.open_batch("b", **{word: "default_end"}) == -2

    assert scripts.state("default_end") == "ready"
    assert scripts.record("default_end")["body"] == "somebody's"
    assert scripts.redis.exists(store.batch_key("b")) == 0
