"""remove_queue: a disabled queue without tasks is forgotten."""

import pytest

from lastacross import store
from tests.support.scripts import Scripts


@pytest.fixture
def disabled(scripts: Scripts) -> Scripts:
    """The scripts, with the queue "default" disabled."""
    scripts.redis.hset(store.settings_key("default"), "is_disabled", 1)
    return scripts


def test_only_a_disabled_queue_is_forgotten(disabled: Scripts) -> None:
    assert [disabled.run("remove_queue", name) for name in ("other", "nowhere", "default")] == [0, 0, 1]

    assert disabled.redis.exists(store.settings_key("default")) == 0
    assert disabled.redis.exists(store.settings_key("other")) == 1


def test_a_queue_with_a_task_that_is_to_run_now_is_not_forgotten(disabled: Scripts) -> None:
    disabled.add("default_a", countdown=9)
    assert disabled.run("run_task", "default_a", disabled.now) == "ready"
    # The request is in no list of the queue.
    assert disabled.places("default_a") == []

    assert disabled.run("remove_queue", "default") == -1

    assert disabled.redis.exists(store.settings_key("default")) == 1


def test_a_task_of_another_queue_that_is_to_run_now_does_not_matter(disabled: Scripts) -> None:
    disabled.add("other_a", countdown=9)
    disabled.run("run_task", "other_a", disabled.now)

    assert disabled.run("remove_queue", "default") == 1
