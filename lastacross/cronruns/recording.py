"""What a worker says of a run: how an attempt ended, and whether it was the last."""

from lastacross import logs
from lastacross.broker import Leased
from lastacross.config import CRON_QUEUE
from lastacross.cronruns import model
from lastacross.errors import DatastoreError

LONGEST_ERROR = 2000

_log = logs.get("lastacross.cron")


def note(task: Leased, at: float, state: str, *, status: int | None = None, reason: str = "") -> None:
    """Write into the history what became of an attempt, if the task is a run of cron; never raises.

    What cannot be written now the scheduler finds out by itself: the task is gone.

    Args:
        task: after Redis was told.
        at: the end of the attempt, seconds since the epoch.
        state: ``done``, ``failed``, or ``open`` when another attempt will be made.
        status: of the answer.
        reason: why it failed.
    """
    if task.queue != CRON_QUEUE:
        return
    error = reason[:LONGEST_ERROR].replace("\0", "�")
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
