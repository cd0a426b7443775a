"""The datastore, which keeps SQLAlchemy 2 models in DATABASE_URL's SQLite or PostgreSQL database.

    class Square(datastore.Model): ...

    with datastore.transaction() as t:
        t.session.add(Square(...))
        taskqueue.add(url="/next", transactional=True)  # enqueued if, and only if, it commits

    with datastore.session(read_only=True) as session:
        squares = session.scalars(select(Square)).all()

    with datastore.join(my_session):  # or datastore.join_django()
        taskqueue.add(url="/next", transactional=True)  # enqueued when my_session commits

Each name is imported at its first use, because importing SQLAlchemy takes longer than a short command should.
The module ``url`` checks DATABASE_URL, and ``migrate`` creates and changes tables.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lastacross.errors import (
    DatastoreError,
    DatastoreSchemaError,
    DatastoreUnavailableError,
    DatastoreUsageError,
)

if TYPE_CHECKING:
    from lastacross.datastore.engines import before_dispose, dispose, engine, is_in_use, prepare
    from lastacross.datastore.joining import join, join_django
    from lastacross.datastore.migrate import is_current, require_current, revision, upgrade
    from lastacross.datastore.quick import read_quickly
    from lastacross.datastore.tables import (
        OPEN_STATUSES,
        Account,
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
        Unit,
        current_transaction,
        find_filled_table,
        ping,
        session,
        transaction,
        transaction_of_add,
    )
    from lastacross.datastore.url import parse

__all__ = [
    "OPEN_STATUSES",
    "Account",
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
    "Unit",
    "before_dispose",
    "current_transaction",
    "dispose",
    "engine",
    "find_filled_table",
    "is_current",
    "is_in_use",
    "join",
    "join_django",
    "outbox",
    "parse",
    "ping",
    "prepare",
    "read_quickly",
    "relay",
    "require_current",
    "revision",
    "session",
    "transaction",
    "transaction_of_add",
    "upgrade",
]

_HOMES = {
    "engines": ("before_dispose", "dispose", "engine", "is_in_use", "prepare"),
    "joining": ("join", "join_django"),
    "quick": ("read_quickly",),
    "tables": (
        "OPEN_STATUSES",
        "Account",
        "CronJob",
        "CronRun",
        "DeferredPayload",
        "EngineModel",
        "LongTask",
        "LongTaskFile",
        "LongTaskUsage",
        "Model",
        "OutboxRow",
    ),
    "transactions": (
        "Transaction",
        "Unit",
        "current_transaction",
        "find_filled_table",
        "ping",
        "session",
        "transaction",
        "transaction_of_add",
    ),
    "url": ("parse",),
    "migrate": ("is_current", "require_current", "revision", "upgrade"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = frozenset({"outbox", "relay"})


def __getattr__(name: str) -> Any:
    """Import the module with this name of ``__all__`` at its first use."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
