"""SQLAlchemy's engine of this process, and how SQLite and PostgreSQL are set up.

SQLite: WAL, so that readers and the one writer do not wait for each other; every unit that may
write begins with BEGIN IMMEDIATE, because a transaction that reads first and then wants to write
fails with "database is locked" at once, whatever the timeout; a writer waits up to
``BUSY_TIMEOUT_SECONDS`` for its turn, and asks often enough to get one (``_await_turn``).

PostgreSQL: psycopg 3; each connection is probed before it is handed out, so that a restarted
server costs the units under way and no later one.

An engine never crosses a fork: the child makes its own. SQLite's locks do not cross one either, and a
child that opened the file while it still has a connection of its parent's would believe in locks that
it does not hold, and could lose data (https://www.sqlite.org/howtocorrupt.html, 2.6). So idle connections
are closed before a fork, and a child forked in the middle of its parent's unit is refused the file.
"""

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
from sqlalchemy import Connection, Engine, NullPool, event
from sqlalchemy.pool import ConnectionPoolEntry

from lastacross import config
from lastacross.clock import SYSTEM
from lastacross.datastore.url import DatabaseUrl, parse
from lastacross.errors import DatastoreUsageError

BUSY_TIMEOUT_SECONDS = 5.0
# How long a waiting writer sleeps before it asks again, at first and in the end.
FIRST_TURN_SECONDS = 0.004
SHORTEST_TURN_SECONDS = 0.0003
CONNECT_TIMEOUT_SECONDS = 5
# PostgreSQL takes 100 connections by default: web, scheduler and four workers of 8 threads fit.
POOL_SIZE = 8
POOL_OVERFLOW = 8
POOL_TIMEOUT_SECONDS = 10.0
# After a long reader the log is cut down to this again; without a limit it keeps its largest size.
WAL_LIMIT_BYTES = 64 * 1024 * 1024

READ_ONLY = "lastacross_read_only"


@dataclass(frozen=True)
class Engines:
    """What one process holds of one database.

    Attributes:
        text: the URL as configured.
        database: the URL as understood.
        write: for units that may write.
        read: the same pool; its transactions only read, and on SQLite never wait for a writer.
    """

    text: str
    database: DatabaseUrl
    write: Engine
    read: Engine


class _SqliteConnection(sqlite3.Connection):
    """SQLite's connection, which can be counted without being kept alive.

    ``is_left``: its pool was disposed of while it was in use, so nobody but us will close it.
    """

    __slots__ = ("__weakref__", "is_left")
    is_left: bool


# Those open now, in this process or, right after a fork, in its parent.
_open_files: weakref.WeakSet[_SqliteConnection] = weakref.WeakSet()


def build(
    database: DatabaseUrl, *, for_migrations: bool = False, busy_seconds: float | None = None
) -> Engine:
    """An engine; nothing is opened yet.

    Args:
        database: which.
        for_migrations: no pool, and on SQLite no foreign keys: a table that is rebuilt is dropped
            first, which would delete what refers to it.
        busy_seconds: how long a SQLite writer waits for its turn; None is the usual time.
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
    """Make the file, if it is not there, for its owner alone: SQLite would go by the umask.

    The journals get the mode of their database (https://www.sqlite.org/src/file/src/os_unix.c,
    findCreateFileMode). Not opened if it is there: closing it would drop this process's locks on it.
    """
    path = arguments[0]
    # No other thread may open it before it is closed here.
    with _lock:
        if not os.path.exists(path):
            # SQLite says better what keeps it from being made.
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _sqlite_setter(synchronous: str, *, foreign_keys: bool) -> Callable[[_SqliteConnection, object], None]:
    """What is done to each new connection."""

    def prepare(connection: _SqliteConnection, _record: object) -> None:
        connection.is_left = False
        _open_files.add(connection)
        # The driver would begin transactions late, and plain ones: _begin_sqlite does it instead.
        connection.isolation_level = None
        _enter_wal(connection)
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
        connection.execute(f"PRAGMA journal_size_limit={WAL_LIMIT_BYTES}")

    return prepare


def _forget_file(connection: _SqliteConnection, _record: object) -> None:
    _open_files.discard(connection)


def _close_left(connection: _SqliteConnection | None, _record: object) -> None:
    """Close a connection whose pool is gone: left to the garbage collector, Python 3.13 complains."""
    if connection is not None and connection.is_left:
        _open_files.discard(connection)
        connection.close()


def _dispose(engine: Engine) -> None:
    """Close the idle connections now, and the others when they are given back."""
    engine.dispose()
    if engine.dialect.name == "sqlite":
        for connection in list(_open_files):
            connection.is_left = True


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Make the file a WAL one, unless it is.

    The change needs the file for itself, and SQLite does not wait its busy timeout for that: when
    several processes open a new database at once, the others try again.
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
    """Lets one thread of this process at a time ask SQLite to be the writer.

    Threads that all ask, and sleep in between, leave the file unused most of the time: of 16 in two
    processes, 800 commits a second came through where one thread in each makes thousands (measured).
    """

    _PLACE = "lastacross.is_first"

    def __init__(self, longest_wait_seconds: float) -> None:
        self._lock = threading.Lock()
        self._longest_wait_seconds = longest_wait_seconds

    def enter(self, connection: Connection) -> None:
        """Wait to be first. Who waited in vain asks all the same: SQLite knows how to say no."""
        if not connection.info.get(self._PLACE):
            connection.info[self._PLACE] = self._lock.acquire(timeout=self._longest_wait_seconds)

    def leave(self, _connection: object, record: ConnectionPoolEntry) -> None:
        """The connection went back to its pool: the transaction has ended."""
        if record.info.pop(self._PLACE, False):
            self._lock.release()


def _sqlite_beginner(queue: _WritersQueue, busy_seconds: float) -> Callable[[Connection], None]:
    """How transactions begin: at once as the writer, or as a reader that cannot write."""

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
            # Once more, so that what it raises is SQLAlchemy's.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return begin


def _await_turn(connection: sqlite3.Connection, busy_seconds: float) -> bool:
    """Become the writer, or give up; whether it became it.

    SQLite's own busy handler sleeps longer and longer, up to 100 ms, so that whoever comes later wins
    again and again: of 16 threads that held the lock for 10 ms each, some waited for over 5 s
    (measured). So it asks the more often the longer it has waited: the oldest is the likeliest next.
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
            pause = max(SHORTEST_TURN_SECONDS, FIRST_TURN_SECONDS / (1 + waited / 0.1))
            threading.Event().wait(pause * random.uniform(0.5, 1.5))
    finally:
        connection.execute(f"PRAGMA busy_timeout={int(busy_seconds * 1000)}")


def read_only(engine: Engine) -> Engine:
    """The same engine, whose transactions only read."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{READ_ONLY: True})
    return engine.execution_options(postgresql_readonly=True)


# --- the engine of this process -----------------------------------------------------------

_lock = threading.Lock()
_current: Engines | None = None
_before_dispose: list[Callable[[], object]] = []
# Held for ever: to collect a parent's connection would close it, and with it the parent's locks.
_left_by_parents: list[Engines] = []
_was_forked_within_unit = False


def engines() -> Engines:
    """The engines of this process, for the configured database; made at the first call.

    Raises:
        ConfigError: DATABASE_URL cannot be used.
        DatastoreUsageError: this process was forked while its parent had a unit of work open on SQLite.
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
                    "cross a fork: fork outside of session() and transaction(), or start a new program"
                )
            write = build(database)
            if _current is not None:
                _dispose(_current.write)
            _current = Engines(text, database, write, read_only(write))
        return _current


def engine() -> Engine:
    """SQLAlchemy's engine of this process; ``session`` and ``transaction`` are the usual way to it.

    On SQLite every transaction begun on it is the writer; for reading take ``session(read_only=True)``.

    Raises:
        ConfigError: DATABASE_URL cannot be used.
    """
    return engines().write


def is_in_use(engine: Engine) -> bool:
    """Whether this is the engine of this process, and has not been disposed of."""
    found = _current
    return found is not None and found.write is engine


def before_dispose(write: Callable[[], object]) -> None:
    """Have a function called at the beginning of each ``dispose``: it writes what is still to be written."""
    _before_dispose.append(write)


def dispose() -> None:
    """Close this process's idle connections and forget its engine; the next use makes another."""
    global _current
    for write in _before_dispose:
        write()
    with _lock:
        if _current is not None:
            _dispose(_current.write)
        _current = None


def make_folder(database: DatabaseUrl) -> None:
    """Make the folder of a SQLite file, unless it is there."""
    if database.is_sqlite and database.url.database:
        Path(database.url.database).absolute().parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def _close_idle() -> None:
    """Before a fork: what is not open cannot be inherited."""
    if _current is not None and _current.database.is_sqlite:
        _dispose(_current.write)


def _leave_to_parent() -> None:
    """In a fork's child: the lock may be held by a thread that is not here, the pool is the parent's."""
    global _current, _lock, _was_forked_within_unit
    _lock = threading.Lock()
    _was_forked_within_unit = len(_open_files) > 0
    if _current is not None:
        _left_by_parents.append(_current)
    _current = None


os.register_at_fork(before=_close_idle, after_in_child=_leave_to_parent)
