"""The rpc objects of taskqueue and memcache: one call each, its callback, and its deadline."""

import contextlib
import functools
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lastacross import config, memcache, store, taskqueue
from lastacross.broker import queue_directory
from lastacross.datastore import outbox
from lastacross.errors import CallDeadlineExceededError
from lastacross.rpc import RPC
from lastacross.store import Store
from lastacross.taskqueue import Queue, QueueStatistics, Task
from tests.support.clock import StoppedClock
from tests.support.redis_server import running_server
from tests.support.uploads import upload

DEADLINE = 0.2


@pytest.fixture
def pull_queue(test_store: Store) -> Queue:
    """A pull queue."""
    upload(test_store, {"default": {}, "work": {"mode": "pull"}})
    return Queue("work")


def test_every_call_of_a_queue_takes_an_rpc(pull_queue: Queue, clock: StoppedClock) -> None:
    push = Queue()
    leased = Task("x", method="PULL", name="a")
    pull_queue.add_async(leased, rpc=taskqueue.create_rpc()).get_result()
    clock.advance(1)
    calls: list[Callable[[RPC], Any]] = [
        lambda rpc: push.add_async(Task(url="/a", name="a"), rpc=rpc),
        lambda rpc: Task(url="/b", name="b").add_async("default", False, rpc),
        lambda rpc: push.delete_tasks_by_name_async("a", rpc),
        lambda rpc: push.delete_tasks_async(Task(name="b"), rpc),
        lambda rpc: push.fetch_statistics_async(rpc),
        lambda rpc: QueueStatistics.fetch_async(push, rpc),
        lambda rpc: pull_queue.lease_tasks_async(60, 1, rpc),
        lambda rpc: pull_queue.lease_tasks_by_tag_async(60, 1, None, rpc),
    ]

    results = []
    for call in calls:
        rpc = taskqueue.create_rpc(deadline=5)
        assert call(rpc) is rpc
        results.append(rpc.get_result())

    assert [result.was_deleted for result in results[2:4]] == [True, True]
    assert results[4].tasks == results[5].tasks == 0
    assert [task.name for task in results[6]] == ["a"]
    rpc = taskqueue.create_rpc()
    pull_queue.modify_task_lease_async(results[6][0], 0, rpc)
    assert rpc.get_result() is None


@pytest.mark.usefixtures("test_store")
def test_every_call_of_memcache_takes_an_rpc() -> None:
    client = memcache.Client()
    calls: list[tuple[Callable[[RPC], Any], Any]] = [
        (lambda rpc: client.set_multi_async({"a": 1}, rpc=rpc), {"a": memcache.STORED}),
        (lambda rpc: client.add_multi_async({"a": 1}, rpc=rpc), {"a": memcache.NOT_STORED}),
        (lambda rpc: client.incr_async("a", rpc=rpc), 2),
        (lambda rpc: client.offset_multi_async({"a": 2}, rpc=rpc), {"a": 4}),
        (lambda rpc: client.get_multi_async(["a"], rpc=rpc), {"a": 4}),
        (lambda rpc: client.delete_multi_async(["a"], rpc=rpc), [memcache.DELETE_SUCCESSFUL]),
        (lambda rpc: client.peek_multi_async(["a"], rpc=rpc), {}),
        (lambda rpc: client.flush_all_async(rpc=rpc), True),
    ]

    for call, expected in calls:
        rpc = memcache.create_rpc(deadline=5)
        assert call(rpc) is rpc
        assert rpc.get_result() == expected
    rpc = memcache.create_rpc()
    assert set(client.get_stats_async(rpc).get_result() or ()) == {
        memcache.STAT_HITS,
        memcache.STAT_MISSES,
        memcache.STAT_BYTE_HITS,
        memcache.STAT_ITEMS,
        memcache.STAT_BYTES,
        memcache.STAT_OLDEST_ITEM_AGES,
    }


@pytest.mark.usefixtures("test_store")
def test_the_callback_is_called_once_even_after_a_failure() -> None:
    called: list[str] = []
    rpc = taskqueue.create_rpc(callback=lambda: called.append("called"))
    Queue("unknown").add_async(Task(url="/a"), rpc=rpc)
    assert called == []

    rpc.wait()
    with pytest.raises(taskqueue.UnknownQueueError):
        rpc.check_success()
    with pytest.raises(taskqueue.UnknownQueueError):
        rpc.get_result()

    assert called == ["called"]


@pytest.mark.usefixtures("test_store")
def test_waiting_for_several_calls_calls_all_callbacks() -> None:
    called: list[int] = []
    rpcs = [taskqueue.create_rpc(callback=functools.partial(called.append, number)) for number in range(2)]
    for rpc in rpcs:
        Queue().fetch_statistics_async(rpc)

    assert RPC.wait_any(rpcs) is rpcs[0]
    RPC.wait_all(rpcs)

    assert called == [0, 1]
    assert RPC.wait_any([]) is None


@pytest.mark.usefixtures("test_store")
def test_an_rpc_is_for_one_call_of_its_service() -> None:
    rpc = taskqueue.create_rpc()
    with pytest.raises(ValueError, match="no call yet"):
        rpc.get_result()
    with pytest.raises(TypeError, match=r"must come from memcache\.create_rpc"):
        memcache.get_multi_async(["a"], rpc=rpc)
    with pytest.raises(TypeError, match=r"must come from taskqueue\.create_rpc"):
        Queue().add_async(Task(url="/a"), rpc=object())  # type: ignore[arg-type]

    Queue().fetch_statistics_async(rpc)
    with pytest.raises(ValueError, match="already been used"):
        Queue().fetch_statistics_async(rpc)


@pytest.mark.parametrize(("deadline", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError)])
def test_a_deadline_leaves_time(deadline: Any, error: type[Exception]) -> None:
    with pytest.raises((error, taskqueue.InvalidDeadlineError)):
        taskqueue.create_rpc(deadline)
    with pytest.raises(error):
        memcache.create_rpc(deadline)


@pytest.mark.usefixtures("test_store")
def test_an_invalid_argument_of_memcache_is_raised_by_the_call() -> None:
    with pytest.raises(TypeError, match="memcache key"):
        memcache.set_multi_async({1: 1}, rpc=memcache.create_rpc())


@pytest.fixture
def silent(configuration: config.Config) -> Iterator[None]:
    """A Redis that answered before, and is silent now; without a deadline a call would wait for 5 s."""
    with running_server() as server:
        opened = Store(server.url, patience_seconds=5.0)
        store.use(opened)
        try:
            taskqueue.add(url="/before")
            memcache.set("before", 1)
            queue_directory.current()._refresh_at = float("inf")
            with server.frozen():
                yield
            # The limit ended with its call, and the next call does not pay for it.
            assert (opened._pool.wait.ends_at, opened._pool.wait.is_over_until) == (None, 0.0)
            taskqueue.add(url="/after")
        finally:
            store.use(None)
            opened.close()


@pytest.mark.usefixtures("silent")
def test_a_call_waits_no_longer_than_its_deadline() -> None:
    began_at = time.monotonic()
    rpc = taskqueue.create_rpc(deadline=DEADLINE)
    Queue().add_async(Task(url="/a"), rpc=rpc)
    with pytest.raises(CallDeadlineExceededError, match=r"did not end within 0\.2 s") as raised:
        rpc.get_result()
    seconds = time.monotonic() - began_at

    assert isinstance(raised.value, taskqueue.TransientError)
    assert DEADLINE * 0.9 < seconds < 2

    rpc = memcache.create_rpc(deadline=DEADLINE)
    assert memcache.get_multi_async(["before"], rpc=rpc).get_result() == {}
    assert time.monotonic() - began_at < 4


@pytest.fixture
def unreachable(configuration: config.Config) -> Iterator[None]:
    """A Redis whose machine does not answer: each connection would wait for 2 s."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        # The kernel ignores further connections until these are accepted.
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        opened = Store(f"redis://127.0.0.1:{address[1]}", patience_seconds=5.0)
        stack.callback(opened.close)
        store.use(opened)
        stack.callback(store.use, None)
        yield


@pytest.mark.usefixtures("unreachable")
def test_the_deadline_limits_connecting_too() -> None:
    began_at = time.monotonic()
    rpc = taskqueue.create_rpc(deadline=DEADLINE)
    Queue().delete_tasks_by_name_async("a", rpc=rpc)
    with pytest.raises(CallDeadlineExceededError, match=r"did not end within 0\.2 s"):
        rpc.get_result()
    seconds = time.monotonic() - began_at
    rpc = memcache.create_rpc(deadline=DEADLINE)
    assert memcache.get_multi_async(["before"], rpc=rpc).get_result() == {}

    assert DEADLINE * 0.9 < seconds < 1.5
    assert time.monotonic() - began_at < 3


def test_the_limits_are_app_engines() -> None:
    assert taskqueue.MAX_TRANSACTIONAL_REQUEST_SIZE_BYTES == outbox.MAX_BYTES_PER_TRANSACTION == 2**20
    assert taskqueue.MAX_TASK_SIZE_BYTES == taskqueue.MAX_PUSH_TASK_SIZE_BYTES == 102_400
    assert (taskqueue.MAX_PULL_TASK_SIZE_BYTES, taskqueue.MAX_LEASE_SECONDS) == (2**20, 604_800)
    assert (taskqueue.MAX_TASKS_PER_LEASE, taskqueue.MAX_TASKS_PER_ADD) == (1000, 100)
    assert (taskqueue.MAX_QUEUE_NAME_LENGTH, taskqueue.MAX_TASK_NAME_LENGTH) == (100, 500)
    assert (taskqueue.MAX_TAG_LENGTH, taskqueue.MAX_URL_LENGTH) == (500, 2083)
    assert taskqueue.MIN_DISPATCH_DEADLINE.total_seconds() == 15
    assert taskqueue.MAX_DISPATCH_DEADLINE.total_seconds() == 86_400
    assert taskqueue.BadTransactionState is taskqueue.BadTransactionStateError


def test_the_default_version_is_the_default_service() -> None:
    task = Task(url="/a", target=taskqueue.DEFAULT_APP_VERSION)

    assert task.target is taskqueue.DEFAULT_APP_VERSION
    assert task.target == config.DEFAULT_SERVICE
    assert repr(task.target) == "<DefaultApplicationVersion>"
