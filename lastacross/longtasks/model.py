"""The datastore steps of a long task's life, each of which is one statement or one transaction.

If a concurrent step came first, a step changes nothing, and reports this. Each attempt writes its *claim*
into the row, and only the attempt that holds the claim may write how it ended.
"""

import re
import secrets
from collections.abc import Sequence
from typing import Any

import sqlalchemy
from sqlalchemy import ColumnElement, bindparam, delete, select, update
from sqlalchemy.orm import defer

from lastacross import datastore
from lastacross.datastore import OPEN_STATUSES, LongTask, LongTaskFile, OutboxRow
from lastacross.longtasks import quotas
from lastacross.longtasks.mending import repaired

_ID = re.compile(r"[A-Za-z0-9_-]{22}")


def new_id() -> str:
    """Return 128 random bits as URL-safe text."""
    return secrets.token_urlsafe(16)


def is_id(text: str) -> bool:
    """Return whether this untrusted text has the form of an id."""
    return _ID.fullmatch(text) is not None


# Built once, because each status poll runs it.
_FIND = select(LongTask).where(LongTask.id == bindparam("task"))

# --- reading ------------------------------------------------------------------------------


def find(task_id: str, path: str | None = None) -> LongTask | None:
    """Return the task with this id (and path, if given) without its large columns, or None."""
    with datastore.session(read_only=True) as session:
        found = session.scalar(_FIND, {"task": task_id})
    task = found and repaired(found)
    return task if task is None or path in (None, task.path) else None


def find_all(ids: Sequence[str]) -> list[LongTask]:
    """Return these tasks, in the order of their ids, skipping missing and forgotten ones."""
    query = select(LongTask).where(LongTask.id.in_(ids), LongTask.expired_at.is_(None))
    with datastore.session(read_only=True) as session:
        tasks = list(session.scalars(query))
    found = {task.id: repaired(task) for task in tasks}
    return [found[task_id] for task_id in ids if task_id in found]


def find_joined(join_key: str) -> LongTask | None:
    """Return the open task that identical requests join, or None."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(LongTask).where(LongTask.join_key == join_key))


def parameters_of(task_id: str) -> tuple[str, str | None]:
    """Return the original parameters, and the parameters as changed by ``prepare_task``."""
    columns = (LongTask.given, LongTask.parameters)
    with datastore.session(read_only=True) as session:
        given, prepared = session.execute(select(*columns).where(LongTask.id == task_id)).one()
    return given, prepared


def bodies_of(task_id: str) -> dict[int, bytes]:
    """Return the bytes of a task's uploaded files, by index."""
    query = select(LongTaskFile.position, LongTaskFile.body).where(LongTaskFile.task_id == task_id)
    with datastore.session(read_only=True) as session:
        return {place: body for place, body in session.execute(query)}


def result_of(task_id: str) -> bytes | None:
    """Return the stored result, or None."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(LongTask.result).where(LongTask.id == task_id))


def beginning_of(task_id: str, length: int) -> bytes:
    """Return the first bytes of the stored result."""
    beginning = sqlalchemy.func.substr(LongTask.result, 1, length)
    with datastore.session(read_only=True) as session:
        return session.scalar(select(beginning).where(LongTask.id == task_id)) or b""


def traceback_of(task_id: str) -> str | None:
    """Return the last failed attempt's traceback, for the operator."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(LongTask.traceback).where(LongTask.id == task_id))


def waits_in_outbox(task_id: str) -> bool:
    """Return whether the outbox still has to send, or may resend, the queued task with this id."""
    query = select(OutboxRow.id).where(OutboxRow.task_id == task_id)
    with datastore.session(read_only=True) as session:
        return session.scalar(query) is not None


def is_claimed(task_id: str, claim: str) -> bool:
    """Return whether the attempt with this claim may still write its outcome."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(LongTask.claim).where(LongTask.id == task_id)) == claim


# --- the steps ----------------------------------------------------------------------------


def claim(task_id: str, delivery: int, at: float, *, is_newest: bool = False) -> LongTask | None:
    """Begin an attempt; until the next attempt begins, only this one may write the task's outcome.

    Args:
        task_id: the row's id.
        delivery: this delivery's number, as counted by the queue.
        at: the current time, in seconds since the epoch.
        is_newest: whether the caller knows that this is the newest delivery even if its number is lower
            than an earlier one's, because the deliveries of a re-run dead letter are counted from 1 again.

    Returns:
        The row, including the claim, or None if the task is over or a later delivery has begun.
    """
    conditions = [LongTask.id == task_id, LongTask.status.not_in(("done", "cancelled"))]
    conditions.append(LongTask.expired_at.is_(None))
    if not is_newest:
        conditions.append(LongTask.delivery <= delivery)
    values = {
        "status": "started",
        "claim": secrets.token_urlsafe(16),
        "delivery": delivery,
        "attempts": LongTask.attempts + 1,
        # If an operator runs a dead letter again, it gets all its retries again.
        "failures": sqlalchemy.case((LongTask.status == "failed", 0), else_=LongTask.failures),
        "started_at": sqlalchemy.func.coalesce(LongTask.started_at, at),
        "attempted_at": at,
        "finished_at": None,
        "next_try_at": None,
    }
    with datastore.session() as session:
        changed = session.execute(update(LongTask).where(*conditions).values(**values))
        if _rows(changed) == 0:
            return None
        task = session.scalar(select(LongTask).where(LongTask.id == task_id))
    # A damaged row is repaired and marked as failed, so its next delivery finds it readable.
    return task if task is not None and repaired(task).claim is not None else None


def finish(task: LongTask, at: float, kind: str, result: bytes) -> bool:
    """Store the result; return False if the claim was lost."""
    values = {"result_kind": kind, "result": result, "result_size": len(result)}
    return end(task, at, "done", error=None, traceback=None, **values)


def end(task: LongTask, at: float, status: str, **values: Any) -> bool:
    """End the task for the attempt that holds the claim; return False if the claim was lost."""
    stored = sum(len(value) for value in values.values() if isinstance(value, bytes | str))
    values |= {"status": status, "claim": None, "join_key": None, "next_try_at": None, "finished_at": at}
    values["expires_at"] = at + task.expires_seconds
    return _change(task.id, LongTask.claim == task.claim, values, stored)


def fail_attempt(task: LongTask, next_try_at: float, **values: Any) -> bool:
    """Record that the attempt failed and will be retried; return False if the claim was lost."""
    values |= {"status": "error", "claim": None, "next_try_at": next_try_at}
    values["failures"] = LongTask.failures + 1
    return _change(task.id, LongTask.claim == task.claim, values)


def cancel(task: LongTask, at: float) -> bool:
    """End the task because its user cancelled it; return False if it was already over."""
    values: dict[str, Any] = {"status": "cancelled", "claim": None, "join_key": None, "next_try_at": None}
    values |= {"finished_at": at, "expires_at": at + task.expires_seconds}
    return _change(task.id, LongTask.status.in_(OPEN_STATUSES), values)


def give_up(task: LongTask, at: float, error: str) -> bool:
    """End a dead letter or a task missing from its queue; return False if its row changed meanwhile.

    A running attempt keeps its claim. If its task was deleted from the queue, it may still store a result.
    """
    values: dict[str, Any] = {"status": "failed", "join_key": None, "next_try_at": None, "error": error}
    values |= {"finished_at": at, "expires_at": at + task.expires_seconds}
    is_same = (LongTask.status == task.status) & (LongTask.attempts == task.attempts)
    return _change(task.id, is_same, values)


def _change(task_id: str, condition: ColumnElement[bool], values: dict[str, Any], stored: int = 0) -> bool:
    """Change a row if the condition holds, and add the ``stored`` bytes to the total."""
    if stored:
        values["stored_bytes"] = LongTask.stored_bytes + stored
    with datastore.session() as session:
        changed = session.execute(update(LongTask).where(LongTask.id == task_id, condition).values(**values))
        is_changed = _rows(changed) == 1
        if is_changed and stored:
            quotas.add(session, stored)
        return is_changed


# --- forgetting ---------------------------------------------------------------------------


def expirable(at: float, after: str, limit: int) -> list[LongTask]:
    """Return the next batch of expired tasks that still have data, ordered by id, after this id."""
    query = select(LongTask).where(
        LongTask.expires_at <= at, LongTask.expired_at.is_(None), LongTask.id > after
    )
    with datastore.session(read_only=True) as session:
        tasks = list(session.scalars(query.order_by(LongTask.id).limit(limit)))
    return [repaired(task) for task in tasks]


def forget(ids: Sequence[str], at: float) -> int:
    """Delete all data of these tasks if they are over, and keep their rows as tombstones."""
    values: dict[str, Any] = dict.fromkeys(("result", "result_kind", "parameters", "error", "traceback"))
    values |= {"given": "[]", "expired_at": at, "result_size": 0, "join_key": None, "claim": None}
    values["stored_bytes"] = 0
    is_over = LongTask.id.in_(ids) & LongTask.status.not_in(OPEN_STATUSES) & (LongTask.expires_at <= at)
    with datastore.session() as session:
        # Lock the rows, so that a concurrent process does not subtract the same tasks' bytes a second time.
        found = select(LongTask.id, LongTask.stored_bytes).where(is_over).order_by(LongTask.id)
        stored = {task_id: size for task_id, size in session.execute(found.with_for_update())}
        session.execute(delete(LongTaskFile).where(LongTaskFile.task_id.in_(stored)))
        count = _rows(session.execute(update(LongTask).where(LongTask.id.in_(stored)).values(**values)))
        quotas.add(session, -sum(stored.values()))
        return count


def delay_expiry(task: LongTask, until: float) -> None:
    """Postpone an open task's expiry; a task that has ended meanwhile keeps its expiry."""
    _change(task.id, LongTask.status.in_(OPEN_STATUSES), {"expires_at": until})


def delete_forgotten(before: float, kept: int, limit: int) -> int:
    """Delete the rows of forgotten tasks, oldest first, and return the number deleted.

    Args:
        before: a time; rows forgotten by then are deleted.
        kept: the maximum number of rows to keep; the oldest rows beyond it are deleted too.
        limit: the maximum number of rows for this call.
    """
    newest = select(LongTask.expired_at).where(LongTask.expired_at.is_not(None))
    with datastore.session(read_only=True) as session:
        beyond = session.scalar(newest.order_by(LongTask.expired_at.desc()).offset(kept).limit(1))
    until = before if beyond is None else max(before, beyond)
    oldest = select(LongTask.id).where(LongTask.expired_at <= until).order_by(LongTask.expired_at)
    with datastore.session() as session:
        return _rows(session.execute(delete(LongTask).where(LongTask.id.in_(oldest.limit(limit)))))


def open_after(task_id: str, limit: int) -> list[LongTask]:
    """Return the next batch of open tasks, ordered by id, after this id and without their parameters."""
    query = select(LongTask).where(LongTask.status.in_(OPEN_STATUSES), LongTask.id > task_id)
    query = query.options(defer(LongTask.given, raiseload=True))
    with datastore.session(read_only=True) as session:
        return list(session.scalars(query.order_by(LongTask.id).limit(limit)))


def _rows(result: Any) -> int:
    return int(result.rowcount)
