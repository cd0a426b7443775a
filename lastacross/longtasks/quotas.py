"""Limits on an application's long tasks: open tasks and stored bytes, both counted in the datastore.

The total of stored bytes is kept in a separate row. Each transaction that stores or deletes bytes updates the
total, so no start has to sum a million rows. The update locks that row until the commit. A start updates it
last to keep the lock short, and counts the open tasks under the lock, so it sees every concurrent start.

A single network cannot exhaust either limit. The first half of each limit is open to everybody. In the
second half, each network may use an eighth of the limit, which ``start_limits`` counts in Redis. Therefore,
while there is room, visitors who share an address are not limited and no data is stored about anyone.
Results are charged when they are stored, because their size is unknown when a task starts. Exact accounting
would need an address in each row, and each start would have to sum its network's rows.
"""

import contextlib
import math

from sqlalchemy import bindparam, func, literal, select, text
from sqlalchemy.orm import Session

from lastacross import config, datastore, start_limits
from lastacross.datastore import OPEN_STATUSES, LongTask, LongTaskUsage
from lastacross.errors import DatastoreError, StartRefusedError

ROW_BYTES = 1_000
"""The bytes charged per task in addition to its content, because even empty tasks take up space."""

OPEN_RETRY_SECONDS = 30.0
BYTES_RETRY_SECONDS = 3_600.0

SHARED_FROM = 2
"""A divisor: beyond 1/2 of a limit, each network has only its share."""
SHARE = 8
"""A divisor: each network's share of a limit is 1/8 of it."""
TASKS_SHARE_SECONDS = 86_400
"""The period over which a network's starts count against its share. For bytes, it is the retention time."""

_ONLY = 1
# These statements are built once, because each start runs them. Counting open tasks stops at the limit.
_OPEN = select(literal(1)).select_from(LongTask).where(LongTask.status.in_(OPEN_STATUSES))
_COUNT_OPEN = select(func.count()).select_from(_OPEN.limit(bindparam("limit")).subquery())
_STORED = select(LongTaskUsage.stored_bytes).where(LongTaskUsage.id == _ONLY)
_USAGE = select(_STORED.scalar_subquery(), _COUNT_OPEN.scalar_subquery())
# Written as text, because SQLite and PostgreSQL share the syntax but need different SQLAlchemy functions.
_ADD = text(
    "INSERT INTO lastacross_long_task_usage (id, stored_bytes) VALUES (:id, :size) "
    "ON CONFLICT (id) DO UPDATE "
    "SET stored_bytes = lastacross_long_task_usage.stored_bytes + excluded.stored_bytes "
    "RETURNING stored_bytes"
)


def check(size: int, network: str) -> None:
    """Refuse a start for which there is no room, before any data is written for it.

    Args:
        size: the number of bytes that the task would store.
        network: the network that starts the task; '' if unknown or shared by all clients.

    Raises:
        StartRefusedError: too many tasks are open or too many bytes are stored, in total or by this network.
    """
    settings = config.current().settings
    with datastore.session(read_only=True) as session:
        stored, tasks = session.execute(_USAGE, {"limit": settings.open_longtasks}).one()
    if (stored or 0) + size > settings.longtask_bytes:
        raise _too_much_is_stored()
    if tasks >= settings.open_longtasks:
        raise _too_many_are_open()
    if not network:
        return
    # Check both limits before counting, so that a refused start does not use up either of them.
    for is_counted in (False, True):
        if tasks * SHARED_FROM >= settings.open_longtasks and not _may_open(network, is_counted):
            raise _share_is_used("LASTACROSS_OPEN_LONGTASKS", OPEN_RETRY_SECONDS)
        if _is_shared((stored or 0) + size) and not _spend_bytes(network, size, is_counted=is_counted):
            raise _share_is_used("LASTACROSS_LONGTASK_BYTES", BYTES_RETRY_SECONDS)


def count_end(size: int, network: str) -> None:
    """Charge the bytes stored at a task's end to the network that started it, even beyond its share.

    Args:
        size: the size of the result or of the error messages, in bytes.
        network: the network, as in ``check``.
    """
    if not network or size < ROW_BYTES:
        # The start has already counted this many bytes. Most results are smaller and need no query.
        return
    # The result is already stored, so a failed count must not make the task run again.
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
    """Count a task that the transaction has just written, and refuse it if there is no room.

    Args:
        session: the transaction's session; the caller should not write to it after this call.
        size: the number of bytes that the task stores.
        is_exempt: whether to count the task without ever refusing it.

    Raises:
        StartRefusedError: too many tasks are open, or too many bytes are stored.
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
    """Add the bytes that the transaction stores (negative if it deletes some) and return the new total."""
    return int(session.execute(_ADD, {"id": _ONLY, "size": size}).scalar_one())


def recount() -> int:
    """Sum the stored bytes again, in case rows were deleted by hand, and return the difference."""
    with datastore.session() as session:
        # Lock first and sum in a separate statement, so that the sum includes all bytes counted before.
        counted = add(session, 0)
        stored = select(func.sum(LongTask.stored_bytes)).where(LongTask.expired_at.is_(None))
        total = session.scalar(stored) or 0
        # SQLite stores any value in any column, so a damaged row may make the sum infinite or NaN.
        difference = int(total) - counted if math.isfinite(total) else 0
        if difference:
            add(session, difference)
        return difference


def _share_is_used(setting: str, retry_seconds: float) -> StartRefusedError:
    message = (
        f"Long tasks use more than half of their limit ({setting}). The rest is shared, and your network "
        "has used its share."
    )
    return StartRefusedError(429, message, retry_seconds)


def _too_many_are_open() -> StartRefusedError:
    limit = config.current().settings.open_longtasks
    message = f"{limit:,} long tasks are waiting or running, which is the limit (LASTACROSS_OPEN_LONGTASKS)."
    return StartRefusedError(503, message, OPEN_RETRY_SECONDS)


def _too_much_is_stored() -> StartRefusedError:
    limit = config.current().settings.longtask_bytes
    message = (
        f"There is no room for this task: long tasks may store at most {limit:,} bytes "
        "(LASTACROSS_LONGTASK_BYTES)."
    )
    return StartRefusedError(503, message, BYTES_RETRY_SECONDS)
