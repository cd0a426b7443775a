"""The shorter and the asynchronous spellings of add, as App Engine had them."""

import pytest

from lastacross import taskqueue
from lastacross.store import Store


@pytest.fixture(autouse=True)
def _store(test_store: Store) -> None:
    """A store for every test here."""


def test_a_task_adds_itself() -> None:
    """To the default queue unless another is named."""
    task = taskqueue.Task(url="/work", name="once")
    assert task.add() is task
    assert (task.was_enqueued, task.queue_name) == (True, "default")
    with pytest.raises(taskqueue.TaskAlreadyExistsError):
        taskqueue.Task(url="/work", name="once").add()
    with pytest.raises(taskqueue.UnknownQueueError):
        taskqueue.Task(url="/work").add("nowhere")


def test_an_asynchronous_add_gives_its_result_or_its_error_when_asked() -> None:
    """The error does not come before."""
    added = taskqueue.Task(url="/work", name="once").add_async()
    refused = taskqueue.Queue().add_async(taskqueue.Task(url="/work", name="once"))
    added.check_success()
    assert added.get_result().name == "once"
    refused.wait()
    with pytest.raises(taskqueue.TaskAlreadyExistsError):
        refused.get_result()


def test_tasks_are_deleted_asynchronously() -> None:
    """By object and by name."""
    first, second = taskqueue.Queue().add([taskqueue.Task(name="one"), taskqueue.Task(name="two")])
    assert taskqueue.Queue().delete_tasks_async(first).get_result().was_deleted
    assert taskqueue.Queue().delete_tasks_by_name_async("two").get_result().was_deleted
    assert not second.was_deleted
