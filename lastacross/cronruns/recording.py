"""The worker's part of a run, which records how an attempt ended and whether it was the last."""

from lastacross import logs
from lastacross.broker import Leased
from lastacross.config import CRON_QUEUE
from lastacross.cronruns import model
from lastacross.errors import DatastoreError

MAX_ERROR_CHARACTERS = 2000

_log = logs.get("lastacross.cron")


def note(task: Leased, at: float, state: str, *, status: int | None = None, reason: str = "") -> None:
    """Record an attempt in the history if its task is a cron run, without ever raising an error.

    If recording fails, the scheduler later notices that the task no longer exists.

    Args:
        task: the task, after its outcome has been written to Redis.
        at: the end of the attempt, in seconds since the epoch.
        state: ``done``, ``failed``, or ``open`` if the attempt will be retried.
        status: the HTTP status.
        reason: the reason for the failure.
    """
    if task.queue != CRON_QUEUE:
        return
    # No database accepts a lone surrogate, which an exception may quote.
    error = reason[:MAX_ERROR_CHARACTERS].replace("\0", "�").encode("utf-8", "replace").decode()
    try:
        attempts = task.failures + task.lost + 1
        started_at = task.first_try_at
        if state == "open":
            model.note_attempt(
                task.name, started_at=started_at, attempts=attempts, status=status, error=error
            )
            return
        values = {"started_at": started_at, "attempts": attempts, "status": status, "error": error or None}
        model.end(task.name, at, state, **values)
    except DatastoreError as failure:
        _log.warning("cron.note", task=task.name, error=str(failure))
    except Exception:
        _log.exception("cron.note", task=task.name)
