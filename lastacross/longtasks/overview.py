"""Lists all visitors' long tasks and cancels one, for the operator."""

from collections.abc import Sequence

from sqlalchemy import select

from lastacross import datastore
from lastacross.datastore import OPEN_STATUSES, LongTask
from lastacross.longtasks import looking, model, progress, starting
from lastacross.longtasks.view import View

STATES = ("open", "done", "failed", "cancelled")
# This bounds the work of the script that reads the tasks' records, because Redis serves nobody else while the
# script runs.
_CHUNK = 100


def views(state: str = "", limit: int = 100) -> list[View]:
    """Return views of all visitors' newest long tasks, newest first.

    Args:
        state: one of ``STATES``, or '' for both open and finished tasks.
        limit: the maximum number of open tasks, and also of finished ones.

    Raises:
        DatastoreError: the database is unavailable.
    """
    ids: list[str] = []
    if state in ("", "open"):
        ids += _ids(OPEN_STATUSES, limit)
    if state != "open":
        ids += _ids((state,) if state else STATES[1:], limit)
    ids = list(dict.fromkeys(ids))
    found = [
        view for start in range(0, len(ids), _CHUNK) for view in looking.views_of(ids[start : start + _CHUNK])
    ]
    return sorted(found, key=lambda view: -view.created_at)


def _ids(statuses: Sequence[str], limit: int) -> list[str]:
    # The index has the time of expiry, which follows the time of creation closely enough.
    query = select(LongTask.id).where(LongTask.expired_at.is_(None), LongTask.status.in_(statuses))
    with datastore.session(read_only=True) as session:
        return list(session.scalars(query.order_by(LongTask.expires_at.desc()).limit(limit)))


def cancel(task_id: str) -> View | None:
    """Cancel a long task unless it is over, and return its view; None if there is no such task.

    Raises:
        DatastoreError, StoreUnavailableError: a service is unavailable.
    """
    task = model.find(task_id) if model.is_id(task_id) else None
    if task is None or task.expired_at is not None:
        return None
    if starting.cancel(task):
        progress.announce(task.id, "cancelled")
    return looking.view_of(model.find(task.id) or task)


def find(task_id: str) -> View | None:
    """Return the view of a long task; None if there is none.

    Raises:
        DatastoreError: the database is unavailable.
    """
    return next(iter(looking.views_of([task_id])), None) if model.is_id(task_id) else None
