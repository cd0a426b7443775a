"""Sets up SQLite or PostgreSQL, and keeps this process's SQLAlchemy engine.

SQLite runs in WAL mode, so readers and the single writer do not block each other. Every unit of work that may
write begins with BEGIN IMMEDIATE, because a transaction that reads first and writes later could fail
immediately with "database is locked", regardless of the timeout. A writer waits up to
``BUSY_TIMEOUT_SECONDS`` for its turn, and asks often enough to get it (``_await_turn``).

PostgreSQL uses psycopg 3. Each connection is tested before it is handed out, so a restart of the server
breaks only the units of work in progress.

An engine is never shared across a fork, so the child creates its own. SQLite's locks are not inherited by a
fork either. If a child opened the file while it still had its parent's connection, it would rely on locks
that it does not hold and could lose data (https://www.sqlite.org/howtocorrupt.html, 2.6). So idle connections
are closed before a fork, and a child that was forked during its parent's unit of work must not open the file.
"""

import atexit
import contextlib
import os
import random
import sqlite3
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import sqlalchemy
from sqlalchemy import Connection, Engine, NullPool, event, orm
from sqlalchemy.pool import ConnectionPoolEntry

from lastacross import config
from lastacross.clock import SYSTEM
from lastacross.datastore.url import DatabaseUrl, parse
from lastacross.errors import DatastoreUsageError

BUSY_TIMEOUT_SECONDS = 5.0
# A waiting writer sleeps this long between its first tries, and at least the minimum between later tries.
FIRST_TURN_SECONDS = 0.004
MIN_TURN_SECONDS = 0.0003
CONNECT_TIMEOUT_SECONDS = 5
# PostgreSQL allows 100 connections by default, enough for web, scheduler and four workers of 8 threads.
POOL_SIZE = 8
POOL_OVERFLOW = 8
POOL_TIMEOUT_SECONDS = 10.0
# After a long read, the write-ahead log shrinks to this size. Without a limit, it would never shrink.
WAL_LIMIT_BYTES = 64 * 1024 * 1024

READ_ONLY = "lastacross_read_only"


@dataclass(frozen=True)
class Engines:
    """One process's engines for one database.

    Attributes:
        text: the URL as it was configured.
        database: the parsed URL.
        write: the engine for units of work that may write.
        read: an engine on the same pool for read-only transactions, which never wait for a writer on SQLite.
    """

    text: str
    database: DatabaseUrl
    write: Engine
    read: Engine


class _SqliteConnection(sqlite3.Connection):
    """A SQLite connection that supports weak references, so that we can count it without keeping it alive.

    ``is_left`` means that the pool was disposed of while the connection was in use, so we must close it.
    """

    __slots__ = ("__weakref__", "is_left")
    is_left: bool


# The connections that are open in this process or, right after a fork, in its parent.
_open_files: weakref.WeakSet[_SqliteConnection] = weakref.WeakSet()


def build(
    database: DatabaseUrl, *, for_migrations: bool = False, busy_seconds: float | None = None
) -> Engine:
    """Build an engine without opening anything.

    Args:
        database: the database to connect to.
        for_migrations: whether to build it without a pool and, on SQLite, without foreign keys. Rebuilding
            a table drops it first. With foreign keys, this would delete the rows that refer to it.
        busy_seconds: the time that a SQLite writer waits for its turn; None means the default.
    """
    pool: dict[str, Any] = {"poolclass": NullPool}
    if not for_migrations:
        pool = {"pool_size": POOL_SIZE, "max_overflow": POOL_OVERFLOW, "pool_timeout": POOL_TIMEOUT_SECONDS}
    if not database.is_sqlite:
        arguments = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "lastacross"}
        arguments = {name: value for name, value in arguments.items() if name not in database.url.query}
        return sqlalchemy.create_engine(
            database.url, connect_args=arguments, pool_pre_ping=not for_migrations, **pool
        )
    timeout = BUSY_TIMEOUT_SECONDS if busy_seconds is None else busy_seconds
    arguments = {"timeout": timeout, "factory": _SqliteConnection}
    engine = sqlalchemy.create_engine(database.url, connect_args=arguments, **pool)
    event.listen(engine, "do_connect", _make_private)
    event.listen(engine, "connect", _sqlite_setter(database.synchronous, foreign_keys=not for_migrations))
    queue = _WritersQueue(timeout)
    event.listen(engine, "begin", _sqlite_beginner(queue, timeout))
    event.listen(engine, "checkin", queue.leave)
    event.listen(engine, "checkin", _close_left)
    event.listen(engine, "close", _forget_file)
    return engine


def _make_private(_dialect: object, _record: object, arguments: Any, _options: object) -> None:
    """Create a missing file so that only its owner can access it, because SQLite would apply the umask.

    Journals get the same mode as their database (https://www.sqlite.org/src/file/src/os_unix.c,
    findCreateFileMode). An existing file is not opened, because closing it would drop this process's locks.
    """
    path = arguments[0]
    # No other thread may open the file until we have closed it here.
    with _lock:
        if not os.path.exists(path):
            # SQLite's own error explains better why the file cannot be created.
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _sqlite_setter(synchronous: str, *, foreign_keys: bool) -> Callable[[_SqliteConnection, object], None]:
    """Return the function that sets up each new connection."""

    def prepare(connection: _SqliteConnection, _record: object) -> None:
        connection.is_left = False
        _open_files.add(connection)
        # The driver would begin transactions late and without IMMEDIATE, so we begin them ourselves.
        connection.isolation_level = None
        _enter_wal(connection)
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
        connection.execute(f"PRAGMA journal_size_limit={WAL_LIMIT_BYTES}")

    return prepare


def _forget_file(connection: _SqliteConnection, _record: object) -> None:
    _open_files.discard(connection)


def _close_left(connection: _SqliteConnection | None, _record: object) -> None:
    """Close a connection that has lost its pool, because Python 3.13 warns if garbage collection does so."""
    if connection is not None and connection.is_left:
        _open_files.discard(connection)
        connection.close()


def _dispose(engine: Engine) -> None:
    """Close idle connections now, and all others when they are returned."""
    engine.dispose()
    if engine.dialect.name == "sqlite":
        for connection in list(_open_files):
            connection.is_left = True


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL mode, unless it is already in this mode.

    Switching needs exclusive access, but SQLite does not apply its busy timeout here. So if several processes
    open a new database at the same time, all but one must try again.
    """
    pause = threading.Event()
    for attempts_left in reversed(range(250)):
        try:
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                connection.execute("PRAGMA journal_mode=WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or not attempts_left:
                raise
            pause.wait(0.02)


class _WritersQueue:
    """Lets only one thread of this process at a time ask SQLite for the write lock.

    If all threads ask and sleep in between, the file is idle most of the time. In one benchmark, sixteen
    threads in two processes managed 800 commits per second, but a single thread in each managed thousands.
    """

    _PLACE = "lastacross.is_first"

    def __init__(self, longest_wait_seconds: float) -> None:
        self._lock = threading.Lock()
        self._longest_wait_seconds = longest_wait_seconds

    def enter(self, connection: Connection) -> None:
        """Wait to be first in the queue. After a timeout, ask anyway and let SQLite report the error."""
        if not connection.info.get(self._PLACE):
            connection.info[self._PLACE] = self._lock.acquire(timeout=self._longest_wait_seconds)

    def leave(self, _connection: object, record: ConnectionPoolEntry) -> None:
        """Let the next thread ask, because a connection that is back in its pool has no transaction."""
        if record.info.pop(self._PLACE, False):
            self._lock.release()


def _sqlite_beginner(queue: _WritersQueue, busy_seconds: float) -> Callable[[Connection], None]:
    """Return the function that begins a transaction, either as a reader or immediately as the writer."""

    def begin(connection: Connection) -> None:
        read_only = bool(connection.get_execution_options().get(READ_ONLY, False))
        if connection.info.get(READ_ONLY, False) != read_only:
            connection.exec_driver_sql(f"PRAGMA query_only={'ON' if read_only else 'OFF'}")
            connection.info[READ_ONLY] = read_only
        if read_only:
            connection.exec_driver_sql("BEGIN")
            return
        queue.enter(connection)
        if not _await_turn(cast(sqlite3.Connection, connection.connection.driver_connection), busy_seconds):
            # Try once more through SQLAlchemy, so that SQLAlchemy raises the error.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return begin


def _await_turn(connection: sqlite3.Connection, busy_seconds: float) -> bool:
    """Wait for the write lock. Returns whether the caller got it.

    SQLite's own busy handler sleeps longer and longer, up to 100 ms, so later callers keep overtaking. In one
    benchmark with 16 threads that held the lock for 10 ms each, some threads waited for over 5 s. So a caller
    here asks more often the longer it has waited, and the oldest caller is most likely to be next.
    """
    started = SYSTEM.monotonic()
    connection.execute("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return True
            except sqlite3.OperationalError as error:
                waited = SYSTEM.monotonic() - started
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or waited > busy_seconds:
                    return False
            pause = max(MIN_TURN_SECONDS, FIRST_TURN_SECONDS / (1 + waited / 0.1))
            threading.Event().wait(pause * random.uniform(0.5, 1.5))
    finally:
        connection.execute(f"PRAGMA busy_timeout={int(busy_seconds * 1000)}")


def read_only(engine: Engine) -> Engine:
    """Return the same engine with read-only transactions."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{READ_ONLY: True})
    return engine.execution_options(postgresql_readonly=True)


# --- the engine of this process -----------------------------------------------------------

_lock = threading.Lock()
_current: Engines | None = None
_before_dispose: list[Callable[[], object]] = []
# Keep these forever, because garbage collection would close a parent's connection and release its locks.
_left_by_parents: list[Engines] = []
_was_forked_within_unit = False


def engines() -> Engines:
    """This process's engines for the configured database, which are built at the first call.

    Raises:
        ConfigError: DATABASE_URL is invalid.
        DatastoreUsageError: this process was forked while its parent had a SQLite unit of work open.
    """
    global _current
    text = config.current().settings.database_url
    found = _current
    if found is not None and found.text == text:
        return found
    with _lock:
        if _current is None or _current.text != text:
            database = parse(text)
            if database.is_sqlite and _was_forked_within_unit:
                raise DatastoreUsageError(
                    "this process was forked while its parent had a session open, and SQLite's locks do not "
                    "survive a fork; fork outside session() and transaction(), or start a new program"
                )
            write = build(database)
            if _current is not None:
                _dispose(_current.write)
            _current = Engines(text, database, write, read_only(write))
        return _current


def engine() -> Engine:
    """This process's SQLAlchemy engine. Most code should use ``session`` and ``transaction`` instead.

    On SQLite, each of the engine's transactions takes the write lock, so use ``session(read_only=True)`` to
    read.

    Raises:
        ConfigError: DATABASE_URL is invalid.
    """
    return engines().write


def prepare(text: str) -> None:
    """Do what the first unit of work would do before it connects, in a process that will fork others.

    Args:
        text: the database's URL.
    """
    # The first unit of work will report errors in models or in the URL.
    with contextlib.suppress(Exception):
        build(parse(text)).dispose()
        orm.configure_mappers()


def is_in_use(engine: Engine) -> bool:
    """Whether this is the process's current engine, which means that it has not been disposed of."""
    found = _current
    return found is not None and found.write is engine


def before_dispose(write: Callable[[], object]) -> None:
    """Register a function that writes pending data, to be called at the beginning of each ``dispose``."""
    _before_dispose.append(write)


def dispose() -> None:
    """Close this process's idle connections and drop its engine; the next use builds a new engine."""
    global _current
    for write in _before_dispose:
        write()
    with _lock:
        if _current is not None:
            _dispose(_current.write)
        _current = None


def make_folder(database: DatabaseUrl) -> None:
    """Create the folder for a SQLite file if it is missing."""
    if database.is_sqlite and database.url.database:
        Path(database.url.database).absolute().parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def _close_idle() -> None:
    """Close idle connections before a fork, so that the child does not inherit them."""
    if _current is not None and _current.database.is_sqlite:
        _dispose(_current.write)


def _leave_to_parent() -> None:
    """Replace the lock and the engines in a forked child, because they may belong to the parent."""
    global _current, _lock, _was_forked_within_unit
    _lock = threading.Lock()
    _was_forked_within_unit = len(_open_files) > 0
    if _current is not None:
        _left_by_parents.append(_current)
    _current = None


os.register_at_fork(before=_close_idle, after_in_child=_leave_to_parent)
# Registered early, because exit hooks run in reverse order and those registered later may use the datastore.
atexit.register(dispose)
