"""A draining queue delivers its tasks and their retries, and refuses new ones."""

import pytest
from webob import Request

from lastacross import config, datastore, store, taskqueue, webapp
from lastacross.broker import Control, queue_directory
from lastacross.errors import TransientError
from lastacross.store import Store
from lastacross.taskqueue import Batch, Queue, Task
from lastacross.webapp import Environ, Start
from tests.support import databases
from tests.support.clock import StoppedClock
from tests.support.scripts import Scripts
from tests.support.uploads import upload


@pytest.fixture
def drained(scripts: Scripts) -> Scripts:
    """The queue "default" has the task "a" and is draining; "work" is a pull queue."""
    upload(scripts.store, {"default": {}, "other": {}, "work": {"mode": "pull"}})
    taskqueue.add(url="/a", name="a")
    Queue().drain()
    return scripts


def test_add_raises_a_transient_error_that_says_so(drained: Scripts) -> None:
    with pytest.raises(TransientError, match="queue 'default' is draining"):
        taskqueue.add(url="/b")
    with pytest.raises(TransientError, match="queues undrain default"):
        Queue().add([Task(url="/b"), Task(url="/c")])

    assert drained.ready() == ["default_a"]
    assert Queue("other").add(Task(url="/b")).was_enqueued


def test_a_request_that_adds_a_task_is_answered_503_with_the_reason(
    drained: Scripts, configuration: config.Config
) -> None:
    def adding(environ: Environ, start_response: Start) -> list[bytes]:
        taskqueue.add(url="/b")
        raise AssertionError("the task was added")

    application = webapp.outside(configuration, lambda _name: adding, {})

    answer = Request.blank("/", base_url="http://localhost").get_response(application)

    assert (answer.status_int, answer.headers["Retry-After"]) == (503, "5")
    assert "New work is not accepted at the moment. Please try again in a few seconds." in answer.text
    assert "Redis" not in answer.text
    assert drained.ready() == ["default_a"]


def test_a_pull_queue_can_drain(drained: Scripts) -> None:
    Queue("work").drain()

    with pytest.raises(TransientError, match="is draining"):
        Queue("work").add(Task("x", method="PULL"))


def test_tasks_and_their_retries_are_delivered(drained: Scripts) -> None:
    [(task, lease)] = drained.lease()
    later = f"{drained.clock.now() + 1:.6f}"
    assert drained.run("retry_task", task, lease, later, 500, drained.now, 1) == 1
    drained.clock.advance(2)
    drained.run("promote_due", drained.now, 100, "default")

    assert [again for again, _ in drained.lease()] == ["default_a"]


def test_undrain_accepts_tasks_again(drained: Scripts) -> None:
    Queue().undrain()

    assert taskqueue.add(url="/b").was_enqueued
    assert not Queue().is_draining()


def test_other_processes_refuse_tasks_within_a_second(
    drained: Scripts, configuration: config.Config, clock: StoppedClock
) -> None:
    other = queue_directory.QueueDirectory(Store(configuration.settings.redis_url, clock))
    assert other.all()["default"].is_draining
    Queue().undrain()
    clock.advance(1.01)

    assert not other.all()["default"].is_draining
    other.store.close()


def test_a_new_upload_keeps_the_drain(drained: Scripts, clock: StoppedClock) -> None:
    upload(drained.store, {"default": {}}, digest="another", resumes=True)
    clock.advance(1.01)

    assert Queue().is_draining()


def test_a_batch_refuses_members_but_can_be_sealed(drained: Scripts) -> None:
    Queue().undrain()
    with Batch(name="b") as batch:
        batch.add(Task(url="/m"))
        batch.leave_open()
    Queue().drain()

    with pytest.raises(TransientError), Batch(name="c"):
        pass
    with pytest.raises(TransientError), Batch(name="b") as batch:
        batch.add(Task(url="/n"), first=1)
    assert drained.counts("b") == {"total": 1, "cancelled": 1}


def test_an_open_batch_can_be_sealed(drained: Scripts) -> None:
    Queue().undrain()
    with Batch(name="b") as batch:
        batch.add(Task(url="/m"))
        batch.leave_open()
    Queue().drain()

    with Batch.get("b"):
        pass

    assert Batch.get("b").progress().sealed


def test_a_committed_transaction_still_delivers_its_task(drained: Scripts) -> None:
    databases.upgrade()
    Queue().undrain()
    with datastore.transaction():
        taskqueue.add(url="/t", transactional=True)
        Queue().drain()

    assert len(drained.ready()) == 2
    with pytest.raises(TransientError), datastore.transaction():
        taskqueue.add(url="/u", transactional=True)


def test_a_second_drain_changes_nothing(drained: Scripts) -> None:
    assert not Control(drained.store).drain("default", True)
    assert drained.redis.smembers(store.DRAINING) == {b"default"}
