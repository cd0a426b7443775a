"""Handles the outbox's rows after their commit, which is the scheduler's part of transactional adds.

The relay sends rows that their own process did not send. Sent rows are kept for a minute, and then deleted if
Redis still has their tasks, because a power cut or a failover may cost Redis its last seconds of writes. A
row that cannot be sent is set aside, so that it does not block other rows. Any number of processes may run a
relay.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, LargeBinary, cast, delete, select, tuple_, update

from lastacross import datastore, logs, store
from lastacross.broker import NewTask
from lastacross.datastore import marking, outbox
from lastacross.datastore.tables import OutboxRow
from lastacross.errors import DatastoreError, StoreUnavailableError

# The process that wrote the rows sends them immediately and marks them 0.25 s later (see marking). The relay
# takes rows that were left behind. If it takes a row too early, sending has no effect and the row is marked.
RELAY_AFTER_SECONDS = 3.0
RELAY_CHUNK = 100

# Redis with `appendfsync everysec` may lose its last two seconds of writes, and a replica about as much.
KEEP_SENT_SECONDS = 60.0
FORGET_CHUNK = 500
# From this age on, the marker of a task that has run may have expired.
MARKER_IS_SURE_SECONDS = outbox.MARKER_SECONDS - 600

# A time that is further ahead than this must be corrupt, because no clock is that wrong.
MAX_AHEAD_SECONDS = 366 * 86_400.0

_ERROR_LENGTH = 500
_REMEDY = (
    "it stays in the table lastacross_outbox and is retried every minute; if a newer version of this "
    "program wrote it, start that version's scheduler; if it is damaged, delete the row"
)

_log = logs.get("lastacross.taskqueue")

_WAITS = OutboxRow.sent_at.is_(None) & OutboxRow.set_aside_at.is_(None)
_IS_SET_ASIDE = OutboxRow.sent_at.is_(None) & OutboxRow.set_aside_at.is_not(None)

# A function that handles rows that cannot be sent. It takes a mapping from each row's id to the reason, and
# the time.
_Refusals = Callable[[dict[int, str], float], None]


def relay(at: float) -> int:
    """Send rows that were written but not sent because their process exited. Returns how many were sent.

    Args:
        at: the time in seconds since the epoch, by this machine's clock.

    Raises:
        StoreUnavailableError: Redis does not respond.
        DatastoreUnavailableError: the datastore does not respond.
    """
    count, last = 0, 0
    # A long outage leaves a backlog, which is sent without delay but in small portions.
    is_left = (OutboxRow.created_at <= at - RELAY_AFTER_SECONDS) | _is_damaged(OutboxRow.created_at, at)
    while rows := _read(_WAITS & is_left, last):
        count += _send(rows, at, _set_aside)
        last = rows[-1].id
    return count


def retry_set_aside(at: float) -> int:
    """Retry the rows that were set aside, because a newer version of this program may be able to send them.

    Raises:
        StoreUnavailableError, DatastoreUnavailableError: as for ``relay``.
    """
    _unmark_damaged(at)
    count, last = 0, 0
    while rows := _read(_IS_SET_ASIDE & (OutboxRow.set_aside_at < at), last):
        count += _send(rows, at, _leave)
        last = rows[-1].id
    return count


def forget_sent(at: float) -> int:
    """Delete rows sent a minute ago if Redis has kept their tasks, and resend any tasks that it has lost.

    Returns:
        The number of tasks that were sent again.

    Raises:
        StoreUnavailableError, DatastoreUnavailableError: as for ``relay``.
    """
    count, last = 0, (0.0, 0)
    order = tuple_(OutboxRow.sent_at, OutboxRow.id)
    query = select(OutboxRow.id, OutboxRow.task_id, OutboxRow.sent_at).order_by(*order).limit(FORGET_CHUNK)
    while True:
        # Visit each row only once, whatever happened to earlier rows.
        which = (OutboxRow.sent_at <= at - KEEP_SENT_SECONDS) & (order > last)
        with datastore.session(read_only=True) as session:
            rows = session.execute(query.where(which)).all()
        lost = _lost(rows, at) if rows else set()
        kept = [row.id for row in rows if row.id not in lost]
        if kept:
            with datastore.session() as session:
                session.execute(delete(OutboxRow).where(OutboxRow.id.in_(kept)))
        count += _send_again(sorted(lost), at)
        if len(rows) < FORGET_CHUNK:
            return count
        last = (rows[-1].sent_at, rows[-1].id)


def _is_damaged(instant: Any, at: float) -> ColumnElement[bool]:
    """Whether a time is before the epoch or a year ahead. On SQLite, this includes text, which sorts last."""
    found: ColumnElement[bool] = (instant > at + MAX_AHEAD_SECONDS) | (instant < 0)
    return found


def _unmark_damaged(at: float) -> None:
    """Mark rows as unsent if their sending time is corrupt, so that they are sent (possibly again)."""
    with datastore.session(read_only=True) as session:
        damaged = list(session.scalars(select(OutboxRow.id).where(_is_damaged(OutboxRow.sent_at, at))))
    if damaged:
        _log.error("outbox.damaged", rows=damaged, column="sent_at", remedy="they are sent again")
        with datastore.session() as session:
            session.execute(update(OutboxRow).where(OutboxRow.id.in_(damaged)).values(sent_at=None))


def _read(which: ColumnElement[bool], after: int) -> Sequence[Any]:
    # Cast the record: on SQLite a damaged record may be text, on which the driver would fail.
    columns = (OutboxRow.id, OutboxRow.task_id, cast(OutboxRow.record, LargeBinary).label("record"))
    query = select(*columns).where(which, OutboxRow.id > after).order_by(OutboxRow.id).limit(RELAY_CHUNK)
    with datastore.session(read_only=True) as session:
        return session.execute(query).all()


# --- sending ------------------------------------------------------------------------------


def _send(rows: Sequence[Any], at: float, refuse: _Refusals) -> int:
    """Send all rows that can be sent. Returns how many were sent."""
    tasks: dict[int, NewTask] = {}
    errors: dict[int, str] = {}
    for row in rows:
        try:
            tasks[row.id] = _load(row)
        except ValueError as error:
            errors[row.id] = str(error)
    errors |= _send_or_errors(tasks, at)
    refuse(errors, at)
    return len(rows) - len(errors)


def _load(row: Any) -> NewTask:
    task = outbox.load(row.record)
    if task.id != row.task_id or "_" not in task.id:
        raise ValueError(f"it contains the task {task.id!r}, but its row names {row.task_id!r}")
    return task


def _send_or_errors(tasks: dict[int, NewTask], at: float) -> dict[int, str]:
    """Send all tasks together or, if that fails, one by one to find tasks that cannot be sent."""
    if not tasks:
        return {}
    try:
        outbox.send(list(tasks.values()))
        with datastore.session() as session:
            session.execute(marking.statement([task.id for task in tasks.values()], at))
    except (StoreUnavailableError, DatastoreError):
        raise
    except Exception as error:
        if len(tasks) == 1:
            return {row_id: f"{type(error).__name__}: {error}" for row_id in tasks}
        errors: dict[int, str] = {}
        for row_id, task in tasks.items():
            errors |= _send_or_errors({row_id: task}, at)
        return errors
    return {}


def _leave(errors: dict[int, str], at: float) -> None:
    """Do nothing, because these errors were already logged when the rows were set aside."""


def _set_aside(errors: dict[int, str], at: float) -> None:
    for row_id, error in errors.items():
        text = error[:_ERROR_LENGTH].replace("\0", "�")
        statement = (
            update(OutboxRow)
            .where(OutboxRow.id == row_id, ~_IS_SET_ASIDE)
            .values(set_aside_at=at, error=text, sent_at=None)
            .returning(OutboxRow.task_id)
        )
        with datastore.session() as session:
            task_id = session.scalar(statement)
        # None means that another scheduler was faster.
        if task_id is not None:
            _log.error("outbox.set_aside", row=row_id, task=task_id, error=text, remedy=_REMEDY)


# --- sent rows ----------------------------------------------------------------------------


def _lost(rows: Sequence[Any], at: float) -> set[int]:
    """The rows whose task is unknown to Redis, because it has neither a record nor a marker."""
    redis = store.current().redis
    with store.translated_errors(), redis.pipeline(transaction=False) as pipeline:
        for row in rows:
            pipeline.exists(store.record_key(row.task_id), store.tombstone_key(row.task_id))
        missing = [row for row, found in zip(rows, pipeline.execute(), strict=True) if not found]
    sure = {row.id for row in missing if at - row.sent_at < MARKER_IS_SURE_SECONDS}
    if len(sure) == len(missing):
        return sure
    # Some markers may have expired, because the scheduler or Redis was down for an hour. Such a task can be
    # lost only if it was sent before a restart of Redis.
    with store.translated_errors():
        started_at = at - float(redis.info("server")["uptime_in_seconds"])
    return sure | {row.id for row in missing if row.sent_at <= started_at}


def _send_again(ids: Sequence[int], at: float) -> int:
    count = 0
    for first in range(0, len(ids), RELAY_CHUNK):
        rows = _read(OutboxRow.id.in_(ids[first : first + RELAY_CHUNK]), 0)
        count += _send(rows, at, _set_aside)
    return count
