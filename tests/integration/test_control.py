"""What an operator asks of a queue: pause, resume, run one task now."""

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from lastacross import store, taskqueue
from lastacross.errors import (
    BadTaskStateError,
    InvalidTaskError,
    InvalidTaskNameError,
    TombstonedTaskError,
    TransientError,
    UnknownQueueError,
)
from lastacross.store import Store
from lastacross.taskqueue import Batch, Queue, Task
from tests.support.clock import StoppedClock
from tests.support.redis_server import running_server
from tests.support.scripts import Scripts
from tests.support.uploads import upload

CALLS: list[Callable[[Queue], object]] = [
    Queue.pause,
    Queue.resume,
    Queue.is_paused,
    lambda queue: queue.run_now("a"),
    lambda queue: queue.retry_dead(["a"]),
    lambda queue: queue.purge(),
    lambda queue: queue.delete_tasks_by_name("a"),
    lambda queue: queue.delete_tasks_and_free_names("a"),
]


@pytest.fixture
def scripts(scripts: Scripts) -> Scripts:
    """The steps; "work" is a pull queue."""
    upload(scripts.store, {"default": {}, "other": {}, "work": {"mode": "pull"}})
    return scripts


def names(scripts: Scripts, queue: str = "default") -> list[str]:
    """The ids of what a worker is given."""
    return [task for task, _ in scripts.lease(queue)]


def test_a_paused_queue_accepts_tasks_and_delivers_none_until_it_is_resumed(scripts: Scripts) -> None:
    Queue().pause()

    assert taskqueue.add(url="/a", name="a").was_enqueued
    assert (Queue().is_paused(), Queue("other").is_paused()) == (True, False)
    assert names(scripts) == []

    Queue().resume()

    assert not Queue().is_paused()
    assert names(scripts) == ["default_a"]


def test_pausing_and_resuming_twice_is_no_mistake(scripts: Scripts) -> None:
    Queue().pause()
    Queue().pause()
    assert Queue().is_paused()

    Queue().resume()
    assert not Queue().is_paused()
    Queue().resume()
    assert not Queue().is_paused()


def test_the_log_tells_what_was_asked_and_changed_something(scripts: Scripts) -> None:
    taskqueue.add(url="/a", name="a", countdown=60)

    with capture_logs() as logged:
        for ask in (Queue.pause, Queue.pause, Queue.resume, lambda queue: queue.run_now("a"), Queue.purge):
            ask(Queue())

    assert [{key: line[key] for key in line if key != "log_level"} for line in logged] == [
        {"event": "queue.pause", "queue": "default"},
        {"event": "queue.resume", "queue": "default"},
        {"event": "task.run_now", "queue": "default", "task": "a"},
        {"event": "queue.purge", "queue": "default", "tasks": 1},
    ]


def test_a_rate_of_0_is_not_a_pause(scripts: Scripts) -> None:
    upload(scripts.store, {"default": {"rate": "0.0"}})

    assert not Queue().is_paused()
    Queue().resume()
    taskqueue.add(url="/a")
    assert names(scripts) == []


def test_a_disabled_queue_can_be_paused_and_stays_so_when_it_is_listed_again(scripts: Scripts) -> None:
    upload(scripts.store, ["default"])
    Queue("other").pause()

    upload(scripts.store, ["default", "other"])

    assert Queue("other").is_paused()


def test_a_task_runs_now_whatever_its_eta_and_its_queue(scripts: Scripts) -> None:
    taskqueue.add(url="/a", name="a", countdown=3600)
    Queue().pause()

    Queue().run_now("a")

    assert names(scripts) == ["default_a"]


def test_a_dead_letter_runs_now_with_its_retries_anew(scripts: Scripts) -> None:
    taskqueue.add(url="/a", name="a")
    [(task_id, lease)] = scripts.lease()
    scripts.run("dead_letter_task", scripts.now, task_id, lease, 500, "answered 500")
    assert scripts.record(task_id)["failures"] == "1"

    Queue().run_now("a")

    [(leased, _, flat)] = scripts.ask_lease()[0]
    assert leased == task_id
    assert "failures" not in flat[::2]


def test_a_pull_task_can_be_leased_now(scripts: Scripts, clock: StoppedClock) -> None:
    queue = Queue("work")
    queue.add([Task("x", method="PULL", name=name, countdown=3600) for name in ("a", "b")])

    queue.run_now("a")
    clock.advance(0.001)

    [leased] = queue.lease_tasks(10, 5)
    assert leased.name == "a"
    with pytest.raises(BadTaskStateError, match="is already running"):
        queue.run_now("a")


@pytest.mark.parametrize("name", ["none", "", "a:b", "*", "x" * 600])
def test_a_task_that_there_is_not_is_named(scripts: Scripts, name: str) -> None:
    with pytest.raises(InvalidTaskError, match="queue 'default' has no task"):
        Queue().run_now(name)


def test_a_task_of_another_queue_is_not_this_ones(scripts: Scripts) -> None:
    taskqueue.add(url="/a", name="a", queue_name="other")

    with pytest.raises(InvalidTaskError):
        Queue().run_now("a")


def test_a_task_that_runs_or_waits_for_its_batch_cannot_run_now(scripts: Scripts) -> None:
    taskqueue.add(url="/a", name="a")
    scripts.lease()
    Batch(name="b", on_complete=Task(url="/end")).__enter__()

    with pytest.raises(BadTaskStateError, match="is already running"):
        Queue().run_now("a")
    with pytest.raises(BadTaskStateError, match="when its batch is complete"):
        Queue().run_now("b-complete")


@pytest.mark.parametrize("call", CALLS)
def test_a_queue_that_there_is_not_is_unknown(scripts: Scripts, call: Callable[[Queue], object]) -> None:
    with pytest.raises(UnknownQueueError, match="no queue 'nowhere'"):
        call(Queue("nowhere"))


@pytest.mark.parametrize("call", CALLS)
def test_without_redis_the_call_may_be_repeated(test_store: Store, call: Callable[[Queue], object]) -> None:
    with running_server() as server:
        opened = Store(server.url)
        store.use(opened)
        server.stop()
        with pytest.raises(TransientError):
            call(Queue())
        opened.close()


def test_a_deleted_task_may_free_its_name(scripts: Scripts) -> None:
    """Whether it waits, has ended or never was; ``delete_tasks_by_name`` keeps the name blocked."""
    queue = Queue()
    queue.add([Task(url="/a", name="waiting"), Task(url="/a", name="deleted")])
    queue.delete_tasks_by_name("deleted")
    with pytest.raises(TombstonedTaskError):
        queue.add(Task(url="/a", name="deleted"))

    assert queue.delete_tasks_and_free_names(["waiting", "deleted", "never"]) == [True, False, False]

    for name in ("waiting", "deleted", "never"):
        assert queue.add(Task(url="/b", name=name)).was_enqueued
    assert len(names(scripts)) == 3
    assert queue.delete_tasks_and_free_names([]) == []


def test_more_names_than_one_step_takes_are_freed(scripts: Scripts) -> None:
    queue = Queue()
    many = [f"n{number}" for number in range(150)]
    queue.add([Task(url="/a", name=name) for name in many[:100]])

    assert queue.delete_tasks_and_free_names(many) == [True] * 100 + [False] * 50
    assert names(scripts) == []
    with pytest.raises(InvalidTaskNameError):
        queue.delete_tasks_and_free_names("ü")
