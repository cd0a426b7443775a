"""The application that is measured: in a temporary folder, and in use by this process."""

import contextlib
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import redis

from lastacross import config, deferred, store, taskqueue
from lastacross.config.settings import VARIABLES, masked_url

WORK = "work"
QUILT = "quilt"
SECRET_KEY = "a key of the benchmarks, to sign deferred calls with"
POLL_SECONDS = 0.005
RAN = "BENCH_RAN"
"""The variable that names a file with one byte for each task that ran."""
ROOT = Path(__file__).parent.parent.parent

_SITE = Path(__file__).parent / "site"
_FIRST_QUEUES = 2
# What is measured is the engine as it is shipped, whatever the environment of this process says.
_SET_BY_OPERATORS = {variable.name for variable in VARIABLES}
_QUEUE = "\n- name: more-{number}\n  rate: 50000/s\n  bucket_size: 50000\n"


class MeasureError(Exception):
    """Raised when nothing was measured: something is not as the measure needs it; the message says what."""


class Start(NamedTuple):
    """What a task told: the name that it was given, the monotonic instant of its start, its process."""

    name: str
    at: float
    pid: int


@dataclass(frozen=True)
class Place:
    """One application and its Redis.

    Attributes:
        root: the application's folder.
        redis: this process's own connection, beside the engine's.
        environ: the environment of worker processes.
        main: the application's module, as this process imported it.
    """

    root: Path
    redis: redis.Redis
    environ: dict[str, str]
    main: ModuleType

    def task(self, kind: str, index: int = 0) -> taskqueue.Task:
        """A task of this kind that does nothing."""
        row, column = divmod(index, 100)
        if kind == "deferred":
            return deferred.task(self.main.noop, row, column)
        return taskqueue.Task(url="/work", params={"row": row, "column": column})

    def tasks(self, kind: str, count: int) -> Iterator[taskqueue.Task]:
        """So many of them, made one at a time."""
        return (self.task(kind, index) for index in range(count))

    def telling(self, kind: str, key: str, name: str = "-", *, seconds: float = 0.0) -> taskqueue.Task:
        """A task of this kind that tells when it begins, and then lasts so many seconds; see ``told``."""
        if kind == "deferred":
            return deferred.task(self.main.tell, key, name, seconds)
        return taskqueue.Task(url="/tell", params={"key": key, "name": name, "seconds": seconds})

    def left(self, queue: str = WORK) -> int:
        """Tasks that wait, also for a retry, and tasks in progress, at one instant."""
        pipeline = self.redis.pipeline()
        pipeline.llen(store.ready_key(queue))
        pipeline.zcard(store.scheduled_key(queue))
        pipeline.zcard(store.leased_key(queue))
        return sum(pipeline.execute())

    def wait_until_done(self, seconds: float, queue: str = WORK) -> int:
        """Wait until no task of the queue is left; returns how often was looked.

        Raises:
            MeasureError: not in time, or a task became a dead letter.
        """
        looks = wait_until(lambda: self.left(queue) == 0, seconds, f"the tasks of {queue!r} to be done")
        dead = self.redis.zcard(store.dead_key(queue))
        if dead:
            raise MeasureError(f"{dead} tasks of {queue!r} failed for good")
        return looks

    def check_runs(self, tasks: int) -> None:
        """Refuse figures of tasks that were lost or that ran twice.

        Raises:
            MeasureError: not exactly so many ran.
        """
        ran = (self.root / "ran").stat().st_size
        if ran != tasks:
            raise MeasureError(f"{ran} tasks ran, though {tasks} were added")

    def told(self, key: str, seconds: float = 60.0) -> Start:
        """What the next task pushed to this list.

        Raises:
            MeasureError: none did in time.
        """
        # The server counts in whole ticks of 100 ms, and 0 would be for ever.
        found: Any = self.redis.blpop([key], max(0.1, seconds))
        if found is None:
            raise MeasureError(f"no task told of itself within {seconds:g} s")
        name, instant, pid = found[1].decode().split(" ")
        return Start(name, float(instant), int(pid))


def say(text: str) -> None:
    """Tell on standard error how far it is."""
    print(text, file=sys.stderr, flush=True)


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> int:
    """Look every 5 ms until it is true; returns how often was looked.

    Raises:
        MeasureError: it was not in time.
    """
    deadline, looks = time.monotonic() + seconds, 1
    while not condition():
        if time.monotonic() > deadline:
            raise MeasureError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(POLL_SECONDS)
        looks += 1
    return looks


@contextlib.contextmanager
def made_place(redis_url: str, queues: int = _FIRST_QUEUES) -> Iterator[Place]:
    """Make the application, on this Redis, with so many queues.

    Raises:
        MeasureError: the server holds keys already: they would be counted, and might be somebody's.
    """
    with tempfile.TemporaryDirectory(prefix="la-bench-") as name, _connected(redis_url) as client:
        root = Path(name)
        shutil.copytree(_SITE, root, dirs_exist_ok=True)
        with (root / "queue.yaml").open("a") as file:
            file.writelines(_QUEUE.format(number=number) for number in range(_FIRST_QUEUES, queues))
        environ = {
            **{key: value for key, value in os.environ.items() if key not in _SET_BY_OPERATORS},
            "REDIS_URL": redis_url,
            "DATABASE_URL": f"sqlite:///{root}/bench.db",
            "SECRET_KEY": SECRET_KEY,
            "LASTACROSS_DATA_DIR": str(root / "var"),
            RAN: str(root / "ran"),
        }
        (root / "ran").touch()
        with _in_use(root, environ) as main:
            yield Place(root, client, environ, main)


@contextlib.contextmanager
def _connected(redis_url: str) -> Iterator[redis.Redis]:
    shown = masked_url(redis_url)
    try:
        client = redis.Redis.from_url(redis_url)
    except ValueError as error:
        raise MeasureError(f"--redis {shown} is no URL of a Redis server: {error}") from error
    with client:
        try:
            keys = client.dbsize()
        except redis.RedisError as error:
            raise MeasureError(f"no Redis server answers at {shown}: {error}") from error
        if keys:
            raise MeasureError(f"the Redis server at {shown} holds {keys} keys; give it a fresh one")
        yield client


@contextlib.contextmanager
def _in_use(root: Path, environ: dict[str, str]) -> Iterator[ModuleType]:
    """Make it the application of this process; a deferred function is known by its module's name."""
    config.use(config.load(root, environ))
    os.environ["REDIS_URL"] = environ["REDIS_URL"]
    opened = store.Store(environ["REDIS_URL"])
    store.use(opened)
    sys.path.insert(0, str(root))
    try:
        yield importlib.import_module("main")
    finally:
        sys.path.remove(str(root))
        store.use(None)
        opened.close()
        config.use(None)
