"""An application in a test: its folder's configuration, a Redis, a datastore, a clock that stands still."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lastacross import config, datastore, store
from lastacross.broker import queue_directory
from lastacross.config import Config
from lastacross.errors import ConfigError
from lastacross.processes import application as loading
from lastacross.testing import arguments, seen
from lastacross.testing.clock import StoppedClock
from lastacross.testing.inline import Inline, WatchedStore
from lastacross.testing.redis_server import redis_server
from lastacross.testing.running import MOST_ATTEMPTS, TaskRunner, raise_failure
from lastacross.testing.seen import DeliveredTask, EnqueuedTask
from lastacross.webapp import Wsgi, administrator
from lastacross.worker import Deadlines, Delivery

SECRET_KEY = "of tests alone, and known to all"
LOOPBACK = "localhost,127.0.0.1,[::1]"

# The file of an empty datastore by the folder whose tables it has: to make one takes longer than most tests.
_empty_datastores: dict[Path, bytes] = {}


class ApplicationUnderTest:
    """An application whose tasks a test runs.

    Args:
        configuration: of its folder.
        opened: its Redis.
        clock: of that.
        application: loaded.
        delivery: to it.

    Attributes:
        wsgi: the application as the web server serves it: for ``webtest.TestApp`` and its like.
        clock: stands still until a task's eta, or the test, moves it.
        config: its configuration.
        store: its Redis.
    """

    def __init__(
        self,
        configuration: Config,
        opened: WatchedStore,
        clock: StoppedClock,
        *,
        application: loading.Application,
        delivery: Delivery,
    ) -> None:
        self.config = configuration
        self.store = opened
        self.clock = clock
        self.wsgi: Wsgi = application.outside
        self._runner = TaskRunner(opened, delivery, clock)

    @property
    def administrator_environ(self) -> dict[str, str]:
        """For the environ of requests that the administrator makes: webtest's ``extra_environ``, say."""
        key = self.config.settings.secret_key
        return {"HTTP_COOKIE": f"{administrator.cookie_name(key)}={administrator.new_cookie(key)}"}

    def run_tasks(
        self,
        queue: str | None = None,
        *,
        retry: bool = False,
        within_seconds: float | None = None,
        at_most: int = MOST_ATTEMPTS,
    ) -> list[DeliveredTask]:
        """Run the tasks that wait, and those that they add, one after another, until none is left.

        In the order of their etas; the clock goes on to each, and to when a queue's rate lets the next one
        start. What is paused, or has the rate 0, stays.

        Args:
            queue: only this one's; None = all.
            retry: let failed tasks be tried again as their retry options say. Otherwise what the handler
                raised is raised here, and the task is a dead letter.
            within_seconds: only what is due until then; the clock is there afterwards.
            at_most: so many attempts.

        Returns:
            The attempts in the order in which they were made.

        Raises:
            TaskFailedError: a handler answered outside 200-299 without an exception.
            RunTasksError: tasks are left after ``at_most`` attempts.
            ValueError: there is no such queue, or it is a pull queue; a number is below zero.
            TypeError: what should be a number is none.
            Exception: what a handler raised.
        """
        arguments.check_seconds("within_seconds", within_seconds)
        arguments.check_count("at_most", at_most)
        if queue is not None and seen.mode_of(self.store, queue) == "pull":
            raise ValueError(f"nothing runs the tasks of the pull queue {queue!r}: lease them")
        attempts = self._runner.attempts(
            [] if queue is None else [queue], retry=retry, within_seconds=within_seconds, at_most=at_most
        )
        if attempts and not retry:
            raise_failure(attempts[-1])
        return [attempt.seen for attempt in attempts]

    @contextlib.contextmanager
    def inline_tasks(self, *, retry: bool = False) -> Iterator[None]:
        """Within the block, what is added runs before the call that adds it returns.

        Transactional adds, and others inside of a ``datastore.transaction()``, run when that has committed;
        what a task adds, when the task has ended. Etas are not waited for: the clock goes on to them.

        Args:
            retry: as ``run_tasks``; without it the first failure is raised at the end of the block.

        Raises:
            TaskFailedError, Exception: as ``run_tasks``.
        """
        inline = Inline(self._runner, retry=retry)
        before, self.store.on_add = self.store.on_add, inline.run
        try:
            yield
        except BaseException as error:
            inline.end(error)
            raise
        finally:
            self.store.on_add = before
        inline.end(None)

    def enqueued(
        self,
        queue: str | None = None,
        *,
        url: str | None = None,
        name: str | None = None,
        states: Iterable[str] = ("ready", "scheduled"),
    ) -> list[EnqueuedTask]:
        """The tasks that are in a queue, or in any, by their etas.

        Args:
            queue: None = all.
            url: only these: a path, whatever the query, or path and query.
            name: only the one of this name.
            states: ``ready``, ``scheduled``, ``leased``, ``dead``, ``waiting``.

        Raises:
            ValueError: there is no such queue or state.
        """
        return seen.enqueued(self.store, queue, url=url, name=name, states=states)

    def assert_enqueued(
        self,
        count: int | None = None,
        *,
        queue: str | None = None,
        url: str | None = None,
        name: str | None = None,
    ) -> list[EnqueuedTask]:
        """Fail unless so many such tasks wait; returns them.

        Args:
            count: exactly; None = one at least.
            queue: as ``enqueued``.
            url: as ``enqueued``.
            name: as ``enqueued``.

        Raises:
            AssertionError: there are more, or fewer; it lists what is there.
            ValueError: there is no such queue; ``count`` is below zero.
            TypeError: ``count`` is no whole number.
        """
        arguments.check_count("count", count, none_means="one at least")
        found = self.enqueued(queue, url=url, name=name)
        if len(found) == count or (count is None and found):
            return found
        wanted = {"queue": queue, "url": url, "name": name}
        which = " ".join(f"{key}={value!r}" for key, value in wanted.items() if value is not None)
        there = "".join(f"\n  {task}" for task in self.enqueued()) or " none"
        how_many = "at least one" if count is None else str(count)
        raise AssertionError(
            f"expected {how_many} waiting task(s) {which}".rstrip() + f", found {len(found)}; of all:{there}"
        )


@contextlib.contextmanager
def application(
    root: Path | str,
    *,
    redis_url: str | None = None,
    database_url: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[ApplicationUnderTest]:
    """An application of this process, with nothing in its queues, its cache and its datastore.

    Nothing of the environment is used: neither REDIS_URL nor DATABASE_URL may lead a test to real data.

    Args:
        root: its folder.
        redis_url: a server that may be emptied; None = one of its own, which takes a moment to start.
        database_url: an empty database, with or without its tables, that may be written to. It is not
            emptied at the end. None = a SQLite file of its own.
        environ: variables as ``lastacross config show`` lists them.

    Raises:
        ConfigError: something in its configuration cannot be used, or the database is not empty.
        StartupError: there is no Redis server for this machine.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="la-test-")))
        url = redis_url or stack.enter_context(redis_server())
        given = {
            "REDIS_URL": url,
            "DATABASE_URL": database_url or f"sqlite:///{folder}/test.db",
            "SECRET_KEY": SECRET_KEY,
            "LASTACROSS_DATA_DIR": str(folder / "var"),
            "LASTACROSS_FETCH_PRIVATE_HOSTS": LOOPBACK,
            **(environ or {}),
        }
        configuration = config.load(Path(root), given)
        stack.enter_context(_process_restored())
        clock = StoppedClock()
        opened = WatchedStore(url, clock)
        stack.callback(opened.close)
        stack.enter_context(_in_use(configuration, opened))
        _prepare_datastore(configuration, None if database_url else folder / "test.db")
        # As App Engine's own test bed and development server said it: neither is production.
        software = configuration.settings.server_software.replace("Google App Engine", "Development")
        loaded = loading.load(configuration, server_software=software)
        deadlines = Deadlines(on_stuck=lambda label: None)
        deadlines.start()
        stack.callback(deadlines.stop)
        delivery = Delivery(
            loaded.inside,
            deadlines,
            direct_calls=loaded.direct_calls,
            deadline_seconds=configuration.deadline_seconds,
        )
        yield ApplicationUnderTest(configuration, opened, clock, application=loaded, delivery=delivery)


@contextlib.contextmanager
def _process_restored() -> Iterator[None]:
    """Let the environment and the search path be at the end as they were."""
    environ, path = dict(os.environ), list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(os.environ) - set(environ):
            del os.environ[name]
        os.environ.update(environ)


@contextlib.contextmanager
def _in_use(configuration: Config, opened: WatchedStore) -> Iterator[None]:
    with store.translated_errors():
        opened.redis.flushall()
    config.use(configuration)
    store.use(opened)
    queue_directory.upload(opened, configuration)
    try:
        yield
    finally:
        datastore.dispose()
        store.use(None)
        config.use(None)


def _prepare_datastore(configuration: Config, file: Path | None) -> None:
    """Make the tables, or copy a file that has them."""
    if file is None:
        # Looked at before the migrations: they may change what is there.
        filled = datastore.find_filled_table()
        if filled is not None:
            raise ConfigError(
                f"database_url: the table {filled} of this database has rows. A test begins with nothing: "
                "give it a database of its own, or drop the tables between tests"
            )
        datastore.upgrade()
        return
    root = configuration.root
    if root not in _empty_datastores:
        datastore.upgrade()
        datastore.dispose()
        _empty_datastores[root] = file.read_bytes()
    else:
        file.write_bytes(_empty_datastores[root])
