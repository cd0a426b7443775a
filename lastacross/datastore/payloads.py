"""Which task needs which row of the datastore: the bodies of deferred calls that were too large for a task.

The row is noted as its task's *before* the task is added: a row that no task is known to need may be old
before anybody can say that it is of no use (``deferred.payloads``).
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
    """Note each row as its task's; nothing at all for no rows.

    Args:
        needs: the id of a row and that of the task that needs it and is about to be added.
        transaction: that they are added in, None when they are added at once.

    Raises:
        DatastoreUnavailableError: the database is away.
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
