"""Adds tasks as part of a transaction. A task's row is written with the data and sent after the commit.

If the process dies after the commit but before sending the task, the relay sends it (see ``relay``). The row
fixes the task's id, and a task that has run leaves a marker for an hour. So a task that is sent twice is
added only once. Soon after a task is sent, its row is marked as sent (see ``marking``).
"""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Select, bindparam, func, insert, select, update

from lastacross import clock, datastore, logs, store
from lastacross.broker import Broker, NewTask, PullSteps, Value, record
from lastacross.datastore import marking
from lastacross.datastore.tables import DeferredPayload, OutboxRow
from lastacross.errors import (
    DatastoreUsageError,
    Error,
    StoreUnavailableError,
    TooManyTasksError,
    TransactionalRequestTooLargeError,
)

# A task that has run keeps a marker for this long. Without the marker, the relay could think that the task
# was lost and send it again.
MARKER_SECONDS = 3600
MAX_TASKS_PER_TRANSACTION = 5
MAX_BYTES_PER_TRANSACTION = 1 << 20

_NOTE = "taskqueue.outbox"
# Insert into the table rather than through the model, because on SQLite all other writers must wait for this.
_ADD = insert(OutboxRow.metadata.tables[OutboxRow.__tablename__])
_rows = DeferredPayload.metadata.tables[DeferredPayload.__tablename__]
_CLAIM = (
    update(_rows).where(_rows.c.id == bindparam("row")).values(task_id=bindparam("task"), unused_since=None)
)

_log = logs.get("lastacross.taskqueue")


def now() -> float:
    """This machine's time in seconds since the epoch. A transaction must not depend on Redis for the time."""
    return clock.SYSTEM.now()


def count_stuck(before: float) -> tuple[int, int]:
    """Count the unsent rows written before this time, and the rows that were set aside.

    Raises:
        DatastoreError: the database is unavailable.
    """
    is_unsent = OutboxRow.sent_at.is_(None)
    with datastore.session(read_only=True) as session:
        waiting = select(func.count()).where(
            is_unsent, OutboxRow.set_aside_at.is_(None), OutboxRow.created_at < before
        )
        aside = select(func.count()).where(is_unsent, OutboxRow.set_aside_at.is_not(None))
        return session.scalar(waiting) or 0, session.scalar(aside) or 0


# --- in the transaction, and right after it -----------------------------------------------


def write(transaction: datastore.Unit, tasks: Sequence[NewTask]) -> None:
    """Write tasks as part of the current transaction. They are sent after its commit.

    Raises:
        TooManyTasksError: this transaction has more than 5 tasks.
        TransactionalRequestTooLargeError: this transaction's tasks exceed 1 MiB.
    """
    written = _written(transaction)
    if len(written) + len(tasks) > MAX_TASKS_PER_TRANSACTION:
        raise TooManyTasksError(f"one transaction may add at most {MAX_TASKS_PER_TRANSACTION} tasks")
    if not tasks:
        return
    rows = [_row(task) for task in tasks]
    size = sum(len(value) for task in [*written, *tasks] for value in task.fields)
    if size > MAX_BYTES_PER_TRANSACTION:
        raise TransactionalRequestTooLargeError(
            f"this transaction's tasks have {size} bytes; at most 1 MiB is allowed"
        )
    transaction.execute(_ADD, rows)
    noted = transaction.notes.setdefault(_NOTE, [])
    noted.append(tasks)
    # Register at each call, because a savepoint's rollback drops its callbacks. The first callback sends all.
    must_check = transaction.may_lose_rows
    transaction.after_commit(lambda: _send_committed(noted, must_check=must_check))


def _written(transaction: datastore.Unit) -> list[NewTask]:
    """The tasks written in this transaction, except tasks that were rolled back to a savepoint."""
    noted = transaction.notes.get(_NOTE)
    return _still_there(noted, transaction.execute) if noted else []


def _still_there(
    noted: list[Sequence[NewTask]], read: Callable[[Select[Any]], Iterable[Any]]
) -> list[NewTask]:
    tasks = list(itertools.chain.from_iterable(noted))
    query = select(OutboxRow.task_id).where(OutboxRow.task_id.in_([task.id for task in tasks]))
    ids = {task_id for (task_id,) in read(query)}
    return [task for task in tasks if task.id in ids]


def _send_committed(noted: list[Sequence[NewTask]], *, must_check: bool) -> None:
    """Send the tasks after the commit. Whatever happens now, the relay will send the remaining tasks."""
    calls = list(noted)
    noted.clear()
    try:
        tasks: Sequence[NewTask] = calls[0] if calls else []
        if len(calls) > 1 or (calls and must_check):
            with datastore.session(read_only=True) as session:
                tasks = _still_there(calls, session.execute)
        if tasks:
            send(tasks)
            marking.PROCESS.note([task.id for task in tasks], now())
    except (StoreUnavailableError, Error) as error:
        _log.warning("outbox.relay_later", error=str(error))


def send(tasks: Sequence[NewTask]) -> None:
    """Add tasks to their queues, except tasks that have already been added and have run.

    Args:
        tasks: the tasks of committed rows, which the caller then marks as sent.

    Raises:
        StoreUnavailableError: Redis does not respond.
    """
    opened = store.current()
    pull = [task for task in tasks if task.is_pull]
    push = [task for task in tasks if not task.is_pull]
    if push:
        Broker(opened).add(push)
    if pull:
        PullSteps(opened).add(pull)


# --- the content of a row -----------------------------------------------------------------


def _row(task: NewTask) -> dict[str, object]:
    queue = task.id.partition("_")[0]
    return {"queue": queue, "task_id": task.id, "record": dump(task), "created_at": now()}


def dump(task: NewTask) -> bytes:
    """Convert a task to the format in which the outbox stores it."""
    fields = [value.decode("latin-1") if isinstance(value, bytes) else value for value in task.fields]
    is_bytes = [isinstance(value, bytes) for value in task.fields]
    return json.dumps([task.id, task.eta, fields, is_bytes], ensure_ascii=False).encode()


def load(raw: bytes) -> NewTask:
    """Restore a task from the outbox.

    Raises:
        ValueError: the row is damaged, or a newer version of this program wrote it.
    """
    match _parsed(raw):
        case [str() as identifier, int() | float() | None as eta, list() as fields, list() as is_bytes]:
            if eta is not None and not math.isfinite(eta):
                raise ValueError(f"its eta is {eta}")
            values = _values(fields, is_bytes)
        case _:
            raise ValueError("it does not have the form that this version writes")
    return NewTask(identifier, eta, values, target=record.target_in(values), is_pull=record.is_pull(values))


def _parsed(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _values(fields: list[object], is_bytes: list[object]) -> list[Value]:
    if len(fields) % 2 or len(fields) != len(is_bytes):
        raise ValueError("its fields and values do not match")
    values: list[Value] = []
    for value, binary in zip(fields, is_bytes, strict=True):
        if not isinstance(value, str):
            raise ValueError(f"a field or value is {type(value).__name__}, not text")
        values.append(value.encode("latin-1") if binary else value)
    return values


def claim_payloads(needs: Sequence[tuple[int, str]], transaction: datastore.Unit | None = None) -> None:
    """Record which task needs which row with a deferred call that was too large for a task.

    A row gets its task's id *before* the task is added. A row without a task's id may be deleted only when it
    is so old that no task can need it (see ``deferred.payloads``). Without ``needs``, this does nothing.

    Args:
        needs: pairs of a row's id and the id of the task that needs the row and is about to be added.
        transaction: the transaction that adds the tasks; None if they are added immediately.

    Raises:
        DatastoreUnavailableError: the database is unavailable.
    """
    if not needs:
        return
    claims = [{"row": row, "task": task} for row, task in needs]
    if transaction is not None:
        transaction.execute(_CLAIM, claims)
        return
    try:
        with datastore.session() as session:
            session.execute(_CLAIM, claims)
    except DatastoreUsageError:
        # SQLite's single writer is the caller's own open transaction, so skip this. Rows without a task are
        # kept for a long time anyway.
        _log.info("deferred.payload_unclaimed", payloads=[each["row"] for each in claims])
