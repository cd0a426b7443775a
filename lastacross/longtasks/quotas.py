"""How much the long tasks of an application may hold: open ones, and stored bytes; counted in the datastore.

The stored bytes are one number in a row of its own, changed in the transaction that stores or drops them, so
no start has to sum up a million rows. The change locks the row until the commit. A start makes it last, so
that the lock is short, and counts the open tasks under it, so that no concurrent start is overlooked.

One network cannot use either limit up. The first half of each is everybody's. Of the second half a network
has an eighth of the limit, which ``start_limits`` counts in Redis from there on: as long as there is room, a
site whose visitors share one address is not limited, nothing more is asked and nothing is kept of anybody.
Results count as well, whose size nobody knows when a task is started. To know exactly who holds what, each
row would need an address, and each start a sum over its network's rows.
"""

import contextlib
import math

from sqlalchemy import bindparam, func, literal, select, text
from sqlalchemy.orm import Session

from lastacross import config, datastore, start_limits
from lastacross.datastore import OPEN_STATUSES, LongTask, LongTaskUsage
from lastacross.errors import DatastoreError, StartRefusedError

ROW_BYTES = 1_000
"""That each task counts for beside what comes with it: a million empty ones are something, too."""

OPEN_RETRY_SECONDS = 30.0
BYTES_RETRY_SECONDS = 3_600.0

SHARED_FROM = 2
"""From this part of a limit on, a half, each network has a share."""
SHARE = 8
"""The part of a limit that it has from there on, an eighth."""
TASKS_SHARE_SECONDS = 86_400
"""In this time: open tasks come to their end. The bytes' time is that for which they are kept."""

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


def check(size: int, network: str) -> None:
    """Refuse a start that has no room, before anything is written for it.

    Args:
        size: bytes that it would store.
        network: of who starts it; '': nobody knows, or it is everybody's.

    Raises:
        StartRefusedError: too many tasks are open, or too much is stored, by all or by the network.
    """
    settings = config.current().settings
    with datastore.session(read_only=True) as session:
        stored, tasks = session.execute(_LOOK, {"limit": settings.open_longtasks}).one()
    if (stored or 0) + size > settings.longtask_bytes:
        raise _too_much_is_stored()
    if tasks >= settings.open_longtasks:
        raise _too_many_are_open()
    if not network:
        return
    # Both are asked before one is counted: what is refused uses nothing up.
    for is_counted in (False, True):
        if tasks * SHARED_FROM >= settings.open_longtasks and not _may_open(network, is_counted):
            raise _share_is_used("LASTACROSS_OPEN_LONGTASKS", OPEN_RETRY_SECONDS)
        if _is_shared((stored or 0) + size) and not _spend_bytes(network, size, is_counted=is_counted):
            raise _share_is_used("LASTACROSS_LONGTASK_BYTES", BYTES_RETRY_SECONDS)


def count_end(size: int, network: str) -> None:
    """Count what the end of a task has stored for the network that started it; never refused.

    Args:
        size: bytes of the result, or of the failure.
        network: as for ``check``.
    """
    if not network or size < ROW_BYTES:
        # So much was counted at the start. Most results are shorter: the datastore is not asked for each.
        return
    # The result is there: its task must not run again because it is not counted.
    with contextlib.suppress(DatastoreError):
        with datastore.session(read_only=True) as session:
            stored = session.scalar(_STORED) or 0
        if _is_shared(stored):
            _spend_bytes(network, size, is_forced=True)


def _is_shared(stored: int) -> bool:
    return stored * SHARED_FROM > config.current().settings.longtask_bytes


def _may_open(network: str, is_counted: bool) -> bool:
    most = config.current().settings.open_longtasks // SHARE
    return start_limits.spend(
        "longtasks-open", network, 1, most=most, seconds=TASKS_SHARE_SECONDS, is_counted=is_counted
    )


def _spend_bytes(network: str, size: int, *, is_forced: bool = False, is_counted: bool = True) -> bool:
    settings = config.current().settings
    return start_limits.spend(
        "longtasks-bytes",
        network,
        size,
        most=settings.longtask_bytes // SHARE,
        seconds=settings.longtask_seconds,
        is_forced=is_forced,
        is_counted=is_counted,
    )


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


def _share_is_used(setting: str, retry_seconds: float) -> StartRefusedError:
    message = (
        f"Long tasks hold more than half of what they may ({setting}). The rest is shared, and your network "
        "has used its part."
    )
    return StartRefusedError(429, message, retry_seconds)


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
