"""The datastore, which keeps SQLAlchemy 2 models in the SQLite or PostgreSQL database of DATABASE_URL.

    class Square(datastore.Model): ...

    with datastore.transaction() as t:
        t.session.add(Square(...))
        taskqueue.add(url="/next", transactional=True)     # enqueued if, and only if, it commits

    with datastore.session(read_only=True) as session:
        squares = session.scalars(select(Square)).all()

The module ``url`` checks DATABASE_URL, and ``migrate`` creates and changes tables.
"""

import importlib
from typing import TYPE_CHECKING, Any

import sqlalchemy

from lastacross.datastore.engines import before_dispose, dispose, engine, is_in_use
from lastacross.datastore.tables import (
    OPEN_STATUSES,
    CronJob,
    CronRun,
    DeferredPayload,
    EngineModel,
    LongTask,
    LongTaskFile,
    LongTaskUsage,
    Model,
    OutboxRow,
)
from lastacross.datastore.transactions import (
    Transaction,
    current_transaction,
    find_filled_table,
    session,
    transaction,
)
from lastacross.datastore.url import parse
from lastacross.errors import (
    DatastoreError,
    DatastoreSchemaError,
    DatastoreUnavailableError,
    DatastoreUsageError,
)

if TYPE_CHECKING:
    from lastacross.datastore.migrate import is_current, require_current, revision, upgrade

__all__ = [
    "OPEN_STATUSES",
    "CronJob",
    "CronRun",
    "DatastoreError",
    "DatastoreSchemaError",
    "DatastoreUnavailableError",
    "DatastoreUsageError",
    "DeferredPayload",
    "EngineModel",
    "LongTask",
    "LongTaskFile",
    "LongTaskUsage",
    "Model",
    "OutboxRow",
    "Transaction",
    "before_dispose",
    "current_transaction",
    "dispose",
    "engine",
    "find_filled_table",
    "is_current",
    "is_in_use",
    "outbox",
    "parse",
    "ping",
    "relay",
    "require_current",
    "revision",
    "session",
    "transaction",
    "upgrade",
]

_MIGRATING = frozenset({"is_current", "require_current", "revision", "upgrade"})


def __getattr__(name: str) -> Any:
    """Import migrate.py at its first use, because Alembic would take up a sixth of each process's start."""
    if name in _MIGRATING:
        return getattr(importlib.import_module("lastacross.datastore.migrate"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def ping() -> None:
    """Check with a small query that the database responds.

    Raises:
        DatastoreUnavailableError: the database does not answer, or its file is not a database.
    """
    with session(read_only=True) as opened:
        # On SQLite, selecting a constant would not read from the file.
        is_sqlite = opened.get_bind().dialect.name == "sqlite"
        opened.execute(sqlalchemy.text("PRAGMA schema_version" if is_sqlite else "SELECT 1"))
