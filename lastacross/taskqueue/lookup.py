"""One task looked up by its name: where it is in its life, in one call of Redis."""

from dataclasses import dataclass
from typing import Any, cast

from lastacross import store
from lastacross.store import record_key, translated_errors
from lastacross.taskqueue.record import task_id

_FIELDS = ("status", "eta", "failures", "lost", "dead_at", "error")


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What Redis knows of a task.

    Args:
        status: RQ's word: ``queued``, ``scheduled``, ``started``, ``failed`` (a dead letter), ``deferred``.
        eta: the earliest instant of its next, or of its running, attempt, in seconds since the epoch.
        failures: attempts that ended with an answer outside 200-299, an exception or a deadline.
        lost: attempts whose worker ended while they ran.
        error: why it is a dead letter, '' if it is none.
    """

    status: str
    eta: float
    failures: int
    lost: int
    error: str = ""

    @property
    def is_dead(self) -> bool:
        """Whether its retries are used up: nobody runs it again but by hand."""
        return self.status == "failed"

    @property
    def waits(self) -> bool:
        """Whether it is ready or scheduled."""
        return self.status in ("queued", "scheduled")


def find(queue_name: str, name: str) -> TaskRecord | None:
    """The task of this name in a queue; None when there is none: it is done, deleted, purged or lost.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    with translated_errors():
        redis = store.current().redis
        values = redis.hmget(record_key(task_id(queue_name, name)), _FIELDS)
    status, eta, failures, lost, dead_at, error = cast("list[Any]", values)
    if status is None or eta is None:
        return None
    text = status.decode()
    if text == "failed" and dead_at is None:
        # Another RQ tool took it for failed: a sweep puts it back.
        text = "queued"
    return TaskRecord(
        text,
        float(eta),
        int(failures or 0),
        int(lost or 0),
        error.decode("utf-8", "replace") if error else "",
    )
