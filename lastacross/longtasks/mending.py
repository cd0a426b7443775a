"""Repairs long tasks' rows that another program has made unreadable, and marks these tasks as failed.

SQLite stores any value in any column. A bad row must not break a page that shows many tasks, or keep other
rows from expiring.
"""

from typing import Any

from sqlalchemy import update
from sqlalchemy.orm.attributes import set_committed_value

from lastacross import clock, datastore, logs
from lastacross.datastore import OPEN_STATUSES, LongTask

MAX_NUMBER = 253_402_300_800.0
"""The end of the year 9999 in seconds since the epoch; no count is this high."""
KEPT_SECONDS = 86_400.0
"""The retention period of a task whose own retention period is unreadable."""

_STATUSES = (*OPEN_STATUSES, "done", "failed", "cancelled")
_COUNTS = ("attempts", "failures", "delivery", "result_size")
_INSTANTS = ("created_at", "expires_at")
_OPTIONAL_INSTANTS = ("started_at", "attempted_at", "finished_at", "next_try_at", "expired_at")
_TEXTS = {"path": "/", "method": "GET", "title": "A damaged task", "queue_name": "default", "given": "[]"}
_OPTIONAL_TEXTS = ("task_name", "error", "result_kind", "claim", "join_key")

_log = logs.get("lastacross.longtask")


def repaired(task: LongTask) -> LongTask:
    """Return the task, with its row repaired if it was damaged; in that case, an open task fails."""
    now = clock.SYSTEM.now()
    stand_ins = _stand_ins(task, now)
    if not stand_ins:
        return task
    columns = ", ".join(sorted(stand_ins))
    if task.status not in ("done", "cancelled"):
        stand_ins |= {"status": "failed", "claim": None, "join_key": None, "next_try_at": None}
        stand_ins["error"] = f"Its row in the datastore was damaged ({columns}). Start it again."
        stand_ins |= {"finished_at": now, "expires_at": now + KEPT_SECONDS}
    _log.error("longtask.damaged", longtask=task.id, columns=columns, status=stand_ins.get("status"))
    with datastore.session() as session:
        session.execute(update(LongTask).where(LongTask.id == task.id).values(**stand_ins))
    for name, value in stand_ins.items():
        set_committed_value(task, name, value)
    return task


def _stand_ins(task: LongTask, now: float) -> dict[str, Any]:
    """Return replacement values for the unreadable columns."""
    found: dict[str, Any] = {name: 0 for name in _COUNTS if not _is_number(getattr(task, name))}
    found |= {name: now for name in _INSTANTS if not _is_number(getattr(task, name))}
    if not _is_number(task.expires_seconds):
        found["expires_seconds"] = KEPT_SECONDS
    for name in _OPTIONAL_INSTANTS:
        value = getattr(task, name)
        if value is not None and not _is_number(value):
            found[name] = None
    for name, stand_in in _TEXTS.items():
        if not isinstance(getattr(task, name), str):
            found[name] = stand_in
    for name in _OPTIONAL_TEXTS:
        if not isinstance(getattr(task, name), str | None):
            found[name] = None
    if task.status not in _STATUSES:
        found["status"] = "failed"
    return found


def _is_number(value: object) -> bool:
    # NaN fails every comparison.
    return isinstance(value, int | float) and 0 <= value <= MAX_NUMBER
