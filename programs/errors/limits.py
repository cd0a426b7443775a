"""Limits how many errors the collector accepts, and counts the refused posts.

One limit applies to the reports per account and hour, and another to the total size of all reports. Refused
posts are counted by the hour, whatever the reason. Refusing a flood of posts must be cheap, so each process
remembers for a while which accounts have reached their limit, and stores its counts once a second.
"""

import logging
import os
import re
import threading
from collections import Counter

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from lastacross import datastore, errors
from lastacross.clock import SYSTEM
from programs.errors import grouping, notifying, statements
from programs.errors.fields import Fields
from programs.errors.models import HOUR, ErrorRefusal, ErrorReport, ErrorUsage

MAX_REPORTS = "ERROR_MAX_REPORTS"
"""The environment variable: how many reports an account may post per hour."""
MAX_BYTES = "ERROR_MAX_BYTES"
"""The environment variable: the maximum number of bytes of all accounts' kept reports together."""
DEFAULTS = {MAX_REPORTS: 10_000, MAX_BYTES: 1_000_000_000}
BOUNDS = {MAX_REPORTS: (1, 100_000_000), MAX_BYTES: (1_000_000, 10_000_000_000_000)}

OVERHEAD_BYTES = 1400
"""The size counted per report in addition to its text, for its rows and index entries."""
HALF_PAGE_BYTES = 2048
"""SQLite may leave this much of a page empty for a row."""
ROOM_AGAIN_SECONDS = 60
"""The retry delay when storage is full. A daily cron job deletes old reports and gradually makes room."""
WRITE_SECONDS = 1.0
"""How long counts of refused posts stay in this process before they are stored."""

ACCOUNT, FULL, SIZE, FIELDS, UNKNOWN = "reports", "bytes", "size", "fields", "account"
"""Reasons for a refusal: account limit, storage limit, body too large, invalid fields, unknown account."""

log = logging.getLogger("errors")


class RefusedError(Exception):
    """Raised when a report cannot be accepted at the moment.

    Attributes:
        reason: ``reports`` or ``bytes``.
        seconds: how long the sender should wait before the next attempt.
    """

    def __init__(self, reason: str, seconds: int) -> None:
        super().__init__(reason, seconds)
        self.reason = reason
        self.seconds = seconds

    @property
    def message(self) -> str:
        """A message that names the limit and says when to try again."""
        if self.reason == ACCOUNT:
            what = f"account has posted {limit(MAX_REPORTS):,} reports in this hour, which is the limit"
        else:
            what = (
                f"There is no room for more reports: {limit(MAX_BYTES):,} bytes are kept, which is the limit"
            )
        return f"{what}. Try again in {self.seconds:,} seconds."


def limit(variable: str) -> int:
    """The limit in an environment variable, or the default if the variable is unset or invalid."""
    text = os.environ.get(variable, "").strip()
    lowest, highest = BOUNDS[variable]
    if not text:
        return DEFAULTS[variable]
    number = int(text) if re.fullmatch(r"[0-9]{1,14}", text, re.ASCII) else -1
    if lowest <= number <= highest:
        return number
    # The posted error must not be lost because of a wrong setting.
    log.error(
        "%s must be a whole number from %d to %d; %d is used", variable, lowest, highest, DEFAULTS[variable]
    )
    return DEFAULTS[variable]


def size_of(fields: Fields) -> int:
    """The bytes counted for a report: at least its real size, including a group and a notification."""
    texts = fields.texts
    sizes = {name: len(text.encode()) for name, text in texts.items()}
    keys, domain = len(fields.account.encode()), len(grouping.domain_of(texts["url"]).encode())
    # The account and the uid are also stored in an index.
    report = sum(sizes.values()) + 2 * (keys + len((fields.uid or "").encode()))
    # A mask has at most three bytes for each byte that it replaces.
    masked = min(3 * sizes["msg"], 4 * grouping.MAX_MSG_LENGTH)
    group = 2 * keys + sizes["type"] + sizes["server"] + masked + domain
    shown = len(texts["msg"][: notifying.SHOWN_CHARACTERS].encode())
    line = sizes["type"] + shown + domain
    # In JSON, an escaped quotation mark takes two bytes.
    told = line + 2 * (line + keys + sizes["type"] + sizes["server"] + shown + domain)
    return OVERHEAD_BYTES + report + min(report, HALF_PAGE_BYTES) + 2 * group + told


# --- intake -------------------------------------------------------------------------------

_full_until: dict[str, float] = {}
"""Account ("" for all) → when it may post again, in seconds since the epoch."""


def require_room(account: str) -> None:
    """Refuse an account that was refused a moment ago, without querying the datastore.

    Raises:
        RefusedError: the limit is reached.
    """
    now = SYSTEM.now()
    for name, reason in ((account, ACCOUNT), ("", FULL)):
        until = _full_until.get(name, 0.0)
        if now < until:
            raise RefusedError(reason, _whole(until - now))
        _full_until.pop(name, None)


def count(session: Session, account: str, size: int) -> None:
    """Count a report, in the transaction that stores it.

    Raises:
        RefusedError: the limit is reached; the caller must roll the transaction back.
    """
    now, dialect = SYSTEM.now(), session.get_bind().dialect.name
    hour = int(now // HOUR) * HOUR
    row = {"account": account, "hour": hour, "reports": 1, "bytes": 0, "max_reports": limit(MAX_REPORTS)}
    if session.scalar(statements.COUNT_FOR_ACCOUNT[dialect], row) is None:
        _full_until[account] = hour + HOUR
        raise RefusedError(ACCOUNT, _whole(hour + HOUR - now))
    total = {"account": "", "hour": 0, "reports": 0, "bytes": size, "max_bytes": limit(MAX_BYTES)}
    if session.scalar(statements.COUNT_BYTES[dialect], total) is None:
        # This is shorter than the delay in the response, because space may be freed at any moment.
        _full_until[""] = now + WRITE_SECONDS
        raise RefusedError(FULL, ROOM_AGAIN_SECONDS)


def _whole(seconds: float) -> int:
    return max(1, -int(-seconds // 1))


def delete_reports(before: float, max_rows: int) -> int:
    """Delete reports received before this time, and subtract their sizes; returns how many were deleted."""
    old = select(ErrorReport.id).where(ErrorReport.received_at < before)
    old = old.limit(max_rows).with_for_update(skip_locked=True)
    quietly = {"synchronize_session": False}
    gone = delete(ErrorReport).where(ErrorReport.id.in_(old), ErrorReport.received_at < before)
    with datastore.session() as session:
        sizes = session.scalars(gone.returning(ErrorReport.size), execution_options=quietly).all()
        if freed := sum(size for size in sizes if size is not None):
            total = update(ErrorUsage).where(ErrorUsage.account == "")
            session.execute(total.values(bytes=ErrorUsage.bytes - freed), execution_options=quietly)
    return len(sizes)


def kept_bytes() -> int:
    """The total size of all kept reports, according to the counter."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(ErrorUsage.bytes).where(ErrorUsage.account == "")) or 0


# --- refusals -----------------------------------------------------------------------------

_lock = threading.Lock()
_pending: Counter[tuple[str, str]] = Counter()
_timer: threading.Timer | None = None


def note_refusal(reason: str, account: str = "") -> None:
    """Count a refused post. The count is stored within a second.

    Args:
        reason: the reason why the post was refused.
        account: the account if it posted too much, otherwise "", because anybody can invent other names.
    """
    with _lock:
        _pending[reason, account] += 1
        _write_soon()


def _write_soon() -> None:
    global _timer
    if _timer is None:
        _timer = threading.Timer(WRITE_SECONDS, write_refusals)
        _timer.daemon = True
        _timer.start()


def write_refusals() -> None:
    """Store and log the counts of refused posts. If the datastore is unavailable, a later call does it."""
    global _timer, _pending
    with _lock:
        pending, _pending, _timer = _pending, Counter(), None
    if not pending:
        return
    hour = int(SYSTEM.now() // HOUR) * HOUR
    try:
        with datastore.session() as session:
            statement = statements.COUNT_REFUSALS[session.get_bind().dialect.name]
            for (reason, account), number in sorted(pending.items()):
                row = {"hour": hour, "reason": reason, "account": account, "count": number}
                session.execute(statement, row)
    except errors.Error as error:
        log.warning("errors.refusals_unwritten", extra={"problem": str(error)})
        with _lock:
            _pending.update(pending)
            _write_soon()
        return
    for (reason, account), number in sorted(pending.items()):
        log.warning("errors.refused", extra={"reason": reason, "account": account, "count": number})


def refused() -> list[tuple[str, str, int]]:
    """The posts refused in the last seven days as (reason, account, count), the highest count first."""
    total = func.sum(ErrorRefusal.count)
    query = select(ErrorRefusal.reason, ErrorRefusal.account, total)
    query = query.group_by(ErrorRefusal.reason, ErrorRefusal.account).order_by(total.desc()).limit(20)
    with datastore.session(read_only=True) as session:
        return [(reason, account, int(number)) for reason, account, number in session.execute(query)]


def in_words(reason: str, account: str) -> str:
    """The reason why posts were refused, in words for the page."""
    return {
        ACCOUNT: f"account {account} posted more than {limit(MAX_REPORTS):,} in an hour ({MAX_REPORTS})",
        FULL: f"there was no room: at most {limit(MAX_BYTES):,} bytes are kept ({MAX_BYTES})",
        SIZE: "the report was too large",
        FIELDS: "fields were missing or invalid",
        UNKNOWN: "the account is not one of ERROR_ACCOUNTS",
    }.get(reason, reason)


datastore.before_dispose(write_refusals)
