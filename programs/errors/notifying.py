"""Decides when to send notifications about errors, and sends them.

A group triggers a notification when its number of errors reaches a threshold: 1, 10, 100 and so on. Every
five minutes a digest covers the errors since the last digest. Both are rows, written in the same transaction
as the count that triggers them, so each exists exactly once. A task writes each row to the log and posts it
to a webhook. Like anything outside the datastore, that happens at least once, because a process may die
between receiving the webhook's response and recording it. The second request then has the same
``Idempotency-Key``.
"""

import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from lastacross import clock, datastore, taskqueue, urlfetch
from programs.errors.grouping import Likeness
from programs.errors.models import ErrorGroup, ErrorNotification, ErrorReport
from programs.shared import operations
from programs.shared.operations import fetch_problem, plural

QUEUE = "notifications"
URL = "/tasks/error-notify"

THRESHOLDS = "ERROR_THRESHOLDS"
"""The environment variable: error counts per group that trigger a notification, separated by commas."""
WEBHOOK_URL = "ERROR_WEBHOOK_URL"
DEFAULT_THRESHOLDS = (1, 10, 100, 1000, 10_000)

WEBHOOK_SECONDS = 10.0
MAX_ANSWER_BYTES = 65_536
"""How much of a webhook's response is read; only its status matters."""
DIGEST_SECONDS = 300
DIGEST_LINES = 20
"""How many groups a digest names: those with the most new errors. It summarizes the others."""
MAX_TOLD = 50
"""The maximum number of single-group notifications between two digests. The digest covers the others."""
DIGESTED_AT_ONCE = 20_000
"""The maximum number of groups per digest, in one transaction: a SQLite writer makes all others wait."""
UPDATED_AT_ONCE = 1000
"""The maximum number of groups per statement, because databases limit a statement's parameters."""
DIGESTS_OF_A_REQUEST = 20
SHOWN_CHARACTERS = 200

log = logging.getLogger("errors")


class WebhookError(Exception):
    """Raised when the webhook did not accept a notification; the task is then retried."""


@dataclass(frozen=True)
class Line:
    """A group in a digest, with its number of errors since the previous digest."""

    group_id: str
    label: str
    new: int
    total: int


def thresholds() -> tuple[int, ...]:
    """The error counts at which a group triggers a notification.

    Raises:
        ValueError: ERROR_THRESHOLDS is invalid.
    """
    text = os.environ.get(THRESHOLDS, "")
    if not text.strip():
        return DEFAULT_THRESHOLDS
    if not re.fullmatch(r"\s*[1-9][0-9]{0,8}(\s*,\s*[1-9][0-9]{0,8})*\s*", text, re.ASCII):
        raise ValueError(
            f"{THRESHOLDS} must be whole numbers such as 1,10,100, not “{text[:SHOWN_CHARACTERS]}”."
        )
    return tuple(int(number) for number in text.split(","))


def _thresholds_or_usual() -> tuple[int, ...]:
    try:
        return thresholds()
    except ValueError as error:
        # The error being counted must not be lost because of a wrong setting.
        log.error("%s The defaults are used: %s", error, DEFAULT_THRESHOLDS)
        return DEFAULT_THRESHOLDS


# --- writing notifications ----------------------------------------------------------------


def note_count(session: Session, error: ErrorReport, alike: Likeness, *, group_id: str, count: int) -> None:
    """Write a notification if a group's number of errors has just reached a threshold.

    The group's row is locked during the count, so each number is reached once. In a flood of new groups, only
    the first groups get their own notifications. One more notification then says that the digest covers the
    others.
    """
    if count not in _thresholds_or_usual():
        return
    begun_at = clock.SYSTEM.now() // DIGEST_SECONDS * DIGEST_SECONDS
    if _told_since(session, begun_at) >= MAX_TOLD:
        _note_flood(session, begun_at)
        return
    is_new = count == 1
    what = label(alike.type, alike.msg, alike.domain)
    text = f"New error: {what}" if is_new else f"Error number {count:,}: {what}"
    body = {
        "error": error.id,
        "group": group_id,
        "count": count,
        "account": error.account,
        "type": error.type,
        "msg": error.msg[:SHOWN_CHARACTERS],
        "status": error.status,
        "domain": alike.domain,
        "server": error.server,
        "priority": error.priority,
    }
    kind = "new" if is_new else "threshold"
    _note(session, f"{kind}-{group_id}-{count}", kind, text, body, group_id=group_id)


def _told_since(session: Session, begun_at: float) -> int:
    """How many groups have received their own notification since this time."""
    is_single = ErrorNotification.kind.in_(("new", "threshold"))
    query = select(func.count()).select_from(ErrorNotification)
    return session.scalar(query.where(ErrorNotification.created_at >= begun_at, is_single)) or 0


def _note_flood(session: Session, begun_at: float) -> None:
    """Announce, at most once per digest, that further groups get no notifications of their own."""
    key = f"flood-{clock.iso(begun_at)}"
    if session.scalar(select(ErrorNotification.id).where(ErrorNotification.key == key)) is not None:
        return
    text = (
        f"A flood of errors: {MAX_TOLD} groups caused notifications within {DIGEST_SECONDS // 60} minutes. "
        "The next digest covers the others."
    )
    _note(session, key, "flood", text, {"told": MAX_TOLD, "seconds": DIGEST_SECONDS})


def digests(now: float) -> tuple[list[str], bool]:
    """Write as many digests as needed to cover all errors that are not in a digest yet.

    With a single digest per call, each would cover the same first groups while new errors keep arriving.

    Returns:
        The keys of the digests, and False if errors may remain, in which case the caller should call again.
    """
    keys = []
    for _ in range(DIGESTS_OF_A_REQUEST):
        key, groups = digest(now)
        if key:
            keys.append(key)
        if groups < DIGESTED_AT_ONCE:
            return keys, True
    return keys, False


def digest(now: float) -> tuple[str, int]:
    """Write one digest of errors that are not in a digest yet, for a limited number of groups.

    The transaction that writes the digest also marks its errors as digested, so if cron repeats a request,
    the second one finds nothing.

    Returns:
        The digest's key ("" if there were no new errors), and its number of groups.
    """
    with datastore.transaction() as transaction:
        session = transaction.session
        # In a flood, the rows contain a lot of text, so only the few groups to name are read in full later.
        waiting = select(ErrorGroup.id, ErrorGroup.undigested).where(ErrorGroup.undigested > 0)
        some = waiting.order_by(ErrorGroup.id).limit(DIGESTED_AT_ONCE).with_for_update()
        new = {group_id: undigested for group_id, undigested in session.execute(some)}
        if not new:
            return "", 0
        _mark_told(session, list(new))
        named = sorted(new, key=lambda group_id: (-new[group_id], group_id))[:DIGEST_LINES]
        groups = session.scalars(select(ErrorGroup).where(ErrorGroup.id.in_(named)))
        lines = [
            Line(each.id, label(each.type, each.msg, each.domain), new[each.id], each.count)
            for each in sorted(groups, key=lambda each: named.index(each.id))
        ]
        key = f"digest-{clock.iso(now)}-{operations.new_id()}"
        errors = sum(new.values())
        body = {"errors": errors, "groups": len(new), "most": [_line_json(line) for line in lines]}
        _note(session, key, "digest", digest_text(lines, errors, len(new)), body)
        return key, len(new)


def _mark_told(session: Session, group_ids: Sequence[str]) -> None:
    for start in range(0, len(group_ids), UPDATED_AT_ONCE):
        some = ErrorGroup.id.in_(group_ids[start : start + UPDATED_AT_ONCE])
        told = update(ErrorGroup).where(some).values(undigested=0)
        session.execute(told, execution_options={"synchronize_session": False})


def digest_text(lines: Sequence[Line], errors: int, groups: int) -> str:
    """The text of a digest.

    Args:
        lines: the groups to name, ordered by their number of new errors, the highest first.
        errors: the number of new errors in all groups.
        groups: the number of groups.
    """
    text = [f"{plural(errors, 'error')} in {plural(groups, 'group')}:"]
    text += [f"{line.new:,} times {line.label} ({line.total:,} in all)" for line in lines]
    if groups > len(lines):
        text.append(f"and {plural(groups - len(lines), 'group')} more")
    return "\n".join(text)


def _line_json(line: Line) -> dict[str, Any]:
    return {"group": line.group_id, "what": line.label, "new": line.new, "total": line.total}


def label(error_type: str, msg: str, domain: str) -> str:
    """A group's description on one line."""
    shown = msg if len(msg) <= SHOWN_CHARACTERS else f"{msg[:SHOWN_CHARACTERS]}…"
    return f"{' '.join(error_type.split())}: {' '.join(shown.split())} on {domain or 'an unknown domain'}"


def _note(
    session: Session, key: str, kind: str, text: str, body: dict[str, Any], *, group_id: str | None = None
) -> None:
    """Write a notification and add its task, in the caller's transaction."""
    now = clock.SYSTEM.now()
    told = {"key": key, "kind": kind, "text": text, "created_at": clock.iso(now), **body}
    row = ErrorNotification(
        id=operations.new_id(),
        key=key,
        kind=kind,
        group_id=group_id,
        created_at=now,
        text=text,
        body=json.dumps(told, ensure_ascii=False),
    )
    session.add(row)
    session.flush()
    taskqueue.add(url=URL, params={"notification": row.id}, queue_name=QUEUE, transactional=True)


# --- sending ------------------------------------------------------------------------------


def send(notification_id: str) -> bool:
    """Write a notification to the log and post it to the webhook, unless that has already been done.

    Returns:
        False if nothing was left to do.

    Raises:
        WebhookError: the webhook did not accept it.
    """
    was_logged = _log(notification_id)
    with datastore.session(read_only=True) as session:
        notification = session.get(ErrorNotification, notification_id)
    webhook = os.environ.get(WEBHOOK_URL, "").strip()
    if notification is None or notification.sent_at is not None or not webhook:
        return was_logged
    problem = _post(webhook, notification)
    values = {"answer": problem} if problem else {"answer": "", "sent_at": clock.SYSTEM.now()}
    with datastore.session() as session:
        session.execute(
            update(ErrorNotification).where(ErrorNotification.id == notification_id).values(**values)
        )
    if problem:
        raise WebhookError(f"{WEBHOOK_URL} did not accept notification {notification.key}: {problem}")
    return True


def _log(notification_id: str) -> bool:
    """Write the notification to the log, unless it is already there; returns whether this call wrote it."""
    mine = update(ErrorNotification).where(
        ErrorNotification.id == notification_id, ErrorNotification.logged_at.is_(None)
    )
    told = mine.values(logged_at=clock.SYSTEM.now()).returning(ErrorNotification.key, ErrorNotification.text)
    with datastore.session() as session:
        found = session.execute(told).one_or_none()
        if found is not None:
            # Log before the commit, so that after a failed commit the line is logged twice rather than never.
            log.warning("%s [%s]", found.text, found.key)
    return found is not None


def _post(webhook: str, notification: ErrorNotification) -> str:
    """Post the notification; returns the problem, or "" if the webhook accepted it."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": notification.key}
    try:
        answer = urlfetch.fetch(
            webhook,
            payload=notification.body.encode(),
            method=urlfetch.POST,
            headers=headers,
            deadline=WEBHOOK_SECONDS,
            follow_redirects=False,
            allow_truncated=True,
            response_limit_bytes=MAX_ANSWER_BYTES,
        )
    except urlfetch.Error as error:
        return fetch_problem(error)[:SHOWN_CHARACTERS]
    return "" if 200 <= answer.status_code < 300 else f"the status was {answer.status_code}"


def recent(most: int = 20) -> list[ErrorNotification]:
    """The newest notifications, newest first."""
    query = select(ErrorNotification).order_by(ErrorNotification.created_at.desc()).limit(most)
    with datastore.session(read_only=True) as session:
        return list(session.scalars(query))


def waiting_count() -> int:
    """How many errors are not in a digest yet."""
    with datastore.session(read_only=True) as session:
        return int(session.scalar(select(func.sum(ErrorGroup.undigested))) or 0)
