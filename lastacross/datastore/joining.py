"""Makes transactional adds part of a transaction of the application's own SQLAlchemy or Django session.

The outbox row is written on the session's own connection, so it is committed or rolled back together with
the application's rows. The tasks are sent after the outermost commit, which may come after the block.
"""

import contextlib
import importlib
import sqlite3
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sqlalchemy
from sqlalchemy import ClauseElement, Connection, Executable, event, exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from lastacross.datastore.engines import engines
from lastacross.datastore.transactions import (
    Joined,
    Parameters,
    Transaction,
    Unit,
    call_each,
    current,
    owner,
    rows_of,
    translated_errors,
)
from lastacross.datastore.url import place_of, shown
from lastacross.errors import BadTransactionStateError

_JOINED = "lastacross_joined"

_DJANGO_BACKENDS = {"sqlite": "sqlite", "postgresql": "postgresql"}


@contextlib.contextmanager
def join(session: Any) -> Iterator[None]:
    """Make transactional adds in this block part of the transactions of a SQLAlchemy session.

    The block neither begins nor ends a transaction: commit and roll back as you do without it, within the
    block or after it. A task belongs to the session's transaction (and savepoint) in which it was added.

    Args:
        session: an ORM ``Session``, or a ``scoped_session`` such as Flask-SQLAlchemy's ``db.session``. It
            must use the database of DATABASE_URL.

    Raises:
        BadTransactionStateError: the session uses another database, is asynchronous, commits in two phases,
            or is bound to a connection; or another transaction or joined session is open.
        TypeError: the object is not a session.
        ConfigError: DATABASE_URL is invalid.
    """
    with _joining(_SqlalchemyJoined(_session_of(session))):
        yield


@contextlib.contextmanager
def join_django(using: str = "default") -> Iterator[None]:
    """Make transactional adds in this block part of the transactions of a Django database.

    The block neither begins nor ends a transaction: an add needs a ``transaction.atomic()`` around it,
    outside or inside of the block. The tasks are sent after the outermost ``atomic()`` has committed.

    Args:
        using: the database's alias in Django's DATABASES. It must be the database of DATABASE_URL.

    Raises:
        BadTransactionStateError: the alias is another database; or another transaction or joined session is
            open.
        ConfigError: DATABASE_URL is invalid.
    """
    with _joining(_DjangoJoined(importlib.import_module("django.db"), using)):
        yield


@contextlib.contextmanager
def _joining(joined: "_SqlalchemyJoined | _DjangoJoined") -> Iterator[None]:
    outer = current.get()
    if isinstance(outer, Transaction) and outer.is_here():
        raise BadTransactionStateError(
            f"{joined.name} cannot be joined inside a datastore.transaction(), because the two commit "
            "separately; end the transaction() first, or use its session"
        )
    if isinstance(outer, _SqlalchemyJoined | _DjangoJoined) and outer.is_here():
        if outer.source is not joined.source:
            raise BadTransactionStateError(
                f"{joined.name} cannot be joined while {outer.name} is joined; end the outer block first"
            )
        yield
        return
    token = current.set(joined)
    try:
        yield
    finally:
        joined.end()
        current.reset(token)


def _require_same_database(name: str, theirs: sqlalchemy.URL) -> None:
    """Raise an error if a transaction of this database could not contain a row of our outbox."""
    ours = engines().database
    if place_of(theirs) != place_of(ours.url):
        raise BadTransactionStateError(
            f"{name} uses the database {shown(theirs)}, but DATABASE_URL is "
            f"{ours}: a transaction can contain tasks only if both name the same database"
        )


# --- SQLAlchemy ---------------------------------------------------------------------------


def _session_of(given: Any) -> Session:
    """The session to join.

    Raises:
        TypeError, BadTransactionStateError: as for ``join``.
    """
    found = given() if isinstance(given, scoped_session) else given
    if not isinstance(found, Session):
        kind = type(found).__name__
        if type(found).__module__.startswith("sqlalchemy.ext.asyncio"):
            raise BadTransactionStateError(
                f"an {kind} cannot be joined, because adding a task does not await; use a Session for the "
                "transactions that add tasks, in asyncio.to_thread()"
            )
        raise TypeError(f"join() needs a SQLAlchemy Session, not {kind}")
    if found.twophase:
        raise BadTransactionStateError(
            "a session with twophase=True cannot be joined, because another process may decide its commit; "
            "use a session without it for the transactions that add tasks"
        )
    try:
        bind = found.get_bind()
    except exc.UnboundExecutionError as error:
        raise BadTransactionStateError(
            "this session cannot be joined, because it has no bind for tables that are not its models'; "
            "create it as Session(engine)"
        ) from error
    if isinstance(bind, Connection):
        raise BadTransactionStateError(
            "a session that is bound to a connection cannot be joined, because its commit need not be the "
            "connection's; bind it to the engine"
        )
    if bind.dialect.is_async:
        raise BadTransactionStateError(
            "the Session of an AsyncSession cannot be joined, because adding a task does not await; use a "
            "Session with an engine of create_engine()"
        )
    _require_same_database("this session", bind.url)
    return found


class _SqlalchemyJoined(Joined):
    """A joined SQLAlchemy session."""

    name = "a SQLAlchemy session"

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.source = session

    def unit(self) -> "_SqlalchemyUnit | None":
        root = self.source.get_transaction()
        if root is None:
            return None
        found = self.source.info.get(_JOINED)
        if isinstance(found, _SqlalchemyUnit) and found.root is root:
            return found
        if _JOINED not in self.source.info:
            _listen(self.source)
        unit = self.source.info[_JOINED] = _SqlalchemyUnit(self.source, root)
        return unit

    def begun_unit(self) -> "_SqlalchemyUnit":
        try:
            if not self.source.in_transaction():
                if not self.source.autobegin:
                    raise BadTransactionStateError(
                        "the joined session has autobegin=False and no transaction; begin() it before the add"
                    )
                self.source.begin()
            unit = self.unit()
        except exc.InvalidRequestError as error:
            raise BadTransactionStateError(
                f"the joined session cannot be used: {error}; open a new one"
            ) from error
        if unit is None or not self.source.is_active:
            raise BadTransactionStateError(
                "the joined session's transaction has failed; roll it back, and add the task in a new one"
            )
        return unit

    def has_written(self) -> bool:
        found = self.source.info.get(_JOINED)
        return isinstance(found, _SqlalchemyUnit) and found.has_written


class _SqlalchemyUnit(Unit):
    """One transaction of a joined session, until its commit or rollback."""

    # The application may roll back to a savepoint of the connection or of its own SQL.
    may_lose_rows = True

    def __init__(self, session: Session, root: SessionTransaction) -> None:
        super().__init__()
        self._session = weakref.ref(session)
        self.root = root
        self.has_written = False

    def execute(self, statement: Executable, parameters: Parameters = None) -> list[Any]:
        session = self._session()
        if session is None:
            raise BadTransactionStateError("the joined session no longer exists")
        with translated_errors(engines()):
            connection = session.connection()
            _require_transaction(connection.connection.driver_connection)
            # Our tables have no tenants, whatever the application's schemas are.
            options = {"schema_translate_map": None}
            rows = rows_of(connection.execute(statement, parameters, execution_options=options))
        self.has_written = True
        return rows

    def note_commit(self) -> None:
        """Remember that the outermost commit has succeeded; its connections are still in use."""
        self._is_committed = True


def _require_transaction(driver: Any) -> None:
    """Raise an error if the driver would commit each statement by itself."""
    if isinstance(driver, sqlite3.Connection):
        commits_each = not driver.in_transaction and (
            driver.isolation_level is None or getattr(driver, "autocommit", None) is True
        )
    else:
        commits_each = bool(getattr(driver, "autocommit", False))
    if commits_each:
        raise BadTransactionStateError(
            "the joined session's connection commits each statement by itself (AUTOCOMMIT); use an engine "
            "without this isolation level for transactions that add tasks"
        )


def _listen(session: Session) -> None:
    """Follow a session's transactions. The listeners stay, because they cannot be removed while they run."""
    event.listen(session, "after_commit", _note_commit)
    event.listen(session, "after_transaction_end", _end)
    event.listen(session, "after_transaction_create", _note_savepoint)
    event.listen(session, "after_soft_rollback", _undo_savepoint)


def _unit_of(session: Session) -> _SqlalchemyUnit | None:
    found = session.info.get(_JOINED)
    return found if isinstance(found, _SqlalchemyUnit) else None


def _note_commit(session: Session) -> None:
    unit = _unit_of(session)
    # SQLAlchemy also reports the release of a savepoint.
    if unit is not None and not session.in_nested_transaction():
        unit.note_commit()


def _end(session: Session, transaction: SessionTransaction) -> None:
    unit = _unit_of(session)
    if unit is not None and transaction is unit.root:
        session.info[_JOINED] = None
        call_each(unit.finish(), "datastore.after_commit")


def _note_savepoint(session: Session, transaction: SessionTransaction) -> None:
    unit = _unit_of(session)
    if unit is not None and transaction.nested:
        unit.savepoint_set(transaction)


def _undo_savepoint(session: Session, transaction: SessionTransaction) -> None:
    unit = _unit_of(session)
    if unit is not None and transaction.nested:
        unit.savepoint_rolled_back(transaction)


# --- Django -------------------------------------------------------------------------------


def _django_url(connection: Any) -> sqlalchemy.URL:
    """A Django database's address as a URL."""
    settings = connection.settings_dict
    name = str(settings["NAME"] or "")
    if connection.vendor == "sqlite":
        return sqlalchemy.URL.create("sqlite", database=name)
    return sqlalchemy.URL.create(
        str(connection.vendor),
        username=settings["USER"] or None,
        password=settings["PASSWORD"] or None,
        host=str(settings["HOST"]) or None,
        port=int(settings["PORT"]) if settings["PORT"] else None,
        database=name or None,
    )


class _DjangoJoined(Joined):
    """A joined Django database: this thread's connection to it."""

    def __init__(self, django: Any, using: str) -> None:
        super().__init__()
        self.name = f"Django's database {using!r}"
        self.source = django.connections[using]
        self._database_error = django.Error
        if self.source.vendor not in _DJANGO_BACKENDS:
            raise BadTransactionStateError(
                f"{self.name} is {self.source.vendor}, which is not the database of DATABASE_URL "
                f"({engines().database}); tasks can only join a transaction of that database"
            )
        _require_same_database(self.name, _django_url(self.source))

    def unit(self) -> "_DjangoUnit | None":
        if not self.source.in_atomic_block:
            return None
        found = getattr(self.source, _JOINED, None)
        if isinstance(found, _DjangoUnit) and not found.is_over():
            return found
        unit = _DjangoUnit(self.source, self._database_error)
        setattr(self.source, _JOINED, unit)
        return unit

    def begun_unit(self) -> "_DjangoUnit":
        unit = self.unit()
        if unit is None:
            raise BadTransactionStateError(
                f"{self.name} has no transaction open; add the task within `with transaction.atomic():`"
            )
        if self.source.needs_rollback:
            raise BadTransactionStateError(
                f"the transaction of {self.name} has failed; add the task after the end of its atomic() block"
            )
        return unit

    def has_written(self) -> bool:
        found = getattr(self.source, _JOINED, None)
        return isinstance(found, _DjangoUnit) and found.has_written and not found.is_over()


class _Hook:
    """A function in Django's list of things to do on commit, which also notices that it was dropped.

    Django has no hook for a rollback. But it drops the functions that were registered since the savepoint or
    the transaction began, and this object is referenced from nowhere else.
    """

    def __init__(self, on_commit: Callable[[], object], on_rollback: Callable[[], object]) -> None:
        self._on_commit = on_commit
        self._on_rollback: Callable[[], object] | None = on_rollback
        self._owner = owner()

    def __call__(self) -> None:
        self._on_rollback = None
        call_each([self._on_commit], "datastore.after_commit")

    def __del__(self) -> None:
        undo = self._on_rollback
        if undo is not None and self._owner == owner():
            call_each([undo], "datastore.after_rollback")


def _nothing() -> None:
    """Do nothing."""


class _DjangoUnit(Unit):
    """One transaction of a Django connection, from its first task until its commit or rollback.

    If the first task's savepoint is rolled back, the next task gets a new object. The transaction has no
    tasks then, so nothing is lost.
    """

    may_lose_rows = True

    def __init__(self, connection: Any, database_error: type[Exception]) -> None:
        super().__init__()
        self._connection = weakref.proxy(connection)
        self._database_error = database_error
        self._dialect = (
            sqlite.dialect(paramstyle="pyformat")
            if connection.vendor == "sqlite"
            else postgresql.dialect(paramstyle="pyformat")  # type: ignore[no-untyped-call]
        )
        self.has_written = False
        self._connection.on_commit(_Hook(self._end, self._end))

    def is_over(self) -> bool:
        """Whether the transaction, or the savepoint that contains all of its tasks, has ended."""
        return self._is_finished

    def _end(self) -> None:
        self._is_finished = True

    def after_commit(self, callback: Callable[[], object]) -> None:
        self._connection.on_commit(_Hook(callback, _nothing))

    def after_rollback(self, callback: Callable[[], object]) -> None:
        self._connection.on_commit(_Hook(_nothing, callback))

    def execute(self, statement: Executable, parameters: Parameters = None) -> list[Any]:
        many = [parameters or {}] if isinstance(parameters, Mapping | None) else parameters
        # Django translates the placeholders %(name)s into SQLite's.
        assert isinstance(statement, ClauseElement)
        compiled = statement.compile(
            dialect=self._dialect,
            column_keys=list(many[0]) or None,
            compile_kwargs={"render_postcompile": True},
        )
        found: list[Any] = []
        try:
            with self._connection.cursor() as cursor, translated_errors(engines()):
                for each in many:
                    try:
                        cursor.execute(str(compiled), compiled.construct_params(each))
                    except self._database_error as error:
                        raise exc.DBAPIError(None, None, error.__cause__ or error) from error
                    self.has_written = True
                    found += cursor.fetchall() if cursor.description else []
        except exc.DBAPIError as error:
            raise (error.__cause__ or error) from None
        return found
