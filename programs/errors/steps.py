"""The steps of an error's life. Each step is one transaction and is idempotent."""

import functools
from collections.abc import Callable
from dataclasses import asdict

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from lastacross import datastore, taskqueue
from lastacross.clock import SYSTEM
from programs.errors import browsers, grouping, limits, notifying, statements
from programs.errors.fields import Fields
from programs.errors.models import (
    HOUR,
    ErrorGroup,
    ErrorHour,
    ErrorNotification,
    ErrorRefusal,
    ErrorReport,
    ErrorUsage,
)
from programs.shared import operations, pruning
from programs.shared.pruning import Old

QUEUE = "errors"
CREATED_URL = "/tasks/error-created"

KEPT_SECONDS = 7 * 86_400.0
CLEANED_AT_ONCE = 500
"""The maximum number of rows in one transaction: a SQLite writer makes all others wait."""
STEPS_OF_A_CLEANING = 20


# --- intake -------------------------------------------------------------------------------


def accept(fields: Fields) -> str:
    """Store an error and add its one task, both or neither; returns the error's id.

    Each ``uid`` of an account is accepted only once, so a repeated post returns the existing error's id.

    Raises:
        RefusedError: the limit is reached.
    """
    limits.require_room(fields.account)
    new_id, size = operations.new_id(), limits.size_of(fields)
    row = {
        "id": new_id,
        "account": fields.account,
        "uid": fields.uid or new_id,
        "received_at": SYSTEM.now(),
        "happened_at": fields.happened_at,
        "status": fields.status,
        "priority": fields.priority,
        "size": size,
        **fields.texts,
    }
    task = taskqueue.Task(url=CREATED_URL, params={"error": new_id})
    queue = taskqueue.Queue(QUEUE)
    with datastore.transaction() as transaction:
        session = transaction.session
        if session.scalar(statements.TAKE_IN[_dialect(session)], row) is not None:
            limits.count(session, fields.account, size)
            queue.add(task, transactional=True)
            return new_id
        is_it = (ErrorReport.account == fields.account) & (ErrorReport.uid == row["uid"])
        return session.scalar(select(ErrorReport.id).where(is_it)) or new_id


# --- the error's task ---------------------------------------------------------------------


def group(error_id: str) -> bool:
    """Find an error's group and client, count it, and prepare notifications. A second call does nothing.

    The call that sets the row's ``grouped_at`` does all of this, in the same transaction.

    Returns:
        False if this was done before, or the error no longer exists.
    """
    with datastore.session(read_only=True) as session:
        error = session.get(ErrorReport, error_id)
    if error is None or error.grouped_at is not None:
        return False
    # The expensive part comes first, before any lock is held.
    client = browsers.parse(error.user_agent)
    alike = grouping.likeness(error.type, error.server, error.msg, status=error.status, url=error.url)
    with datastore.transaction() as transaction:
        session = transaction.session
        claim = {"error": error_id, "at": SYSTEM.now(), **asdict(client)}
        if session.scalar(statements.CLAIM, claim) is None:
            return False
        group_id, count = _count_in_group(session, error, alike)
        session.execute(statements.PUT_INTO_GROUP, {"error": error_id, "group": group_id})
        hour = int(error.received_at // HOUR) * HOUR
        one = {"group_id": group_id, "hour": hour, "count": 1}
        session.execute(statements.COUNT_IN_HOUR[_dialect(session)], one)
        notifying.note_count(session, error, alike, group_id=group_id, count=count)
    return True


def _count_in_group(session: Session, error: ErrorReport, alike: grouping.Likeness) -> tuple[str, int]:
    """The id of the error's group, which is created if necessary, and the group's new count."""
    row = {
        "id": operations.new_id(),
        "account": error.account,
        "fingerprint": alike.fingerprint,
        "type": alike.type,
        "server": alike.server,
        "msg": alike.msg,
        "status": alike.status,
        "domain": alike.domain,
        "first_at": error.received_at,
        "last_at": error.received_at,
        "priority": error.priority,
        "count": 1,
        "undigested": 1,
    }
    group_id, count = session.execute(statements.COUNT_IN_GROUP[_dialect(session)], row).one()
    return group_id, count


def _dialect(session: Session) -> str:
    return session.get_bind().dialect.name


# --- deletion -----------------------------------------------------------------------------


def clean(now: float) -> bool:
    """Delete everything older than seven days, a few rows at a time.

    Returns:
        False if there is more to delete, so the caller should call again.
    """
    before = now - KEPT_SECONDS
    deleters: list[Callable[[int], int]] = [
        functools.partial(limits.delete_reports, before),
        Old(ErrorNotification, ErrorNotification.id, ErrorNotification.created_at < before),
        # Hours come before their groups, because deleting a group would remove all of its hours in one step.
        Old(ErrorHour, tuple_(ErrorHour.group_id, ErrorHour.hour), ErrorHour.hour < before - HOUR),
        # Groups come last. A group is as old as its newest error, so at most one of its hours remains.
        Old(ErrorGroup, ErrorGroup.id, ErrorGroup.last_at < before),
        Old(
            ErrorRefusal,
            tuple_(ErrorRefusal.hour, ErrorRefusal.reason, ErrorRefusal.account),
            ErrorRefusal.hour < before,
        ),
        Old(ErrorUsage, ErrorUsage.account, (ErrorUsage.account != "") & (ErrorUsage.hour < before)),
    ]
    return pruning.delete_all(deleters, max_rows=CLEANED_AT_ONCE, max_steps=STEPS_OF_A_CLEANING)
