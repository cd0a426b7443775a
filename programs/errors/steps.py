"""What happens to an error, step by step. Each step is one transaction, and done twice is done once."""

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
"""Rows in one transaction: a writer on SQLite keeps everybody else waiting."""
STEPS_OF_A_CLEANING = 20


# --- taking in ----------------------------------------------------------------------------


def accept(fields: Fields) -> str:
    """Write an error down and add its one task, both or neither; answers its id.

    An account's ``uid`` is taken in once: what comes again is the error that is there.

    Raises:
        RefusedError: too many have come.
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


# --- its task -----------------------------------------------------------------------------


def group(error_id: str) -> bool:
    """Find out an error's group and client, count it, and note whom to tell: once, however often called.

    The row decides: whoever sets ``grouped_at`` has done all of it, in the same transaction.

    Returns:
        False if it was done before, or the error is gone.
    """
    with datastore.session(read_only=True) as session:
        error = session.get(ErrorReport, error_id)
    if error is None or error.grouped_at is not None:
        return False
    # The expensive part, with nobody waiting for it: no lock is held yet.
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
    """The id of the error's group, which is made where it is new, and how many it has now."""
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


# --- cleaning up --------------------------------------------------------------------------


def clean(now: float) -> bool:
    """Delete what is older than seven days, a few rows at a time.

    Returns:
        False if there is more: it has done its share, and wants to be called again.
    """
    before = now - KEPT_SECONDS
    deleters: list[Callable[[int], int]] = [
        functools.partial(limits.delete_reports, before),
        Old(ErrorNotification, ErrorNotification.id, ErrorNotification.created_at < before),
        # Before their groups, with which they would go all at once.
        Old(ErrorHour, tuple_(ErrorHour.group_id, ErrorHour.hour), ErrorHour.hour < before - HOUR),
        # Last: a group is as old as its newest error, so it has none any more, and hours of an hour at most.
        Old(ErrorGroup, ErrorGroup.id, ErrorGroup.last_at < before),
        Old(
            ErrorRefusal,
            tuple_(ErrorRefusal.hour, ErrorRefusal.reason, ErrorRefusal.account),
            ErrorRefusal.hour < before,
        ),
        Old(ErrorUsage, ErrorUsage.account, (ErrorUsage.account != "") & (ErrorUsage.hour < before)),
    ]
    return pruning.delete_all(deleters, max_rows=CLEANED_AT_ONCE, max_steps=STEPS_OF_A_CLEANING)
