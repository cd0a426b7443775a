"""The current task as a deferred call may carry it to another process."""

import pickle

from lastacross.broker import CurrentTask


def test_a_former_release_can_unpickle_the_current_task() -> None:
    current = CurrentTask("default_t", "t", "default", 2, 1, 1, member="b:3", handler="/.*")

    pickled = pickle.dumps(current)

    # The former release's class has slots and no `handler`, so it cannot take that field.
    assert b"handler" not in pickled
    loaded = pickle.loads(pickled)
    assert (loaded.id, loaded.attempt, loaded.member, loaded.handler) == ("default_t", 2, "b:3", "")


def test_the_present_release_can_unpickle_a_former_current_task() -> None:
    current = CurrentTask("default_t", "t", "default", 2, 1, 1)
    names = ("id", "name", "queue_name", "attempt", "retry_count", "execution_count", "member", "failure")
    former = {name: getattr(current, name) for name in names}

    restored = CurrentTask.__new__(CurrentTask)
    restored.__setstate__((None, former))

    assert (restored.id, restored.handler) == ("default_t", "")
