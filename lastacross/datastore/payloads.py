"""Records which task needs which datastore row: the rows with deferred calls that were too large for a task.

A row gets its task's id *before* the task is added. A row without a task's id may be deleted only when it
is old enough that no task can need it (``deferred.payloads``).
"""

from collections.abc import Sequence

from sqlalchemy import bindparam, update

from lastacross import datastore, logs
from lastacross.datastore.tables import DeferredPayload
from lastacross.errors import DatastoreUsageError

_rows = DeferredPayload.metadata.tables[DeferredPayload.__tablename__]
_CLAIM = (
    update(_rows).where(_rows.c.id == bindparam("row")).values(task_id=bindparam("task"), unused_since=None)
)

_log = logs.get("lastacross.taskqueue")


def claim(needs: Sequence[tuple[int, str]], transaction: datastore.Transaction | None = None) -> None:
    """Note the task of each row; does nothing without rows.

    Args:
        needs: pairs of a row's id and the id of the task that needs it and is about to be added.
        transaction: the transaction of the add, None if the tasks are added immediately.

    Raises:
        DatastoreUnavailableError: the database is unavailable.
    """
    if not needs:
        return
    claims = [{"row": row, "task": task} for row, task in needs]
    if transaction is not None:
        transaction.session.execute(_CLAIM, claims)
        return
    try:
        with datastore.session() as session:
            session.execute(_CLAIM, claims)
    except DatastoreUsageError:
        # SQLite's one writer is the caller's own open transaction. A row without a task is kept for long.
        _log.info("deferred.payload_unclaimed", payloads=[each["row"] for each in claims])
