"""An application under test, with its folder's configuration, a Redis, a datastore and a stopped clock."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lastacross import config, datastore, store
from lastacross.broker import queue_directory
from lastacross.config import Config
from lastacross.errors import ConfigError
from lastacross.processes import application as loading
from lastacross.testing import arguments, seen
from lastacross.testing.clock import StoppedClock
from lastacross.testing.inline import Inline, WatchedStore
from lastacross.testing.redis_server import redis_server
from lastacross.testing.running import MAX_ATTEMPTS, TaskRunner, raise_failure
from lastacross.testing.seen import DeliveredTask, EnqueuedTask
from lastacross.webapp import Wsgi, administrator
from lastacross.worker import Deadlines, Delivery

SECRET_KEY = "of tests alone, and known to all"
LOOPBACK = "localhost,127.0.0.1,[::1]"

# Caches the file of an empty datastore for each application folder, because creating one takes longer than
# most tests.
_empty_datastores: dict[Path, bytes] = {}


class ApplicationUnderTest:
    """An application whose tasks a test runs.

    Args:
        configuration: its folder's configuration.
        opened: its Redis store.
        clock: the store's clock.
        application: the loaded application.
        delivery: the object that delivers tasks to the application.

    Attributes:
        wsgi: the application as the web server serves it, for ``webtest.TestApp`` and similar tools.
        clock: a clock that stands still until a task's eta or the test moves it.
        config: its configuration.
        store: its Redis store.
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
        """The environ for the administrator's requests, for example as webtest's ``extra_environ``."""
        key = self.config.settings.secret_key
        return {"HTTP_COOKIE": f"{administrator.cookie_name(key)}={administrator.new_cookie(key)}"}

    def run_tasks(
        self,
        queue: str | None = None,
        *,
        retry: bool = False,
        within_seconds: float | None = None,
        at_most: int = MAX_ATTEMPTS,
    ) -> list[DeliveredTask]:
        """Run waiting tasks, and the tasks that these add, one after another until none is left.

        They run in the order of their etas. The clock moves to each eta, and to the next start that a queue's
        rate allows. Tasks of paused queues, or of queues with rate 0, are not run.

        Args:
            queue: the only queue whose tasks run, or None for all queues.
            retry: whether to retry failed tasks according to their retry options. Otherwise the handler's
                exception is raised here, and the task becomes a dead letter.
            within_seconds: how far to move the clock, in seconds; only tasks that are due by then are run.
            at_most: the maximum number of attempts.

        Returns:
            The attempts in order.

        Raises:
            TaskFailedError: a handler answered with a status outside 200-299 without raising an exception.
            RunTasksError: tasks are left after ``at_most`` attempts.
            ValueError: the queue does not exist or is a pull queue, or a number is negative.
            TypeError: an argument is not a number.
            Exception: a handler's own exception.
        """
        arguments.check_seconds("within_seconds", within_seconds)
        arguments.check_count("at_most", at_most)
        if queue is not None and seen.mode_of(self.store, queue) == "pull":
            raise ValueError(f"nothing runs the tasks of the pull queue {queue!r}; lease them instead")
        attempts = self._runner.attempts(
            [] if queue is None else [queue], retry=retry, within_seconds=within_seconds, at_most=at_most
        )
        if attempts and not retry:
            raise_failure(attempts[-1])
        return [attempt.seen for attempt in attempts]

    @contextlib.contextmanager
    def inline_tasks(self, *, retry: bool = False) -> Iterator[None]:
        """Within the block, an added task runs before the call that adds it returns.

        Tasks added inside a ``datastore.transaction()``, transactionally or not, run after its commit. Tasks
        that a task adds run after that task. Nothing waits for an eta, because the clock moves to it.

        Args:
            retry: as for ``run_tasks``; without it the first failure is raised at the end of the block.

        Raises:
            TaskFailedError, Exception: as for ``run_tasks``.
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
        """The tasks in one or all queues, ordered by eta.

        Args:
            queue: the queue's name, or None for all queues.
            url: a path (with any query), or a path and query, to filter by.
            name: a task name to filter by.
            states: ``ready``, ``scheduled``, ``leased``, ``dead``, ``waiting``.

        Raises:
            ValueError: the queue or a state does not exist.
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
        """Fail unless ``count`` matching tasks are waiting; returns them.

        Args:
            count: the exact number, or None for at least one.
            queue: as for ``enqueued``.
            url: as for ``enqueued``.
            name: as for ``enqueued``.

        Raises:
            AssertionError: there are more or fewer matching tasks; the message lists all waiting tasks.
            ValueError: the queue does not exist, or ``count`` is negative.
            TypeError: ``count`` is not a whole number.
        """
        arguments.check_count("count", count, none_means="at least one")
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
    """This process's application, with empty queues, cache and datastore.

    The environment is ignored, so that REDIS_URL and DATABASE_URL cannot lead a test to real data.

    Args:
        root: its folder.
        redis_url: the URL of a server that may be flushed; None starts a separate server and takes a
            moment.
        database_url: the URL of a writable, empty database, with or without its tables; it is not cleared at
            the end. None uses a separate SQLite file.
        environ: variables to set, as listed by ``lastacross config show``.

    Raises:
        ConfigError: the configuration is invalid, or the database is not empty.
        StartupError: no Redis server is installed on this machine.
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
        # This is like App Engine's own test bed and development server, which do not count as production
        # either.
        software = configuration.settings.server_software.replace("Google App Engine", "Development")
        loaded = loading.load(configuration, server_software=software)
        stack.enter_context(_django_transactions_kept())
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
    """Restore the environment and the search path at the end."""
    environ, path = dict(os.environ), list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(os.environ) - set(environ):
            del os.environ[name]
        os.environ.update(environ)


@contextlib.contextmanager
def _django_transactions_kept() -> Iterator[None]:
    """Let requests pass in the middle of a test's transaction, if the application has imported Django.

    Django closes a connection before and after each request if it is in the middle of a transaction, and
    with it the one that Django's TestCase and pytest-django's ``db`` open around a test.
    """
    database: Any = sys.modules.get("django.db")
    if database is None:
        yield
        return
    signals: Any = sys.modules["django.core.signals"]

    def close_others(**_: object) -> None:
        for connection in database.connections.all(initialized_only=True):
            if not connection.in_atomic_block:
                connection.close_if_unusable_or_obsolete()

    both = (signals.request_started, signals.request_finished)
    for signal in both:
        signal.disconnect(database.close_old_connections)
        signal.connect(close_others)
    try:
        yield
    finally:
        for signal in both:
            signal.disconnect(close_others)
            signal.connect(database.close_old_connections)


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
    """Create the tables, or copy a file that has them."""
    if file is None:
        # Check this before the migrations run, because they may change existing rows.
        filled = datastore.find_filled_table()
        if filled is not None:
            raise ConfigError(
                f"database_url: the table {filled} of this database has rows, but a test must begin with an "
                "empty database. Give it its own database, or drop the tables between tests"
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
