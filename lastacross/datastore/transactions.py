"""Provides sessions and transactions, which are the two ways to access the data.

``session()`` is a SQLAlchemy Session that commits at the end of its ``with``. ``transaction()`` is a unit
of work that services can join. For example, ``taskqueue.add(…, transactional=True)`` becomes part of its
commit. Objects stay readable after the ``with``, because the commit does not expire them.
"""

import abc
import contextlib
import contextvars
import importlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from sqlalchemy import (
    Connection,
    CursorResult,
    Executable,
    event,
    exists,
    inspect,
    literal,
    select,
    table,
    text,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, SessionTransaction

from lastacross import logs
from lastacross.datastore import failures
from lastacross.datastore.engines import Engines, engines, make_folder
from lastacross.errors import BadTransactionStateError, DatastoreUsageError

log = logs.get(__name__)

Parameters = Sequence[Mapping[str, object]] | Mapping[str, object] | None

_UNIT = "lastacross_unit"
_HOLDS_CONNECTION = "lastacross_holds_connection"


class _WriterSession(Session):
    """A session that knows whether it has begun a transaction. If so, it holds the write lock on SQLite."""

    def holds_connection(self) -> bool:
        """Whether a statement has been sent since the last commit or rollback."""
        return bool(self.info.get(_HOLDS_CONNECTION))


@event.listens_for(_WriterSession, "after_begin")
def _note_begin(session: Session, _transaction: SessionTransaction, _connection: Connection) -> None:
    session.info[_HOLDS_CONNECTION] = True


@event.listens_for(_WriterSession, "after_transaction_end")
def _note_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info[_HOLDS_CONNECTION] = False


class _UnitSession(_WriterSession):
    """A session that only its own transaction can end, so that no part of the transaction commits alone."""

    def commit(self) -> NoReturn:
        raise DatastoreUsageError(
            "a transaction() commits as a whole at the end of its `with` block; "
            "use session() to commit earlier"
        )

    def rollback(self) -> NoReturn:
        raise DatastoreUsageError(
            "a transaction() is rolled back by an exception that leaves its `with` block; "
            "put any part that may fail into `with t.session.begin_nested():`"
        )

    def close(self) -> None:
        """Do nothing, because the end of the ``with`` closes the session."""

    def finish(self) -> None:
        """Return the connection and roll back uncommitted changes."""
        super().close()


class Unit:
    """A unit of work in progress that services can join, whoever began its transaction.

    Attributes:
        notes: a mapping where services can keep this transaction's data under their own keys.
        may_lose_rows: whether a row that was written may be gone after the commit, because the application
            can set savepoints that this object does not see.
    """

    may_lose_rows = False

    def __init__(self) -> None:
        self.notes: dict[str, Any] = {}
        self._owner = owner()
        self._callbacks: list[Callable[[], object]] = []
        self._undoers: list[Callable[[], object]] = []
        # The numbers of commit and rollback callbacks that existed when each savepoint was set.
        self._savepoints: weakref.WeakKeyDictionary[SessionTransaction, tuple[int, int]] = (
            weakref.WeakKeyDictionary()
        )
        self._is_committed = False
        self._is_finished = False

    def after_commit(self, callback: Callable[[], object]) -> None:
        """Register a callback to run after the commit, but not after a rollback.

        Callbacks run outside of the transaction, in the order of their registration. If a callback raises,
        the exception is logged and the commit stands. A callback registered inside a savepoint is dropped if
        the savepoint is rolled back.

        Raises:
            DatastoreUsageError: the transaction is over.
        """
        if self._is_finished:
            raise DatastoreUsageError("after_commit() was called too late: this transaction has ended")
        self._callbacks.append(callback)

    def after_rollback(self, callback: Callable[[], object]) -> None:
        """Register a callback to run if the transaction, or the current savepoint, is rolled back.

        A callback can restore data in memory, but it must not use the session. The last callback registered
        runs first. If a callback raises, the exception is logged. A commit whose reply was lost counts as
        rolled back, although it may have succeeded.

        Raises:
            DatastoreUsageError: the transaction is over.
        """
        if self._is_finished:
            raise DatastoreUsageError("after_rollback() was called too late: this transaction has ended")
        self._undoers.append(callback)

    def execute(self, statement: Executable, parameters: Parameters = None) -> list[Any]:
        """Execute a Core statement on the transaction's connection, and return its rows, if it has any."""
        raise NotImplementedError

    def is_here(self) -> bool:
        """Whether this thread of this process began the transaction, and it is still in progress."""
        return not self._is_finished and self._owner == owner()

    def finish(self) -> list[Callable[[], object]]:
        """End the transaction, run rollback callbacks if needed, and return the commit callbacks to run."""
        self._is_finished = True
        if self._is_committed:
            return self._callbacks
        self._undo_from(0)
        return []

    def savepoint_set(self, savepoint: SessionTransaction) -> None:
        """Remember which callbacks existed before a savepoint."""
        self._savepoints[savepoint] = (len(self._callbacks), len(self._undoers))

    def savepoint_rolled_back(self, savepoint: SessionTransaction) -> None:
        """Run the rollback callbacks registered since the savepoint, and drop its commit callbacks.

        A savepoint that was set before this object existed contains all of its callbacks.
        """
        callbacks, undoers = self._savepoints.get(savepoint, (0, 0))
        del self._callbacks[callbacks:]
        self._undo_from(undoers)

    def _undo_from(self, first: int) -> None:
        undoers = self._undoers[first:]
        del self._undoers[first:]
        call_each(list(reversed(undoers)), "datastore.after_rollback")


class Transaction(Unit):
    """A unit of work in progress, which is committed either completely or not at all.

    Attributes:
        session: the session for reads and writes. Its ``commit`` and ``rollback`` raise an error, but
            ``begin_nested`` (a savepoint) is allowed.
    """

    def __init__(self, session: _UnitSession) -> None:
        super().__init__()
        self.session: Session = session
        session.info[_UNIT] = self
        self._root = session.begin()
        self._is_spoilt = False

    def execute(self, statement: Executable, parameters: Parameters = None) -> list[Any]:
        """Execute a Core statement on the session's connection, without flushing the session."""
        return rows_of(self.session.connection().execute(statement, parameters))

    def spoil(self) -> None:
        """Make sure that the transaction ends in a rollback, whatever happens."""
        self._is_spoilt = True

    def commit(self) -> None:
        """Commit the transaction at the end of the outermost ``with``.

        Raises:
            DatastoreUsageError: a part of the transaction failed, or other code has ended it.
        """
        if self._is_spoilt:
            raise DatastoreUsageError(
                "a transaction() inside this one failed and its exception was caught, so this one cannot be "
                "committed either; put any part that may fail into `with t.session.begin_nested():`"
            )
        if self.session.get_transaction() is not self._root:
            raise DatastoreUsageError(
                "the session of this transaction() was committed or rolled back before its `with` block ended"
            )
        self._root.commit()
        self._is_committed = True


def rows_of(result: CursorResult[Any]) -> list[Any]:
    """The rows of a statement's result; none if the statement does not return rows."""
    return list(result.all()) if result.returns_rows else []


@event.listens_for(_UnitSession, "after_transaction_create")
def _note_savepoint(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested:
        session.info[_UNIT].savepoint_set(transaction)


@event.listens_for(_UnitSession, "after_soft_rollback")
def _undo_savepoint(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested:
        session.info[_UNIT].savepoint_rolled_back(transaction)


class Joined(abc.ABC):
    """The transactions of a session that is not ours, joined for the length of a block (see ``joining``)."""

    def __init__(self) -> None:
        self._owner = owner()
        self._is_over = False

    def is_here(self) -> bool:
        """Whether this thread of this process joined the session, and the block has not ended."""
        return not self._is_over and self._owner == owner()

    def end(self) -> None:
        """End the block, also for coroutines that were started in it and still run."""
        self._is_over = True

    @abc.abstractmethod
    def unit(self) -> Unit | None:
        """The session's transaction in progress, or None."""

    @abc.abstractmethod
    def begun_unit(self) -> Unit:
        """The session's transaction, which is begun if the session would begin it by itself.

        Raises:
            BadTransactionStateError: the session is not in a state to write a task.
        """

    @abc.abstractmethod
    def has_written(self) -> bool:
        """Whether a task was written in the transaction in progress, so that it has SQLite's write lock."""


current: contextvars.ContextVar[Transaction | Joined | None] = contextvars.ContextVar(
    "lastacross_transaction", default=None
)
"""The innermost transaction or joined session of the calling code."""

_writers: contextvars.ContextVar[tuple[tuple[object, _WriterSession], ...]] = contextvars.ContextVar(
    "lastacross_writers", default=()
)


def current_transaction() -> Unit | None:
    """The calling code's transaction, or None. Other threads and processes have their own transactions."""
    found = current.get()
    if found is None or not found.is_here():
        return None
    return found.unit() if isinstance(found, Joined) else found


def transaction_of_add(argument: str) -> Unit:
    """The transaction to which a transactional add belongs.

    Args:
        argument: the call's argument as an error names it, such as ``transactional=True``.

    Raises:
        BadTransactionStateError: there is no transaction, or it is not in a state to write a task.
    """
    found = current.get()
    if found is None or not found.is_here():
        raise BadTransactionStateError(
            f"{argument} requires an open datastore.transaction(), or a transaction of your own within "
            "datastore.join(session) or datastore.join_django()"
        )
    return found.begun_unit() if isinstance(found, Joined) else found


@contextlib.contextmanager
def session(*, read_only: bool = False) -> Iterator[Session]:
    """Open an independent session, which commits at the end of the ``with`` or rolls back on an exception.

    Args:
        read_only: whether to reject writes. On SQLite, such a session can run at the same time as a writer.
            It sees the data that was committed when it began to read.

    Raises:
        DatastoreUnavailableError: the database is unavailable, or was locked for 5 s (SQLite).
        DatastoreSchemaError: a table is missing because `lastacross db upgrade` was not run.
        DatastoreUsageError: on SQLite, the calling code already has a writer open and would wait for itself;
            or a read-only session was used to write.
    """
    used = engines()
    if read_only:
        with (
            translated_errors(used, read_only=True),
            Session(used.read, expire_on_commit=False) as opened,
        ):
            yield opened
            opened.commit()
        return
    _refuse_second_writer(used)
    with (
        translated_errors(used),
        _WriterSession(used.write, expire_on_commit=False) as opened,
        _writing(opened),
    ):
        yield opened
        opened.commit()


@contextlib.contextmanager
def transaction() -> Iterator[Transaction]:
    """Begin a unit of work, which commits at the end of the ``with`` or rolls back on an exception.

    A transaction inside another transaction joins the outer one, so nothing is committed before the outer
    transaction ends. An exception that leaves the inner ``with`` makes the whole transaction roll back, even
    if it is caught in between.

    Raises:
        DatastoreUnavailableError: the database is unavailable, or was locked for 5 s (SQLite). If the
            connection is lost during the commit itself, the commit's outcome is unknown.
        DatastoreSchemaError: a table is missing because `lastacross db upgrade` was not run.
        DatastoreUsageError: a part failed and its exception was caught; or on SQLite, the calling code is
            inside a ``session()`` that writes.
    """
    outer = current.get()
    if isinstance(outer, Transaction) and outer.is_here():
        with _spoiling(outer):
            yield outer
        return
    used = engines()
    _refuse_second_writer(used)
    with translated_errors(used):
        opened = _UnitSession(used.write, expire_on_commit=False)
        unit = Transaction(opened)
        token = current.set(unit)
        callbacks: list[Callable[[], object]] = []
        try:
            with _writing(opened):
                yield unit
                unit.commit()
        finally:
            current.reset(token)
            callbacks = unit.finish()
            opened.finish()
    call_each(callbacks, "datastore.after_commit")


def call_each(callbacks: list[Callable[[], object]], event: str) -> None:
    """Call the functions, and log their exceptions under the name of this event."""
    for callback in callbacks:
        try:
            callback()
        except Exception:
            log.exception(event, callback=getattr(callback, "__qualname__", repr(callback)))


@contextlib.contextmanager
def _spoiling(outer: Transaction) -> Iterator[None]:
    try:
        yield
    except BaseException:
        outer.spoil()
        raise


@contextlib.contextmanager
def _writing(opened: _WriterSession) -> Iterator[None]:
    token = _writers.set((*_writers.get(), (owner(), opened)))
    try:
        yield
    finally:
        _writers.reset(token)


def _refuse_second_writer(used: Engines) -> None:
    """On SQLite, raise an error immediately if the code would wait for itself until the busy timeout."""
    if not used.database.is_sqlite:
        return
    for place, opened in _writers.get():
        if place == owner() and opened.holds_connection():
            raise DatastoreUsageError(
                "this session() or transaction() would wait forever for the outer one, which is SQLite's "
                "only writer; use the outer one's session, or session(read_only=True)"
            )
    joined = current.get()
    if isinstance(joined, Joined) and joined.is_here() and joined.has_written():
        raise DatastoreUsageError(
            "this session() or transaction() would wait forever for the joined one, which is SQLite's only "
            "writer since its first task; use your own session, or session(read_only=True)"
        )


def owner() -> tuple[int, int]:
    """Identify the running code. A forked child or a thread with a copied context gets a different value."""
    return os.getpid(), threading.get_ident()


@contextlib.contextmanager
def translated_errors(used: Engines, *, read_only: bool = False) -> Iterator[None]:
    """Translate SQLAlchemy's errors to ours where ours are more helpful, once the session is closed."""
    try:
        yield
    except SQLAlchemyError as error:
        translated = failures.translate(error, used.database, read_only=read_only)
        if translated is not None:
            raise translated from error
        if failures.is_about_the_schema(error):
            # Import Alembic only for this message and not at every start.
            migrate = importlib.import_module("lastacross.datastore.migrate")
            with contextlib.suppress(SQLAlchemyError):
                migrate.require_current()
        raise


def find_filled_table() -> str | None:
    """Find the name of a table that has rows, not counting the migrations' tables; None if all are empty.

    Raises:
        DatastoreUnavailableError: the database is unavailable.
    """
    make_folder(engines().database)
    with session(read_only=True) as opened:
        for name in sorted(inspect(opened.connection()).get_table_names()):
            has_rows = exists(select(literal(1)).select_from(table(name)))
            if not name.endswith("alembic_version") and opened.scalar(select(has_rows)):
                return name
    return None


def ping() -> None:
    """Check with a small query that the database responds.

    Raises:
        DatastoreUnavailableError: the database does not answer, or its file is not a database.
    """
    with session(read_only=True) as opened:
        # On SQLite, selecting a constant would not read from the file.
        is_sqlite = opened.get_bind().dialect.name == "sqlite"
        opened.execute(text("PRAGMA schema_version" if is_sqlite else "SELECT 1"))
