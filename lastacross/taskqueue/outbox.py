"""Transactional adds: the task is a row written with the data, and sent right after the commit.

If the process dies between commit and sending, the scheduler's relay sends it. The row fixes the task's
id, and a task that has run leaves a marker for an hour, so that sending twice adds once.
"""

import itertools
import json
from collections.abc import Sequence

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from lastacross import clock, datastore, logs, store
from lastacross.datastore.tables import OutboxRow
from lastacross.errors import (
    Error,
    StoreUnavailableError,
    TooManyTasksError,
    TransactionalRequestTooLargeError,
)
from lastacross.taskqueue.broker import Broker, NewTask

MARKER_SECONDS = 3600
MAX_TASKS_PER_TRANSACTION = 5
MAX_BYTES_PER_TRANSACTION = 1 << 20

# The process that wrote the rows sends them itself, at once: the relay takes those it left behind.
RELAY_AFTER_SECONDS = 3.0
RELAY_CHUNK = 100

_NOTE = "taskqueue.outbox"
_log = logs.get("lastacross.taskqueue")


def now() -> float:
    """Seconds since the epoch by this machine's clock: a transaction must not need Redis."""
    return clock.SYSTEM.now()


def write(transaction: datastore.Transaction, tasks: Sequence[NewTask]) -> None:
    """Write tasks into the running transaction, to be sent when it has committed.

    Raises:
        TooManyTasksError: more than 5 in this transaction.
        TransactionalRequestTooLargeError: more than 1 MiB in this transaction.
    """
    written = _written(transaction)
    if len(written) + len(tasks) > MAX_TASKS_PER_TRANSACTION:
        raise TooManyTasksError(f"at most {MAX_TASKS_PER_TRANSACTION} tasks in one transaction")
    rows = [_row(task) for task in tasks]
    size = sum(len(value) for task in [*written, *tasks] for value in task.fields)
    if size > MAX_BYTES_PER_TRANSACTION:
        raise TransactionalRequestTooLargeError(
            f"the tasks of this transaction take {size} bytes; at most 1 MiB"
        )
    transaction.session.execute(insert(OutboxRow), rows)
    noted = transaction.notes.setdefault(_NOTE, [])
    noted.append(tasks)
    # At each call: what a savepoint takes back, it takes out of the callbacks too. The first one sends all.
    transaction.after_commit(lambda: _send_committed(noted))


def _written(transaction: datastore.Transaction) -> list[NewTask]:
    """What was written in this transaction and not taken back by a savepoint."""
    noted = transaction.notes.get(_NOTE)
    return _still_there(noted, transaction.session) if noted else []


def _still_there(noted: list[Sequence[NewTask]], session: Session) -> list[NewTask]:
    tasks = list(itertools.chain.from_iterable(noted))
    query = select(OutboxRow.task_id).where(OutboxRow.task_id.in_([task.id for task in tasks]))
    ids = set(session.scalars(query))
    return [task for task in tasks if task.id in ids]


def relay(at: float) -> int:
    """Send what processes that are gone had written and not sent; returns how many.

    Args:
        at: seconds since the epoch by this machine's clock.

    Raises:
        StoreUnavailableError: Redis does not answer.
        DatastoreUnavailableError: the datastore does not.
    """
    count = 0
    # A long outage leaves a backlog: it goes out at once, in short steps.
    while (sent := _relay_chunk(at)) == RELAY_CHUNK:
        count += sent
    return count + sent


def _relay_chunk(at: float) -> int:
    with datastore.session(read_only=True) as session:
        query = (
            select(OutboxRow.record)
            .where(OutboxRow.created_at <= at - RELAY_AFTER_SECONDS)
            .order_by(OutboxRow.id)
            .limit(RELAY_CHUNK)
        )
        tasks = [load(row) for row in session.scalars(query)]
    if tasks:
        _send(tasks)
    return len(tasks)


def _send_committed(noted: list[Sequence[NewTask]]) -> None:
    """The commit has landed: whatever happens now, the relay will send the rest."""
    calls = list(noted)
    noted.clear()
    try:
        if len(calls) == 1:
            _send(calls[0])
        elif calls:
            with datastore.session(read_only=True) as session:
                tasks = _still_there(calls, session)
            _send(tasks)
    except (StoreUnavailableError, Error) as error:
        _log.warning("outbox.relay_later", error=str(error))


def _send(tasks: Sequence[NewTask]) -> None:
    Broker(store.current()).add(tasks)
    with datastore.session() as session:
        session.execute(delete(OutboxRow).where(OutboxRow.task_id.in_([task.id for task in tasks])))


def _row(task: NewTask) -> dict[str, object]:
    queue = task.id.partition("_")[0]
    return {"queue": queue, "task_id": task.id, "record": dump(task), "created_at": now()}


def dump(task: NewTask) -> bytes:
    """A task as the outbox holds it."""
    fields = [value.decode("latin-1") if isinstance(value, bytes) else value for value in task.fields]
    is_bytes = [isinstance(value, bytes) for value in task.fields]
    return json.dumps([task.id, task.eta, fields, is_bytes], ensure_ascii=False).encode()


def load(raw: bytes) -> NewTask:
    """A task from the outbox."""
    identifier, eta, fields, is_bytes = json.loads(raw)
    values = [
        value.encode("latin-1") if binary else value for value, binary in zip(fields, is_bytes, strict=True)
    ]
    return NewTask(identifier, eta, values)
