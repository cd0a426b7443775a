"""Whoever waits for a silent Redis gives up in time, and a process's own loop stays patient.

The tests use a patience of one second, so that two waits in a row would be seen; each limit is three times as
long. Without limits, one call waits for 15 s and more.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lastacross import config, datastore, deferred, memcache, store, taskqueue
from lastacross.broker import queue_directory
from lastacross.errors import StoreUnavailableError
from lastacross.processes import scheduler
from lastacross.store import ANSWER_TIMEOUT_SECONDS, PATIENCE_SECONDS, Store
from lastacross.store.store import SAME_WAIT_SECONDS
from lastacross.taskqueue import Batch, Task, TransientError
from tests.support.command_line import Capture, command_line
from tests.support.redis_server import RedisServer, running_server
from tests.support.wrong_servers import black_hole, never_accepting

PATIENCE = 1.0
LIMIT = 3 * PATIENCE
CLI_LIMIT = 3 * 3.0


@pytest.fixture(scope="module")
def own_server() -> Iterator[RedisServer]:
    """A server that a test may freeze."""
    with running_server() as server:
        yield server


@contextlib.contextmanager
def using(url: str) -> Iterator[Store]:
    opened = Store(url, patience_seconds=PATIENCE)
    store.use(opened)
    try:
        yield opened
    finally:
        store.use(None)
        opened.close()


@pytest.fixture
def frozen(own_server: RedisServer, configuration: config.Config) -> Iterator[Store]:
    """The store of a Redis that has answered before, but is silent now that everything is asked again."""
    with using(own_server.url) as opened:
        taskqueue.add(url="/before")
        memcache.set("before", 1)
        with own_server.frozen():
            opened._sync_at = 0.0
            queue_directory.current()._refresh_at = 0.0
            yield opened


def seconds_of(call: Callable[[], object]) -> float:
    began_at = time.monotonic()
    call()
    return time.monotonic() - began_at


def fails(call: Callable[[], object]) -> Callable[[], None]:
    def failing() -> None:
        with pytest.raises(TransientError):
            call()

    return failing


def add_after_commit() -> None:
    with datastore.transaction():
        taskqueue.add(url="/later", transactional=True)


CALLS: dict[str, Callable[[], object]] = {
    "add": fails(lambda: taskqueue.add(url="/a")),
    "add to an unknown queue": fails(lambda: taskqueue.add(url="/a", queue_name="default", name="n")),
    "add many": fails(lambda: taskqueue.Queue().add([Task(url=f"/{number}") for number in range(100)])),
    "defer": fails(lambda: deferred.defer(print, "x")),
    "batch": fails(lambda: Batch(name="b", on_complete=Task(url="/end")).__enter__()),
    "statistics": fails(lambda: taskqueue.Queue().fetch_statistics()),
    "lookups in a row": lambda: [memcache.get(f"key {number}") for number in range(20)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_frozen_redis_keeps_nobody_longer_than_one_patience(frozen: Store, name: str) -> None:
    assert PATIENCE / 2 < seconds_of(CALLS[name]) < LIMIT


@pytest.mark.slow
def test_a_commit_whose_task_cannot_be_sent_waits_no_longer(
    frozen: Store, configuration: config.Config, database: str
) -> None:
    assert seconds_of(add_after_commit) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("silent", [never_accepting, black_hole])
@pytest.mark.parametrize("name", ["add", "defer", "lookups in a row"])
def test_a_new_connection_keeps_nobody_longer_either(
    configuration: config.Config, silent: Callable[[], contextlib.AbstractContextManager[str]], name: str
) -> None:
    with silent() as url, using(url):
        assert PATIENCE / 2 < seconds_of(CALLS[name]) < LIMIT


@pytest.mark.slow
def test_a_black_hole_is_one(configuration: config.Config) -> None:
    with black_hole() as url, pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2].partition("/")[0])), timeout=1)


@pytest.mark.slow
def test_the_error_names_the_server(configuration: config.Config) -> None:
    with never_accepting() as url, using(url) as opened:
        with pytest.raises(StoreUnavailableError) as first:
            opened.sync_clock()
        opened.end_wait(first.value)
        with pytest.raises(TransientError) as second:
            taskqueue.add(url="/a")

    place = url.removeprefix("redis://").removesuffix("/0")
    assert str(first.value).startswith(f"Redis is not available: {place} is silent (")
    assert str(second.value) == f"Redis is not available: {place} did not answer a moment ago"


@pytest.mark.slow
def test_after_the_silence_the_next_wait_is_a_new_one(
    own_server: RedisServer, configuration: config.Config
) -> None:
    """The calls that fail immediately belong to the wait that is over; a failed add leaves none behind."""
    with using(own_server.url):
        taskqueue.add(url="/before")
        with own_server.frozen(), pytest.raises(TransientError):
            taskqueue.add(url="/during")

        taskqueue.add(url="/after")


@pytest.mark.slow
def test_calls_that_fail_immediately_do_so_for_a_moment_only(frozen: Store, own_server: RedisServer) -> None:
    with pytest.raises(StoreUnavailableError) as raised:
        frozen.sync_clock()
    frozen.end_wait(raised.value)
    assert seconds_of(fails(lambda: taskqueue.add(url="/a"))) < PATIENCE / 2

    frozen.end_wait(StoreUnavailableError("refused"))
    frozen._pool.wait.is_over_until -= SAME_WAIT_SECONDS
    assert seconds_of(fails(lambda: taskqueue.add(url="/a"))) > PATIENCE / 2


def timeout_of(opened: Store) -> float:
    return float(opened.redis.connection_pool.connection_kwargs["socket_timeout"])


def test_handlers_and_scripts_have_little_patience_and_a_loop_of_its_own_has_more(
    configuration: config.Config, redis_server: RedisServer
) -> None:
    store.use(None)
    try:
        assert timeout_of(store.current()) == PATIENCE_SECONDS < 3
        store.wait_longer()
        assert timeout_of(store.current()) == ANSWER_TIMEOUT_SECONDS
        assert timeout_of(Store(redis_server.url)) == ANSWER_TIMEOUT_SECONDS
    finally:
        store.use(None)


def test_the_scheduler_keeps_its_patience(
    configuration: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    monkeypatch.setattr(scheduler, "handle_stop_signals", lambda handler: {})
    monkeypatch.setattr(scheduler, "steps", stop)
    store.use(None)
    try:
        with pytest.raises(Stopped):
            scheduler.run(configuration)
        assert timeout_of(store.current()) == ANSWER_TIMEOUT_SECONDS
    finally:
        store.use(None)


COMMANDS = [
    ("queues", "list"),
    ("queues", "pause", "default"),
    ("queues", "purge", "default", "--yes"),
    ("tasks", "list", "default"),
    ("tasks", "show", "default", "a"),
    ("tasks", "run", "default", "a"),
    ("tasks", "delete", "default", "a"),
    ("tasks", "retry", "default", "--all"),
    ("cron", "run", "a"),
    ("admin", "link", "--url", "https://shop.example"),
]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_gives_up_in_one_line(
    app_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("SECRET_KEY", "a secret key of the tests, long enough")
    monkeypatch.chdir(app_root)
    with never_accepting() as url, command_line(capsys) as command:
        monkeypatch.setenv("REDIS_URL", url)
        began_at = time.monotonic()
        code, out, err = command(*arguments)

        assert time.monotonic() - began_at < CLI_LIMIT
    assert (code, out) == (1, "")
    assert err.startswith("lastacross: Redis is not available: 127.0.0.1:")
    assert err.count("\n") == 1
