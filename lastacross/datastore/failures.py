"""Classifies the database's errors as "not available", "wrong schema" or "read-only".

Pure: it only maps errors to decisions. SQLite reports result codes (https://www.sqlite.org/rescode.html),
and PostgreSQL reports an SQLSTATE (see appendix A of its manual).
"""

import sqlite3

from sqlalchemy import exc

from lastacross.datastore.url import DatabaseUrl
from lastacross.errors import DatastoreUnavailableError, DatastoreUsageError

_SQLITE_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOTADB,
}
_SQLITE_REMEDIES = {
    sqlite3.SQLITE_BUSY: "another connection held its write lock too long; keep transactions short",
    sqlite3.SQLITE_CANTOPEN: (
        "check that this user may write to its folder; `lastacross db upgrade` creates both"
    ),
    sqlite3.SQLITE_READONLY: "check that this user may write to the file and its folder",
    sqlite3.SQLITE_FULL: "free some space on its disk",
    sqlite3.SQLITE_NOTADB: "point DATABASE_URL at a SQLite file, or at a new one",
}
# Connection errors (08), lack of resources (53), locks (55P03), shutdown (57P) and disk errors (58).
_POSTGRESQL_UNAVAILABLE = ("08", "53", "55P03", "57P", "58", "25006", "28", "3D000")
_POSTGRESQL_READ_ONLY = "25006"
_POSTGRESQL_MISSING = ("42P01", "42703")
_SQLITE_MISSING = ("no such table", "no such column", "has no column named")


def translate(
    error: exc.SQLAlchemyError, database: DatabaseUrl, *, read_only: bool
) -> DatastoreUnavailableError | DatastoreUsageError | None:
    """Translate a SQLAlchemy error to one of ours; None if the original error is more helpful."""
    if read_only and _is_refused_write(error):
        return DatastoreUsageError(f"a read-only session cannot write: {_cause(error)}")
    if not is_unavailable(error):
        return None
    remedy = _SQLITE_REMEDIES.get(_sqlite_code(error))
    return DatastoreUnavailableError(
        f"the datastore {database} is not available: {_cause(error)}{f' ({remedy})' if remedy else ''}"
    )


def is_unavailable(error: exc.SQLAlchemyError) -> bool:
    """Whether the database was unreachable, locked, full or shutting down."""
    if isinstance(error, exc.TimeoutError):
        return True  # all of the pool's connections are in use
    if not isinstance(error, exc.DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_code(error) in _SQLITE_UNAVAILABLE
    state = _sqlstate(error)
    if state is None:
        # The server did not reply, so psycopg has no SQLSTATE.
        return error.connection_invalidated or isinstance(error, exc.OperationalError)
    return state.startswith(_POSTGRESQL_UNAVAILABLE)


def is_about_the_schema(error: exc.SQLAlchemyError) -> bool:
    """Whether the cause is a missing table or column."""
    if not isinstance(error, exc.DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return any(phrase in str(error.orig) for phrase in _SQLITE_MISSING)
    return _sqlstate(error) in _POSTGRESQL_MISSING


def _is_refused_write(error: exc.SQLAlchemyError) -> bool:
    return _sqlite_code(error) == sqlite3.SQLITE_READONLY or _sqlstate(error) == _POSTGRESQL_READ_ONLY


def _sqlite_code(error: exc.SQLAlchemyError) -> int:
    """The primary result code; 0 if the error does not come from SQLite."""
    if isinstance(error, exc.DBAPIError) and isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    return 0


def _sqlstate(error: exc.SQLAlchemyError) -> str | None:
    return getattr(error.orig, "sqlstate", None) if isinstance(error, exc.DBAPIError) else None


def _cause(error: exc.SQLAlchemyError) -> str:
    """The driver's own message, without the statement and its values."""
    cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig else error
    return " ".join(str(cause).split())
