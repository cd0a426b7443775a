"""How much the long tasks of an application may hold: open ones, and stored bytes; counted in the datastore.

The stored bytes are one number in a row of its own, changed in the transaction that stores or drops them, so
no start has to sum up a million rows. The change locks the row until the commit. A start makes it last, so
that the lock is short, and counts the open tasks under it, so that no concurrent start is overlooked.
"""

import math

from sqlalchemy import bindparam, func, literal, select, text
from sqlalchemy.orm import Session

from lastacross import config, datastore
from lastacross.datastore.tables import OPEN_STATUSES, LongTask, LongTaskUsage
from lastacross.errors import StartRefusedError

ROW_BYTES = 1_000
"""That each task counts for beside what comes with it: a million empty ones are something, too."""

OPEN_RETRY_SECONDS = 30.0
BYTES_RETRY_SECONDS = 3_600.0

_ONLY = 1
# Built once: each start asks them. Open tasks are counted no further than the limit needs.
_OPEN = select(literal(1)).select_from(LongTask).where(LongTask.status.in_(OPEN_STATUSES))
_COUNT_OPEN = select(func.count()).select_from(_OPEN.limit(bindparam("limit")).subquery())
_STORED = select(LongTaskUsage.stored_bytes).where(LongTaskUsage.id == _ONLY)
_LOOK = select(_STORED.scalar_subquery(), _COUNT_OPEN.scalar_subquery())
# As text: SQLite and PostgreSQL have the same words for it, SQLAlchemy has a function for each of them.
_ADD = text(
    "INSERT INTO lastacross_long_task_usage (id, stored_bytes) VALUES (:id, :size) "
    "ON CONFLICT (id) DO UPDATE "
    "SET stored_bytes = lastacross_long_task_usage.stored_bytes + excluded.stored_bytes "
    "RETURNING stored_bytes"
)


def check(size: int) -> None:
    """Refuse a start that has no room, before anything is written for it.

    Args:
        size: bytes that it would store.

    Raises:
        StartRefusedError: too many tasks are open, or too much is stored.
    """
    settings = config.current().settings
    with datastore.session(read_only=True) as session:
        stored, tasks = session.execute(_LOOK, {"limit": settings.open_longtasks}).one()
    if (stored or 0) + size > settings.longtask_bytes:
        raise _too_much_is_stored()
    if tasks >= settings.open_longtasks:
        raise _too_many_are_open()


def charge(session: Session, size: int, *, is_exempt: bool) -> None:
    """Count a task that the transaction has just written, and refuse it if there is no room for it.

    Args:
        session: of the transaction; nothing should be written after this.
        size: bytes that it stores.
        is_exempt: it is counted, and not refused.

    Raises:
        StartRefusedError: too many tasks are open, or too much is stored.
    """
    settings = config.current().settings
    if add(session, size) > settings.longtask_bytes and not is_exempt:
        raise _too_much_is_stored()
    if is_exempt:
        return
    tasks = session.scalar(_COUNT_OPEN, {"limit": settings.open_longtasks + 1}) or 0
    if tasks > settings.open_longtasks:
        raise _too_many_are_open()


def add(session: Session, size: int) -> int:
    """Count bytes that the transaction stores, or has dropped if they are negative; returns the new total."""
    return int(session.execute(_ADD, {"id": _ONLY, "size": size}).scalar_one())


def recount() -> int:
    """Sum up what is stored, in case somebody has deleted rows by hand; returns the difference."""
    with datastore.session() as session:
        # The lock first, and the sum in a statement of its own: it sees whatever was counted before.
        counted = add(session, 0)
        stored = select(func.sum(LongTask.stored_bytes)).where(LongTask.expired_at.is_(None))
        total = session.scalar(stored) or 0
        # SQLite keeps whatever was written into a column: a damaged row may make the sum infinite, or NaN.
        difference = int(total) - counted if math.isfinite(total) else 0
        if difference:
            add(session, difference)
        return difference


def _too_many_are_open() -> StartRefusedError:
    limit = config.current().settings.open_longtasks
    message = f"At most {limit:,} long tasks may wait or run (LASTACROSS_OPEN_LONGTASKS), and as many do."
    return StartRefusedError(503, message, OPEN_RETRY_SECONDS)


def _too_much_is_stored() -> StartRefusedError:
    limit = config.current().settings.longtask_bytes
    message = (
        f"Long tasks may store {limit:,} bytes (LASTACROSS_LONGTASK_BYTES): there is no room for this one."
    )
    return StartRefusedError(503, message, BYTES_RETRY_SECONDS)
