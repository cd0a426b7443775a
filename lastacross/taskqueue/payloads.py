"""Which task needs which row of the datastore: the bodies of deferred calls that were too large for a task.

The row is noted as its task's *before* the task is added: a row that no task is known to need may be old
before anybody can say that it is of no use (``deferred.payloads``).
"""

from collections.abc import Sequence

from sqlalchemy import bindparam, update

from lastacross import datastore, logs
from lastacross.datastore.tables import DeferredPayload
from lastacross.errors import DatastoreUsageError
from lastacross.taskqueue.broker import NewTask
from lastacross.taskqueue.task import Task

_rows = DeferredPayload.metadata.tables[DeferredPayload.__tablename__]
_CLAIM = (
    update(_rows).where(_rows.c.id == bindparam("row")).values(task_id=bindparam("task"), unused_since=None)
)

_log = logs.get("lastacross.taskqueue")


def claim(
    tasks: Sequence[Task], entries: Sequence[NewTask], transaction: datastore.Transaction | None = None
) -> None:
    """Note the rows of these tasks as theirs; nothing at all for tasks without one.

    Args:
        tasks: about to be added.
        entries: what they are in Redis.
        transaction: that they are added in, None when they are added at once.

    Raises:
        DatastoreUnavailableError: the database is away.
    """
    claims = [
        {"row": task.payload_row, "task": entry.id}
        for task, entry in zip(tasks, entries, strict=True)
        if task.payload_row is not None
    ]
    if not claims:
        return
    if transaction is not None:
        transaction.session.execute(_CLAIM, claims)
        return
    try:
        with datastore.session() as session:
            session.execute(_CLAIM, claims)
    except DatastoreUsageError:
        # SQLite's one writer is the caller's own open transaction. A row without a task is kept for long.
        _log.info("deferred.payload_unclaimed", payloads=[each["row"] for each in claims])
