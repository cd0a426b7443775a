"""Stores deferred calls that are too large for a task in datastore rows, and deletes unused rows.

A call's row is deleted after the call has run. The scheduler prunes the rows of tasks that were deleted,
purged or cancelled, and of tasks that were added to a batch a second time.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, exists, insert, select, update

from lastacross import clock, datastore, logs, store
from lastacross.datastore import DeferredPayload, OutboxRow
from lastacross.errors import (
    DatastoreError,
    DatastoreUsageError,
    PermanentTaskFailure,
)

# Younger rows are skipped, because their tasks may not have been added yet.
MIN_AGE_SECONDS = 3600.0
# A task must be missing for this long, so that a flushed Redis can be restored from a backup first.
UNUSED_SECONDS = 3 * 86_400.0
# How long to keep a row whose task is unknown. A task can be scheduled 30 days ahead, and then remain a dead
# letter for another 30 days.
UNCLAIMED_SECONDS = 62 * 86_400.0
PRUNE_CHUNK = 1000

_TABLE = DeferredPayload.metadata.tables[DeferredPayload.__tablename__]
_KEEP = insert(_TABLE).returning(_TABLE.c.id)

log = logs.get("lastacross.deferred")


# --- one row ------------------------------------------------------------------------------


def keep(body: bytes, *, is_transactional: bool) -> int:
    """Store a call and return its row's id.

    Raises:
        BadTransactionStateError: ``is_transactional`` is set, but no transaction is open.
        DatastoreUsageError: on SQLite, the caller has an open write transaction.
        DatastoreUnavailableError: the database is unavailable.
    """
    values = {"body": body, "created_at": clock.SYSTEM.now()}
    if is_transactional:
        [(row_id,)] = datastore.transaction_of_add("_transactional=True").execute(_KEEP, values)
        return int(row_id)
    row = DeferredPayload(**values)
    try:
        # Commit immediately, because the task may run before the caller's own transaction ends.
        with datastore.session() as session:
            session.add(row)
    except DatastoreUsageError as error:
        raise DatastoreUsageError(
            f"a call of {len(body)} bytes is too large for a task and must be stored in the datastore, which "
            "SQLite cannot do while a transaction is open: defer it with _transactional=True, "
            "or after the transaction"
        ) from error
    return row.id


def read(row_id: int) -> bytes:
    """Return the call stored in a row.

    Raises:
        PermanentTaskFailure: the row no longer exists.
    """
    with datastore.session(read_only=True) as session:
        body = session.scalar(select(DeferredPayload.body).where(DeferredPayload.id == row_id))
    if body is None:
        raise PermanentTaskFailure(
            f"the arguments of this call (row {row_id} of lastacross_deferred_payload) no "
            "longer exist: it has already run, or its transaction was rolled back"
        )
    return body


def discard(row_id: int | None, *, is_transactional: bool = False) -> None:
    """Delete the row of a call that has run or was never added; on failure, it is pruned later."""
    if row_id is None:
        return
    statement = delete(DeferredPayload).where(DeferredPayload.id == row_id)
    transaction = datastore.current_transaction() if is_transactional else None
    try:
        if transaction is not None:
            transaction.execute(statement)
            return
        with datastore.session() as session:
            session.execute(statement)
    except DatastoreError:
        log.warning("deferred.payload_left_behind", payload=row_id, exc_info=True)


# --- pruning ------------------------------------------------------------------------------


class Pruner:
    """Checks all rows, one chunk per call; any number of processes may do so."""

    def __init__(self) -> None:
        self._last = 0

    def act(self, at: float) -> int:
        """Check the next 1,000 rows, delete the unused ones, and return the number deleted.

        A row is deleted if every check for three days has found its task missing. Tasks in the outbox and
        dead letters do not count as missing. A row whose task was never added is deleted after 62 days.

        Args:
            at: seconds since the epoch.

        Raises:
            StoreUnavailableError: Redis does not answer.
            DatastoreUnavailableError: the datastore does not answer.
        """
        rows = _rows_after(self._last, at)
        deleted = _judge(rows, at) if rows else 0
        self._last = rows[-1].id if len(rows) == PRUNE_CHUNK else 0
        if deleted:
            log.info("deferred.prune", payloads=deleted)
        return deleted


def _rows_after(last: int, at: float) -> Sequence[Any]:
    waits = exists().where(OutboxRow.task_id == DeferredPayload.task_id, OutboxRow.sent_at.is_(None))
    columns = (DeferredPayload.id, DeferredPayload.task_id, DeferredPayload.unused_since)
    query = (
        select(*columns, DeferredPayload.created_at, waits.label("waits"))
        .where(DeferredPayload.id > last, DeferredPayload.created_at <= at - MIN_AGE_SECONDS)
        .order_by(DeferredPayload.id)
        .limit(PRUNE_CHUNK)
    )
    with datastore.session(read_only=True) as session:
        return session.execute(query).all()


def _judge(rows: Sequence[Any], at: float) -> int:
    """Record which rows have lost their tasks, delete the expired rows, and return the number deleted."""
    used = _used(rows)
    claimed = [row for row in rows if row.task_id is not None]
    unused = [row for row in claimed if row.id not in used]
    fresh = [row.id for row in unused if row.unused_since is None]
    again = [row.id for row in claimed if row.id in used and row.unused_since is not None]
    over = [row.id for row in unused if (row.unused_since or at) <= at - UNUSED_SECONDS]
    over += [row.id for row in rows if row.task_id is None and row.created_at <= at - UNCLAIMED_SECONDS]
    if not fresh and not again and not over:
        return 0
    with datastore.session() as session:
        for ids, unused_since in ((fresh, at), (again, None)):
            if ids:
                change = update(DeferredPayload).where(DeferredPayload.id.in_(ids))
                session.execute(change.values(unused_since=unused_since))
        if over:
            session.execute(delete(DeferredPayload).where(DeferredPayload.id.in_(over)))
    return len(over)


def _used(rows: Sequence[Any]) -> set[int]:
    """Return the rows whose task is in the outbox or in Redis, in any state."""
    claimed = [row for row in rows if row.task_id is not None]
    redis = store.current().redis
    with store.translated_errors(), redis.pipeline(transaction=False) as pipeline:
        for row in claimed:
            pipeline.exists(store.record_key(row.task_id))
        found = pipeline.execute()
    return {row.id for row, is_there in zip(claimed, found, strict=True) if is_there or row.waits}
