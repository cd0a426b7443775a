"""How much the error collector takes in, and what becomes of the rest: it is refused, counted and shown.

An account may post so many reports an hour, and all reports together may have so many bytes. Posts that are
refused, for these or other reasons, are counted by the hour. A flood of them must cost little, so a process
remembers for a while that an account has no more, and writes its counts down once a second.
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
"""The environment variable: reports that an account may post in an hour."""
MAX_BYTES = "ERROR_MAX_BYTES"
"""The environment variable: bytes of all reports that are kept, of all accounts."""
DEFAULTS = {MAX_REPORTS: 10_000, MAX_BYTES: 1_000_000_000}
BOUNDS = {MAX_REPORTS: (1, 100_000_000), MAX_BYTES: (1_000_000, 10_000_000_000_000)}

OVERHEAD_BYTES = 1400
"""That a report counts for beside its texts: the rows and index entries that are made for it."""
HALF_PAGE_BYTES = 2048
"""SQLite leaves up to so much of a page empty for a row."""
ROOM_AGAIN_SECONDS = 60
"""Old reports are deleted once a day, by a cron job that makes room bit by bit."""
WRITE_SECONDS = 1.0
"""How long a count of refused posts is in this process only."""

ACCOUNT, FULL, SIZE, FIELDS, UNKNOWN = "reports", "bytes", "size", "fields", "account"
"""Why posts are refused: too many of an account, no room, a body too large, fields unusable, not listed."""

log = logging.getLogger("errors")


class RefusedError(Exception):
    """Raised when a report is not accepted now.

    Attributes:
        reason: ``reports`` or ``bytes``.
        seconds: until it may be.
    """

    def __init__(self, reason: str, seconds: int) -> None:
        super().__init__(reason, seconds)
        self.reason = reason
        self.seconds = seconds

    @property
    def message(self) -> str:
        """Which limit was met, and when to try again."""
        if self.reason == ACCOUNT:
            what = f"account has posted {limit(MAX_REPORTS):,} reports in this hour, which is the limit"
        else:
            what = (
                f"There is no room for more reports: {limit(MAX_BYTES):,} bytes are kept, which is the limit"
            )
        return f"{what}. Try again in {self.seconds:,} seconds."


def limit(variable: str) -> int:
    """What an environment variable limits to; its default where it is not set or cannot be used."""
    text = os.environ.get(variable, "").strip()
    lowest, highest = BOUNDS[variable]
    if not text:
        return DEFAULTS[variable]
    number = int(text) if re.fullmatch(r"[0-9]{1,14}", text, re.ASCII) else -1
    if lowest <= number <= highest:
        return number
    # No reason to lose the error that is being posted.
    log.error(
        "%s takes a whole number from %d to %d; %d is used", variable, lowest, highest, DEFAULTS[variable]
    )
    return DEFAULTS[variable]


def size_of(fields: Fields) -> int:
    """What a report counts for, in bytes: no less than it takes up if it makes a group and a notification."""
    texts = fields.texts
    sizes = {name: len(text.encode()) for name, text in texts.items()}
    keys, domain = len(fields.account.encode()), len(grouping.domain_of(texts["url"]).encode())
    # Account and uid are in an index, too.
    report = sum(sizes.values()) + 2 * (keys + len((fields.uid or "").encode()))
    # A mask has three bytes for each that it hides, at most.
    masked = min(3 * sizes["msg"], 4 * grouping.LONGEST_MSG)
    group = 2 * keys + sizes["type"] + sizes["server"] + masked + domain
    shown = len(texts["msg"][: notifying.SHOWN_CHARACTERS].encode())
    line = sizes["type"] + shown + domain
    # JSON has two bytes for a quotation mark.
    told = line + 2 * (line + keys + sizes["type"] + sizes["server"] + shown + domain)
    return OVERHEAD_BYTES + report + min(report, HALF_PAGE_BYTES) + 2 * group + told


# --- taking in ----------------------------------------------------------------------------

_full_until: dict[str, float] = {}
"""Account, "" for all of them → when it may post again, in seconds since the epoch."""


def require_room(account: str) -> None:
    """Refuse what was refused a moment ago, without asking the datastore.

    Raises:
        RefusedError: too much has come.
    """
    now = SYSTEM.now()
    for name, reason in ((account, ACCOUNT), ("", FULL)):
        until = _full_until.get(name, 0.0)
        if now < until:
            raise RefusedError(reason, _whole(until - now))
        _full_until.pop(name, None)


def count(session: Session, account: str, size: int) -> None:
    """Count a report in the transaction that writes it.

    Raises:
        RefusedError: too much has come; the transaction is to be rolled back.
    """
    now, dialect = SYSTEM.now(), session.get_bind().dialect.name
    hour = int(now // HOUR) * HOUR
    row = {"account": account, "hour": hour, "reports": 1, "bytes": 0, "max_reports": limit(MAX_REPORTS)}
    if session.scalar(statements.COUNT_FOR_ACCOUNT[dialect], row) is None:
        _full_until[account] = hour + HOUR
        raise RefusedError(ACCOUNT, _whole(hour + HOUR - now))
    total = {"account": "", "hour": 0, "reports": 0, "bytes": size, "max_bytes": limit(MAX_BYTES)}
    if session.scalar(statements.COUNT_BYTES[dialect], total) is None:
        # Not for as long as it says: room may be made at any moment.
        _full_until[""] = now + WRITE_SECONDS
        raise RefusedError(FULL, ROOM_AGAIN_SECONDS)


def _whole(seconds: float) -> int:
    return max(1, -int(-seconds // 1))


def delete_reports(before: float, max_rows: int) -> int:
    """Delete reports that came before this instant, and what they count for; how many went."""
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
    """What all reports count for that are kept."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(ErrorUsage.bytes).where(ErrorUsage.account == "")) or 0


# --- what is refused ----------------------------------------------------------------------

_lock = threading.Lock()
_pending: Counter[tuple[str, str]] = Counter()
_timer: threading.Timer | None = None


def note_refusal(reason: str, account: str = "") -> None:
    """Count a refused post; it is written down within a second.

    Args:
        reason: why.
        account: "" unless it has posted too much: anybody can make up others.
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
    """Write down, and log, how many posts were refused; if the datastore is unavailable, at a later time."""
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
    """(reason, account, how many) of the posts that were refused in the last seven days, most first."""
    total = func.sum(ErrorRefusal.count)
    query = select(ErrorRefusal.reason, ErrorRefusal.account, total)
    query = query.group_by(ErrorRefusal.reason, ErrorRefusal.account).order_by(total.desc()).limit(20)
    with datastore.session(read_only=True) as session:
        return [(reason, account, int(number)) for reason, account, number in session.execute(query)]


def in_words(reason: str, account: str) -> str:
    """Why posts were refused, for the page."""
    return {
        ACCOUNT: f"account {account} posted more than {limit(MAX_REPORTS):,} in an hour ({MAX_REPORTS})",
        FULL: f"there was no room: {limit(MAX_BYTES):,} bytes are kept at most ({MAX_BYTES})",
        SIZE: "the report was too large",
        FIELDS: "fields were missing or could not be used",
        UNKNOWN: "the account is not one of ERROR_ACCOUNTS",
    }.get(reason, reason)


datastore.before_dispose(write_refusals)
